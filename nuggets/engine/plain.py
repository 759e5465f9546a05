"""The plain engine: one pair per forward pass, correct by definition, and the path of models that cannot be packed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nuggets.engine.interface import Continuation
from nuggets.engine.memory import is_out_of_memory, pair_too_large
from nuggets.engine.packing import with_wanted
from nuggets.engine.response_log_probs import log_probs


@dataclass(frozen=True)
class PlainEngine:
    """Prefix and continuation concatenated, nothing shared, the model's own attention."""

    model: Any
    reason: str = ""  # why the model is not packed
    # Some models change while they compute: dynamic rope and longrope set their frequencies to fit the sequence.
    _one_at_a_time: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def path(self) -> str:
        """See LanguageModel."""
        return f"plain ({self.reason})" if self.reason else "plain"

    def log_prob_sums(
        self,
        prefixes: Iterable[Sequence[int]],
        continuations: Sequence[Continuation],
        *,
        wanted: Iterable[Sequence[int]] | None = None,
    ) -> Iterator[NDArray[np.float64]]:
        """See LanguageModel."""
        for prefix, indices in with_wanted(prefixes, wanted, len(continuations)):
            yield self.row(prefix, continuations, indices)

    def row(
        self, prefix: Sequence[int], continuations: Sequence[Continuation], wanted: Sequence[int]
    ) -> NDArray[np.float64]:
        """The sums of one prefix for the continuations of these indices; NaN for the others."""
        row = np.full(len(continuations), np.nan)
        for index in wanted:
            item = continuations[index]
            row[index] = self._sum(prefix, item) if item.response_tokens else 0.0
        return row

    def _sum(self, prefix: Sequence[int], item: Continuation) -> float:
        try:
            with self._one_at_a_time:
                return self._pass(prefix, item)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise pair_too_large(len(prefix) + len(item.ids), self.model.device) from error

    @cached_property
    def _keeps_some_logits(self) -> bool:
        return "logits_to_keep" in signature(self.model.forward).parameters

    @torch.inference_mode()
    def _pass(self, prefix: Sequence[int], item: Continuation) -> float:
        ids = torch.tensor([[*prefix, *item.ids]], device=self.model.device)
        # The logits at a token predict the token after it: those of the prompt and of the last token are not needed.
        options = {"logits_to_keep": item.response_tokens + 1} if self._keeps_some_logits else {}
        logits = self.model(input_ids=ids, use_cache=False, **options).logits[0, -item.response_tokens - 1 : -1]
        return float(log_probs(logits, ids[0, -item.response_tokens :]).double().sum())
