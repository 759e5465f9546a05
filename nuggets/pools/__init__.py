"""A pool in the store: read row by row, deduplicated, and laid down in shards.

Nothing here knows models or scores.
"""
