"""Simple checks that an example of the pool has to pass to become an anchor. Pure.

The checks need no model. A fluent but useless response, such as mere politeness, passes: length does not identify it,
because a short response can be the right one.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nuggets.examples import Example
from nuggets.models.prompts import PromptProfile

NO_RESPONSE = "no_response"  # too little of its response is left within anchor_tokens, or it is not reproduced
TRUNCATED = "truncated"  # its tokens exceed anchor_tokens: a part of its prompt or response would be missing
NEAR_DUPLICATE = "near_duplicate"  # of another anchor, which would count twice
# Faults accepted where too few examples pass, the lesser first: a truncated response still measures something
# that no other anchor does. An example without response tokens is never accepted.
TOLERATED = (TRUNCATED, NEAR_DUPLICATE)
# Cosine similarity of embeddings; SemDeDup (arXiv 2303.09540) treats web pages alike. With MiniLM, "Name the capital of
# France. Paris." has 0.97 with "Name the capital city of France. Paris", 0.93 with "What is the capital of France?
# Paris." and 0.55 with the same question about Spain.
NEAR_DUPLICATE_COSINE = 0.95


def token_faults(example: Example, profile: PromptProfile) -> tuple[str, ...]:
    """The faults of an example's tokens."""
    anchor = profile.anchor(example)
    if anchor.fault or not anchor.response_tokens:
        return (NO_RESPONSE,)
    return (TRUNCATED,) if anchor.cut_prompt or anchor.cut_response else ()


def is_near_duplicate(vector: NDArray[np.float32], chosen: Iterable[NDArray[np.float32]]) -> bool:
    """Whether an embedding is that of nearly the same text as one of the chosen; all are unit vectors."""
    return any(float(vector @ other) > NEAR_DUPLICATE_COSINE for other in chosen)
