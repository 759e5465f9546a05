"""A run in the store: its manifest, its state, and the record that its tasks share.

Nothing here computes; runs refer to cells, embeddings and anchor sets and do not own them.
"""
