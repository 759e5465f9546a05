"""The engine behind the door: packed where a model's attention allows it, one pair at a time where it does not."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuggets.scoring.attention import PACKED_ATTENTION, ForwardPass, KeysValues, forward_pass
from nuggets.scoring.door import Continuation, LanguageModel
from nuggets.scoring.packing import Pack, Segments, pack_continuations

logger = logging.getLogger(__name__)

TOKEN_BUDGET = 4096  # tokens per forward pass: enough to keep matrix products busy, small enough for caches and memory
_LOGITS_AT_ONCE = 1 << 24  # entries of the [tokens x vocabulary] matrix that exist at a time: 64 MiB in float32
_AGREEMENT = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # nats per token


def open_engine(model: Any, *, token_budget: int = TOKEN_BUDGET) -> LanguageModel:
    """The fastest right engine for a causal transformers model, which is set to evaluation and used as it is.

    Whether packing is right for this model is not looked up but tried: soft-capping, linear attention, attention
    biases or scaled logits show as a difference from plain forward passes, and such a model takes the plain path.
    """
    model.eval().requires_grad_(False)
    plain = PlainEngine(model)
    continuations, prefix = _probe(model)
    expected = next(plain.log_prob_sums([prefix], continuations))
    original = model.config._attn_implementation
    try:
        model.set_attn_implementation(PACKED_ATTENTION)
        packed = PackedEngine(model, token_budget=token_budget, context=_packable_length(model))
        found = next(packed.log_prob_sums([prefix], continuations))
        difference = np.abs(found - expected).max() / continuations[0].response_tokens
    except Exception as error:  # whatever a model's own code says to an attention function that it does not expect
        logger.info("packed attention failed for %s: %s", type(model).__name__, error)
        difference = np.inf
    if difference <= _AGREEMENT[model.dtype]:
        return packed
    model.set_attn_implementation(original)
    logger.warning(
        "%s can't be scored packed (its sums would differ by %.3g nats per token): using one pair per forward pass, "
        "which is right and slower",
        type(model).__name__,
        difference,
    )
    return plain


def _probe(model: Any) -> tuple[list[Continuation], list[int]]:
    """Arbitrary token ids that any model can be asked about."""
    ids = [(7919 * index + 13) % model.config.get_text_config().vocab_size for index in range(48)]
    return [Continuation(tuple(ids[20:32]), 4), Continuation(tuple(ids[32:44]), 4)], ids[:20]


def _packable_length(model: Any) -> int | None:
    """Tokens up to which packing is right, where a model sets a limit; shorter sequences never notice it.

    Beyond a sliding window attention does not reach back to the start; beyond the length at which longrope changes
    its frequencies, a demonstration's keys depend on the length of what stands behind it.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [part for part in rope.values() if isinstance(part, dict)]
    limits = [part.get("original_max_position_embeddings") for part in (rope, *by_layer_type) if "long_factor" in part]
    limits.append(getattr(config, "sliding_window", None))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


@dataclass(frozen=True)
class PlainEngine:
    """One pair per forward pass, prefix and continuation concatenated: the definition that packing is held against."""

    model: Any

    def log_prob_sums(
        self, prefixes: Iterable[Sequence[int]], continuations: Sequence[Continuation]
    ) -> Iterator[NDArray[np.float64]]:
        """See LanguageModel."""
        for prefix in prefixes:
            yield np.array([self._sum(prefix, item) if item.response_tokens else 0.0 for item in continuations])

    @torch.inference_mode()
    def _sum(self, prefix: Sequence[int], item: Continuation) -> float:
        ids = torch.tensor([[*prefix, *item.ids]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0]
        start = len(prefix) + item.response_start
        targets = ids[0, start:]
        return float(_log_probs(logits[start - 1 : -1], targets).double().sum())


@dataclass(frozen=True)
class PackedEngine:
    """The prefix once, continuations packed end to end behind it, logits of response tokens only."""

    model: Any  # with PACKED_ATTENTION set
    token_budget: int
    context: int | None  # longer sequences take the plain path; see _packable_length

    def log_prob_sums(
        self, prefixes: Iterable[Sequence[int]], continuations: Sequence[Continuation]
    ) -> Iterator[NDArray[np.float64]]:
        """See LanguageModel."""
        longest = max((len(item.ids) for item in continuations), default=0)
        packs = [
            _on_device(pack, self.model.device)
            for pack in pack_continuations(continuations, token_budget=self.token_budget)
        ]
        for prefix in prefixes:
            if self.context is not None and len(prefix) + longest > self.context:
                yield from self._beyond_window([prefix], continuations)
            else:
                yield self._row(prefix, packs, len(continuations))

    def _beyond_window(
        self, prefixes: Sequence[Sequence[int]], continuations: Sequence[Continuation]
    ) -> Iterator[NDArray[np.float64]]:
        self.model.set_attn_implementation("eager")
        try:
            yield from list(PlainEngine(self.model).log_prob_sums(prefixes, continuations))
        finally:
            self.model.set_attn_implementation(PACKED_ATTENTION)

    @torch.inference_mode()
    def _row(self, prefix: Sequence[int], packs: Sequence["_DevicePack"], count: int) -> NDArray[np.float64]:
        shared = self._keys_values(prefix) if prefix else None
        sums = torch.zeros(count, dtype=torch.float64, device=self.model.device)
        for pack in packs:
            with forward_pass(ForwardPass(pack.segments, shared=shared)):
                hidden = self._hidden(pack.ids, pack.offsets + len(prefix))
            log_probs = self._response_log_probs(hidden[pack.scored], pack.targets)
            sums.index_add_(0, pack.owners, log_probs.double())
        return sums.cpu().numpy()

    def _keys_values(self, prefix: Sequence[int]) -> KeysValues:
        record: KeysValues = {}
        ids = torch.tensor(prefix, device=self.model.device)
        with forward_pass(ForwardPass([Segments(0, 1, len(prefix))], record=record)):
            self._hidden(ids, torch.arange(len(prefix), device=ids.device))
        return record

    def _hidden(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states `(tokens, width)` of one pass over `(tokens,)` ids at these positions."""
        hidden: Tensor = self.model.base_model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False
        ).last_hidden_state[0]
        return hidden

    def _response_log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probability (nats, float32) of each target, the vocabulary's matrix made a few rows at a time."""
        head = self.model.get_output_embeddings()
        rows = max(1, _LOGITS_AT_ONCE // self.model.config.get_text_config().vocab_size)
        parts = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.cat([_log_probs(head(states), wanted) for states, wanted in parts])


@dataclass(frozen=True)
class _DevicePack:
    """A pack's token lists as tensors on the model's device: made once, used behind every prefix."""

    segments: tuple[Segments, ...]
    ids: Tensor
    offsets: Tensor
    scored: Tensor
    targets: Tensor
    owners: Tensor


def _on_device(pack: Pack, device: torch.device) -> _DevicePack:
    lists = (pack.ids, pack.offsets, pack.scored, pack.targets, pack.owners)
    return _DevicePack(pack.segments, *(torch.tensor(items, device=device) for items in lists))


def _log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-softmax (float32) read off at the targets; `logits` (tokens, vocabulary) are used up."""
    logits = logits.float()
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    peak = logits.amax(dim=1, keepdim=True)
    # In place: a second matrix of this size would cost as much time in memory traffic as the product that made it.
    total = logits.sub_(peak).exp_().sum(dim=1)
    return chosen - peak.squeeze(1) - total.log_()
