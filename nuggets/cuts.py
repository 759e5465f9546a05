"""Cuts: the rules that keep candidates. Pure; which candidates they keep is `selection`'s business."""

import math
from dataclasses import dataclass

from nuggets.errors import UsageError


@dataclass(frozen=True, slots=True)
class Threshold:
    """Keep candidates whose golden score is strictly above `value` (0 to 1)."""

    value: float


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the `count` best candidates, or all if there are fewer."""

    count: int


@dataclass(frozen=True, slots=True)
class TopFraction:
    """Keep the best `value` (0 to 1) of the candidates, rounded up to a whole candidate."""

    value: float


Cut = Threshold | TopK | TopFraction


def cut_from_options(threshold: float | None, top_k: int | None, top_fraction: float | None) -> Cut | None:
    """The one cut that is given, or None; raises UsageError for two at once or a value out of range."""
    given = {"threshold": threshold, "top_k": top_k, "top_fraction": top_fraction}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        listed = ", ".join(f"{name}={value}" for name, value in named.items())
        raise UsageError(f"{listed}: give one cut, not {len(named)}")
    for name in ("threshold", "top_fraction"):
        value = named.get(name)
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{name}={value} is out of range: allowed is 0 to 1")
    if threshold is not None:
        return Threshold(float(threshold))
    if top_k is not None:
        if top_k < 1:
            raise UsageError(f"top_k={top_k} is out of range: allowed is 1 or more")
        return TopK(int(top_k))
    return TopFraction(float(top_fraction)) if top_fraction is not None else None


def kept_count(cut: TopK | TopFraction, candidates: int) -> int:
    """How many of `candidates` a cut by rank keeps."""
    if isinstance(cut, TopK):
        return min(cut.count, candidates)
    # 0.07 * 100 is 7.000000000000001 in floating point: rounding that up would keep an eighth candidate.
    kept = math.ceil(round(cut.value * candidates, 9))
    return min(max(kept, 1 if cut.value > 0 else 0), candidates)


def cut_name(cut: Cut) -> str:
    """A cut as a folder name: the same cut always has the same one."""
    if isinstance(cut, Threshold):
        return f"threshold-{cut.value!r}"
    if isinstance(cut, TopK):
        return f"top-k-{cut.count}"
    return f"top-fraction-{cut.value!r}"


def describe_cut(cut: Cut) -> str:
    """A cut in words."""
    if isinstance(cut, Threshold):
        return f"golden score above {cut.value:g}"
    if isinstance(cut, TopK):
        return f"best {cut.count}"
    return f"best {100 * cut.value:g} %"
