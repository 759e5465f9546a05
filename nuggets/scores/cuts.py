"""Cuts: the rules that keep candidates. Pure; which candidates they keep is `selection`'s business."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nuggets.checks import check_range
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
    if threshold is not None:
        check_range("threshold", threshold, ge=0, lt=1)  # no score is strictly above 1
        return Threshold(float(threshold))
    if top_k is not None:
        check_range("top_k", top_k, ge=1)
        return TopK(int(top_k))
    if top_fraction is not None:
        check_range("top_fraction", top_fraction, gt=0, le=1)
        return TopFraction(float(top_fraction))
    return None


def recorded_cut(options: Mapping[str, Any]) -> Cut | None:
    """The cut among a stored run's options, or None: also one that keeps nothing, as earlier versions accepted."""
    rules: dict[str, Callable[[Any], Cut]] = {"threshold": Threshold, "top_k": TopK, "top_fraction": TopFraction}
    return next((rule(options[name]) for name, rule in rules.items() if options.get(name) is not None), None)


def kept_count(cut: TopK | TopFraction, candidates: int) -> int:
    """How many of `candidates` a cut by rank keeps."""
    if isinstance(cut, TopK):
        return min(cut.count, candidates)
    # 0.07 * 100 is 7.000000000000001 in floating point: rounding that up would keep an eighth candidate.
    kept = math.ceil(round(cut.value * candidates, 9))
    return min(max(kept, 1 if cut.value > 0 else 0), candidates)


def remark(cut: Cut, *, candidates: int, kept: int, best: tuple[float, float]) -> str | None:
    """What whoever made a cut may not expect of its outcome; `best` are the bounds of the highest golden score."""
    if kept == 0:
        low, high = best
        score = f"{low:.4g}" if low == high else f"between {low:.4g} and {high:.4g}"
        return f"nothing is kept: the best golden score is {score}"
    if isinstance(cut, TopK) and cut.count > candidates:
        return f"top_k={cut.count} is more than the pool has: it keeps all that have a score, {kept} of {candidates}"
    return None


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
