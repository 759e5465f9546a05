"""Models: their files, weights, tokenizers and prompts, found and loaded by the name that the user gives.

Nothing here computes a log-probability; that is `engine`.
"""
