"""Random prefixes and continuations, and what their sums are by definition: plain transformers calls."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tiny_models import VOCABULARY, build_model

from nuggets.engine.choose import open_engine
from nuggets.engine.interface import Continuation, LanguageModel

EXACT = 1e-4  # nats per response token, float32

Ids = tuple[int, ...]
Rows = NDArray[np.float64]
Wanted = Sequence[Sequence[int]]


def random_prefixes(seed: int, lengths: Sequence[int], vocabulary: int = VOCABULARY) -> list[Ids]:
    generator = np.random.default_rng(seed)
    return [tuple(generator.integers(0, vocabulary, length).tolist()) for length in lengths]


def random_continuations(
    seed: int, shapes: Sequence[tuple[int, int]], vocabulary: int = VOCABULARY
) -> list[Continuation]:
    """Continuations of the given (tokens, response_start)."""
    texts = random_prefixes(seed, [length for length, _ in shapes], vocabulary)
    return [Continuation(ids, start) for ids, (_, start) in zip(texts, shapes, strict=True)]


# Equal and unequal lengths, one response token, the whole text but its first token, nothing left of the response.
MIXED = random_continuations(1, [(9, 4), (5, 4), (9, 1), (14, 6), (3, 3), (14, 13), (9, 4), (2, 1), (6, 9), (21, 5)])
PREFIXES = random_prefixes(2, [0, 1, 12, 3, 33, 12])
SCORED = np.array([item.response_tokens > 0 for item in MIXED])

# As prompts are: the same opening in front of all, of which one consists but for its last token.
OPENING = (7, 8, 9, 10)
SAME_OPENING = [Continuation((*OPENING, *item.ids), 4 + item.response_start) for item in MIXED]
SAME_OPENING.append(Continuation((*OPENING, 11), 4))


@lru_cache
def plain_model(family: str) -> Any:
    """The same weights as `build_model(family)`, never touched by an engine."""
    return build_model(family, attention="eager")


@lru_cache
def engine_of(family: str, token_budget: int = 4096) -> LanguageModel:
    return open_engine(build_model(family), token_budget=token_budget)


@contextmanager
def one_core() -> Iterator[None]:
    """Tiny products are slower on two cores than on one, and by far if something else is running there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def equal_lengths(continuations: Sequence[Continuation]) -> list[list[int]]:
    """Indices of what can be one batch without padding."""

    def length(index: int) -> int:
        return len(continuations[index].ids)

    return [list(group) for _, group in groupby(sorted(range(len(continuations)), key=length), key=length)]


def plain_row(model: Any, prefix: Sequence[int], continuations: Sequence[Continuation]) -> Rows:
    """The sums of one prefix, without any of the engine's code."""
    row = np.zeros(len(continuations))
    for members in equal_lengths(continuations):
        ids = torch.tensor([[*prefix, *continuations[index].ids] for index in members], device=model.device)
        with torch.no_grad(), one_core():
            log_probs = model(input_ids=ids, use_cache=False).logits.double().log_softmax(dim=-1)
        following = log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)  # entry t: of token t + 1
        for place, index in enumerate(members):
            row[index] = following[place, len(prefix) + continuations[index].response_start - 1 :].sum().item()
    return row


def plain_rows(model: Any, prefixes: Sequence[Sequence[int]], continuations: Sequence[Continuation]) -> Rows:
    return np.array([plain_row(model, prefix, continuations) for prefix in prefixes])


def rows_of(
    engine: LanguageModel,
    prefixes: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    wanted: Wanted | None = None,
) -> Rows:
    return np.array(list(engine.log_prob_sums(prefixes, continuations, wanted=wanted)))


def random_wanted(seed: int, prefixes: int, continuations: int) -> Wanted:
    """Indices in any order; behind some prefixes few or none, behind others most or all."""
    generator = np.random.default_rng(seed)
    counts = generator.permutation(np.linspace(0, continuations, prefixes).round().astype(int))
    return [generator.permutation(continuations)[:count].tolist() for count in counts]


@lru_cache
def expected_rows(family: str) -> Rows:
    """PREFIXES and MIXED by the definition."""
    return plain_rows(plain_model(family), PREFIXES, MIXED)


def per_token(difference: Rows, continuations: Sequence[Continuation]) -> Rows:
    tokens = np.array([item.response_tokens for item in continuations])
    return np.abs(difference) / np.maximum(tokens, 1)


def assert_close(found: Rows, expected: Rows, continuations: Sequence[Continuation], within: float = EXACT) -> None:
    """Rows `(..., continuations)` that differ by no more nats per response token, and exact zeros where none are."""
    nothing_scored = np.array([item.response_tokens == 0 for item in continuations], dtype=bool)
    assert found.shape == expected.shape
    assert found.shape[-1] == len(continuations)
    assert (found[..., nothing_scored] == 0.0).all()
    difference = per_token(found - expected, continuations)
    assert (difference <= within).all(), difference.max()  # NaN is not within anything


def assert_only_wanted(
    found: Rows, expected: Rows, continuations: Sequence[Continuation], wanted: Wanted, within: float = EXACT
) -> None:
    """Rows that are close to the full ones where a continuation is wanted, and NaN everywhere else."""
    is_wanted = np.zeros(expected.shape, dtype=bool)
    for row, indices in zip(is_wanted, wanted, strict=True):
        row[list(indices)] = True
    assert found.shape == expected.shape
    assert (np.isnan(found) == ~is_wanted).all()
    assert_close(np.where(is_wanted, found, expected), expected, continuations, within)
