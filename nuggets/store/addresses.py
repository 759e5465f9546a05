"""Addresses in the store: digests of what determines a value, never of time, position or host. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SCORING_VERSION = 1  # raised by hand when the same inputs would give other cells; older cells keep their address


def digest(content: Mapping[str, Any] | list[Any]) -> str:
    """Digest of JSON values: 32 hex digits, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def scoring_key(
    *, model: str, profile: str, demonstration_tokens: int, anchor_tokens: int, dtype: str, kv_iter: int = 1
) -> str:
    """Digest of all that determines cells and baselines beside texts; `model` is the digest of its files."""
    # 1 means without, and is left out: cells from before there was a choice keep their address.
    refined = {"kv_iter": kv_iter} if kv_iter > 1 else {}
    return digest(
        {
            **refined,
            "scoring_version": SCORING_VERSION,
            "model": model,
            "profile": profile,
            "demonstration_tokens": demonstration_tokens,
            "anchor_tokens": anchor_tokens,
            "dtype": dtype,
        }
    )
