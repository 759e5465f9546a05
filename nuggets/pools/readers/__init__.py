"""Pools of all formats, read row by row: each row is an example, or a reject with its reason.

One file per format. Nothing here writes to a store.
"""
