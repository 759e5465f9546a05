"""The scoring engine: token ids in, summed log-probabilities out. It knows no files, no tokenizer and no Prefect.

`door` says what goes in and comes out, `engine.open_engine` gives a transformers model that door. The door imports
without torch, so that what only reads stored cells starts in a moment.
"""
