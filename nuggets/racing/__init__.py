"""Which cells to compute next, so that a cut is decided with few of them.

Pure, except that work lists are written to the store. A score, a cut or a win is decided in `scores`, not here.
"""
