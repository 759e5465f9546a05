"""Addresses in the store: derived from what determines a value, never from time, position or host. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SCORING_VERSION = 1  # raised by hand when the same inputs would give other cells; old cells then stay under theirs


def digest(content: Mapping[str, Any] | list[Any]) -> str:
    """Address of whatever these JSON values determine: 32 hex digits, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def scoring_key(*, model: str, profile: str, demonstration_tokens: int, anchor_tokens: int, dtype: str) -> str:
    """Address of all cells and baselines that may stand side by side; `model` is the digest of its files."""
    return digest(
        {
            "scoring_version": SCORING_VERSION,
            "model": model,
            "profile": profile,
            "demonstration_tokens": demonstration_tokens,
            "anchor_tokens": anchor_tokens,
            "dtype": dtype,
        }
    )
