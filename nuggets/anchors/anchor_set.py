"""Anchor sets: their records in the store and their names there, and anchors from a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from nuggets.errors import InputError
from nuggets.examples import RECOGNISED, Example, FieldNames, Reject, example_id
from nuggets.models.prompt_tokens import FAULT_MEANINGS
from nuggets.models.prompts import PromptProfile
from nuggets.pools.readers.detect import PoolSource
from nuggets.pools.readers.rows import read_pool
from nuggets.store.addresses import digest
from nuggets.store.records import read_record, record_bytes, write_record
from nuggets.store.store import Store

ANCHOR_VERSION = 3  # raised when the same pool and settings would give other anchors
DEFAULT_ANCHORS = 100


@dataclass(frozen=True, slots=True)
class Anchor:
    """A member of the reference set.

    If it comes from the pool, `pool_row` is its row, and `passed_over` is the number of examples nearer to the centre
    of its cluster that failed a check.
    """

    id: str
    pool_row: int | None
    example: Example
    passed_over: int = 0


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """The anchors in their order, and how they were chosen: counts, and how the encoder read the examples."""

    FORMAT: ClassVar[int] = 2

    anchors: tuple[Anchor, ...]
    counts: dict[str, int] = field(default_factory=dict)
    encoder: str = ""  # empty if no embeddings were needed


@dataclass(frozen=True, slots=True)
class AnchorSetRef:
    """Path of a stored anchor set, its number of anchors, and how they were chosen. A name of a set refers to this."""

    FORMAT: ClassVar[int] = 2

    path: str
    anchors: int
    counts: dict[str, int] = field(default_factory=dict)
    encoder: str = ""


def default_anchor_count(pool_examples: int) -> int:
    """DEFAULT_ANCHORS, or a quarter of a small pool, so that clusters have several members."""
    return max(1, min(DEFAULT_ANCHORS, pool_examples // 4))


def anchors_from_file(source: PoolSource, *, max_row_bytes: int, names: FieldNames = RECOGNISED) -> list[Anchor]:
    """The anchors of a file, unchanged and in its order. Raises InputError for a row that can't be used.

    An anchor that the file repeats counts as often as the file has it.
    """
    anchors: list[Anchor] = []
    for position, item in read_pool(source, max_row_bytes=max_row_bytes, names=names):
        if isinstance(item, Reject):
            raise InputError(
                f"anchor_file '{source.name}', {position}: {item.reason} ({item.detail}). Anchors are not "
                "filtered, so every row has to be usable: fix or remove this one"
            )
        anchors.append(Anchor(example_id(item.example), None, item.example))
    if not anchors:
        raise InputError(f"anchor_file '{source.name}' has no rows: give at least one anchor")
    return anchors


def check_scorable(anchors: Sequence[Anchor], profile: PromptProfile) -> None:
    """Raise InputError that names the anchors that must not be scored, and why.

    Profile `released` keeps them, as the authors' program does: they are a loss for every candidate.
    """
    if profile.name == "released":
        return
    faults = {row: profile.anchor(anchor.example).fault for row, anchor in enumerate(anchors)}
    for fault, meaning in FAULT_MEANINGS.items():
        rows = [str(row) for row, of_row in faults.items() if of_row is fault]
        if rows:
            raise InputError(
                f"anchors in rows {', '.join(rows[:10])}{', ...' if len(rows) > 10 else ''} can't be scored within "
                f"anchor_tokens: {meaning}, or remove these anchors"
            )


def anchor_set_path(key: str) -> str:
    """Path of an anchor set; `key` is the digest of what determines it."""
    return f"anchors/{key}.json"


def named_path(name: str) -> str:
    """Path of the reference file of a named anchor set."""
    return f"anchor-sets/{name}.json"


def write_anchor_set(store: Store, path: str, anchor_set: AnchorSet) -> AnchorSetRef:
    """Store an anchor set."""
    write_record(store, path, anchor_set)
    return AnchorSetRef(path, len(anchor_set.anchors), anchor_set.counts, anchor_set.encoder)


def read_anchor_set(store: Store, path: str) -> AnchorSet:
    """A stored anchor set."""
    return read_record(store, path, AnchorSet)


def read_anchors(store: Store, path: str) -> tuple[Anchor, ...]:
    """The anchors of a stored set, in its order."""
    return read_anchor_set(store, path).anchors


def name_anchor_set(store: Store, name: str, reference: AnchorSetRef) -> AnchorSetRef:
    """Give an anchor set a name unless the name is taken; returns the set that has the name afterwards."""
    store.write_if_absent(named_path(name), record_bytes(reference))
    return read_record(store, named_path(name), AnchorSetRef)


def read_named(store: Store, name: str) -> AnchorSetRef | None:
    """The anchor set of a name; None while the name is free."""
    try:
        return read_record(store, named_path(name), AnchorSetRef)
    except FileNotFoundError:
        return None


def anchor_set_digest(anchors: Sequence[Anchor]) -> str:
    """Digest of the anchors' ids, in order."""
    return digest([item.id for item in anchors])
