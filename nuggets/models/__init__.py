"""From a model's name to what can score or embed: files, weights, tokenizer, prompts.

Nothing here computes a log-probability; that is `engine`.
"""
