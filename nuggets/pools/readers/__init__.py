"""Pools in the formats that people keep them in, read row by row: an example, or a reject with its reason.

One file per format. Nothing here writes to a store.
"""
