"""The interface of a language model: what goes in and what comes out, not how it is computed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Continuation:
    """Token ids of an anchor's prompt and response, and the index at which the response starts.

    ```
    ids             Instruction : ... Response :  The  cat  sat
    response_start                                ^
    scored                                       The  cat  sat    (each predicted from the token on its left)
    ```
    """

    ids: tuple[int, ...]
    response_start: int

    def __post_init__(self) -> None:
        if self.response_start < 1:
            raise ValueError(f"response_start={self.response_start}: a response needs a token before it; at least 1")

    @property
    def response_tokens(self) -> int:
        """How many tokens are scored; 0 if a token limit has cut the whole response away."""
        return max(0, len(self.ids) - self.response_start)


class LanguageModel(Protocol):
    """A frozen causal language model."""

    @property
    def path(self) -> str:
        """A description of how sums are computed: packed and with which kernel, or plain and why."""
        ...

    def log_prob_sums(
        self,
        prefixes: Iterable[Sequence[int]],
        continuations: Sequence[Continuation],
        *,
        wanted: Iterable[Sequence[int]] | None = None,
    ) -> Iterator[NDArray[np.float64]]:
        """Summed log-probability (nats) of each continuation's response behind each prefix.

        Yields one array `(continuations,)` per prefix, in the order of the prefixes, as soon as it is computed. A
        prefix may be empty. A continuation without response tokens sums to 0. Positions of a continuation's tokens
        follow those of the prefix.

        `wanted`: per prefix, and consumed together with it, the indices of the continuations that it needs, in any
        order and each once; by default all of them. The others are NaN and not computed. Raises ValueError if `wanted`
        is longer or shorter than `prefixes`.
        """
        ...
