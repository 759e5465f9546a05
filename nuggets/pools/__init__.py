"""A pool in the store: read row by row, deduplicated, and written in shards.

Nothing here knows models or scores.
"""
