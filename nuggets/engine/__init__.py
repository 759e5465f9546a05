"""The scoring engine: token ids in, summed log-probabilities out.

It knows no files, no tokenizer, no store and no Prefect.
"""
