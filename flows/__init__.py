"""Flows: order, fan-out and parameters; and the nuggets command line."""
