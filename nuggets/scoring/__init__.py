"""The scoring engine: token ids in, summed log-probabilities out. It knows no files, no tokenizer and no Prefect."""

from nuggets.scoring.door import Continuation, LanguageModel
from nuggets.scoring.engine import open_engine

__all__ = ["Continuation", "LanguageModel", "open_engine"]
