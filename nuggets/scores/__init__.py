"""From cells and baseline to golden scores, ranking and selection: the rules of the method.

Wins, bounds, cuts and order are decided here and nowhere else. Nothing here loads a model or plans what to compute.
"""
