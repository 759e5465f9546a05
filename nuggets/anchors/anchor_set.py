"""The anchor set: found in the pool by clustering, or taken as it is from a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from nuggets.errors import InputError
from nuggets.examples import RECOGNISED, Example, FieldNames, Reject, example_id
from nuggets.models.prompts import PromptProfile
from nuggets.pools.readers.detect import PoolSource
from nuggets.pools.readers.rows import read_pool
from nuggets.store.addresses import digest
from nuggets.store.store import Store

ANCHOR_VERSION = 1  # raised when the same pool and settings would give other anchors
DEFAULT_ANCHORS = 100


@dataclass(frozen=True, slots=True)
class Anchor:
    """A member of the reference set; `pool_row` is its row in the pool, if it was found there."""

    id: str
    pool_row: int | None
    example: Example


def default_anchor_count(pool_examples: int) -> int:
    """100, or a quarter of a small pool, so that clusters have several members."""
    return max(1, min(DEFAULT_ANCHORS, pool_examples // 4))


def anchors_from_file(source: PoolSource, *, max_row_bytes: int, names: FieldNames = RECOGNISED) -> list[Anchor]:
    """The anchors of a file as they are, in its order. Raises InputError for a row that can't be used.

    A repeated anchor counts as often as it stands there.
    """
    anchors: list[Anchor] = []
    for item in read_pool(source, max_row_bytes=max_row_bytes, names=names):
        if isinstance(item, Reject):
            raise InputError(
                f"anchor_file '{source.url}', {item.place}: {item.reason} ({item.detail}). Anchors are used as they "
                "are, so every row has to be usable: mend or remove this one"
            )
        anchors.append(Anchor(example_id(item.example), None, item.example))
    if not anchors:
        raise InputError(f"anchor_file '{source.url}' has no rows: give at least one anchor")
    return anchors


def check_scorable(anchors: Sequence[Anchor], profile: PromptProfile) -> None:
    """Raise InputError naming the anchors without response tokens within the limits.

    Profile `released` keeps them, as the authors' program does: they are a loss for every candidate.
    """
    if profile.name == "released":
        return
    unscorable = [row for row, anchor in enumerate(anchors) if not profile.anchor(anchor.example).response_tokens]
    if unscorable:
        raise InputError(
            f"anchors in rows {', '.join(map(str, unscorable[:10]))}{', ...' if len(unscorable) > 10 else ''} have no "
            "response tokens left within anchor_tokens: raise anchor_tokens, or remove these anchors"
        )


def anchor_set_path(key: str) -> str:
    """Where an anchor set lies; `key` is the digest of what determines it."""
    return f"anchors/{key}.json"


def named_path(name: str) -> str:
    """Where the store says which anchor set a name means."""
    return f"anchor-sets/{name}.json"


def write_anchors(store: Store, path: str, anchors: Sequence[Anchor]) -> None:
    """Store an anchor set."""
    rows = [{"example_id": item.id, "pool_row": item.pool_row, **asdict(item.example)} for item in anchors]
    store.write(path, json.dumps(rows, ensure_ascii=False, indent=1).encode())


def read_anchors(store: Store, path: str) -> list[Anchor]:
    """A stored anchor set, in its order."""
    rows = store.read_json(path)
    return [
        Anchor(row["example_id"], row["pool_row"], Example(row["instruction"], row["input"], row["output"]))
        for row in rows
    ]


def anchor_set_digest(anchors: Sequence[Anchor]) -> str:
    """Identity of an anchor set's content, in order."""
    return digest([item.id for item in anchors])


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """A reference to an anchor set in the store, and how many anchors it has."""

    path: str
    anchors: int
