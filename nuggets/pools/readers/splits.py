"""Which files of a pool belong to which split, and which split is read.

Splits are named by files and folders, as on the Hugging Face hub: `train-00000-of-00002.parquet`, `data/test.jsonl`,
`train/part-1.jsonl`. Rows of a test split in a selection would make a later evaluation worthless.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname

from nuggets.errors import UsageError
from nuggets.pools.left_out import LeftOut
from nuggets.pools.readers.formats import ending_of, plain_name

TRAIN, ALL = "train", "all"
_WORD = re.compile(
    r"(?<![a-z])(train|training|test|testing|eval|evaluation|validation|valid|val|dev|heldout|holdout)(?![a-z])"
)
_TRAINING = ("train", "training")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ChosenFiles:
    """The positions of the files to read, and what is left out."""

    positions: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()


def split_of(path: str) -> str | None:
    """The split that a path inside a pool names; None if it names none."""
    name = plain_name(basename(path))
    stem = name.removesuffix(ending_of(name) or "")
    shard = _SHARD.fullmatch(stem)
    if shard and _WORD.search(shard[1]):
        return shard[1]  # a split may have any name that starts so: train_sft
    word = _WORD.search(stem) or _WORD.search(dirname(path).lower())
    return None if word is None else TRAIN if word[1] in _TRAINING else word[1]


def choose_split(splits: Sequence[str | None], wanted: str | None, *, pool: str) -> ChosenFiles:
    """The files to read, given the split of each: all if none has a split, else those of `train` or of the split that
    is wanted. Raises UsageError that names the splits if there is no such split.
    """
    everything = ChosenFiles(tuple(range(len(splits))))
    if wanted == ALL or not any(splits):
        return everything
    files = _positions(splits)
    chosen = wanted or TRAIN
    if chosen not in files:
        named = ", ".join(f"'{name}'" for name in list(files)[:_SHOWN] if name) + (
            ", ..." if len(files) > _SHOWN else ""
        )
        missing = "none of them is named train" if wanted is None else f"'{wanted}' is none of them"
        raise UsageError(
            f"pool '{pool}' has the splits {named}, and {missing}: name one with --split, or read all with "
            f"--split {ALL}"
        )
    why = f"only split '{chosen}' of pool '{pool}' is read; --split chooses another, --split {ALL} reads all"
    left_out = tuple(
        LeftOut(f"files of split '{name}'" if name else "files of no split", len(positions), why)
        for name, positions in files.items()
        if name != chosen
    )
    return ChosenFiles(tuple(files[chosen]), left_out)


def _positions(splits: Sequence[str | None]) -> Mapping[str | None, list[int]]:
    files: dict[str | None, list[int]] = {}
    for position, name in enumerate(splits):
        files.setdefault(name, []).append(position)
    return files
