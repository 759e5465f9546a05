"""Cuts: the rules that keep candidates, and how a cut is written as options. Pure.

Command line, YAML, forms and manifests all write a cut as one of the options `{"threshold": 0.85}`, `{"top_k": 100}`
and `{"top_fraction": 0.05}`. Which candidates a cut keeps is decided in `selection`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
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


# Option name -> the bounds of its value. Configuration fields and forms take their bounds from here.
CUT_BOUNDS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "threshold": {"ge": 0, "lt": 1},  # no score is strictly above 1
        "top_k": {"ge": 1},
        "top_fraction": {"gt": 0, "le": 1},
    }
)


def cut_from_options(options: Mapping[str, Any]) -> Cut | None:
    """Read the cut from its options; other keys are ignored. None if no cut is given.

    Raises UsageError for more than one cut, or a value out of range.
    """
    given = {name: options[name] for name in CUT_BOUNDS if options.get(name) is not None}
    if len(given) > 1:
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        raise UsageError(f"{listed}: give one cut, not {len(given)}")
    for name, value in given.items():
        check_range(name, value, **CUT_BOUNDS[name])
    match given:
        case {"threshold": value}:
            return Threshold(float(value))
        case {"top_k": count}:
            return TopK(int(count))
        case {"top_fraction": value}:
            return TopFraction(float(value))
    return None


def cut_options(cut: Cut | None) -> dict[str, float]:
    """Write a cut as options, the inverse of `cut_from_options`; empty for None."""
    match cut:
        case Threshold(value):
            return {"threshold": value}
        case TopK(count):
            return {"top_k": count}
        case TopFraction(value):
            return {"top_fraction": value}
    return {}


def kept_count(cut: TopK | TopFraction, candidates: int) -> int:
    """How many of `candidates` a cut by rank keeps."""
    if isinstance(cut, TopK):
        return min(cut.count, candidates)
    # 0.07 * 100 is 7.000000000000001 in floating point: rounding that up would keep an eighth candidate.
    kept = math.ceil(round(cut.value * candidates, 9))
    return min(max(kept, 1 if cut.value > 0 else 0), candidates)


def remark(cut: Cut, *, candidates: int, kept: int, best: tuple[float, float]) -> str | None:
    """A note on an outcome that may surprise; `best` are the bounds of the highest golden score."""
    if kept == 0:
        low, high = best
        score = f"{low:.4g}" if low == high else f"between {low:.4g} and {high:.4g}"
        return f"nothing is kept: the best golden score is {score}"
    if isinstance(cut, TopK) and cut.count > candidates:
        return f"top_k={cut.count} exceeds the pool: all candidates with a score are kept, {kept} of {candidates}"
    return None


def cut_name(cut: Cut) -> str:
    """A cut as a folder name, the same for the same cut."""
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
