"""Stored cells: blocks that are verified when read, and joined without loss.

Nothing here knows what a cell is compared with; a win is decided in `scores`.
"""
