"""The baseline: each anchor's zero-shot summed log-probability, which a cell has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.anchors.anchor_set import Anchor
from nuggets.cells.conflicts import value_digest
from nuggets.engine.interface import LanguageModel
from nuggets.errors import InputError, StoreError
from nuggets.models.prompts import PromptProfile
from nuggets.store.addresses import digest
from nuggets.store.parquet import read_table, table_bytes
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class Baseline:
    """Per anchor, in the order asked for: zero-shot sum (nats) and the number of response tokens that are summed."""

    zero_shot: NDArray[np.float32]
    response_tokens: NDArray[np.int32]


def measure_baseline(anchors: Sequence[Anchor], profile: PromptProfile, model: LanguageModel) -> Baseline:
    """The baseline of some anchors. Raises InputError that names an anchor whose sum is not finite."""
    continuations = [profile.anchor(anchor.example).continuation for anchor in anchors]
    (sums,) = model.log_prob_sums([profile.opening], continuations)
    broken = [anchor.id for anchor, is_finite in zip(anchors, np.isfinite(sums), strict=True) if not is_finite]
    if broken:
        raise InputError(
            f"the model gives {len(broken)} of {len(anchors)} anchors no finite zero-shot log-probability, "
            f"{broken[0]} for one: its weights or dtype can't score this text; try dtype=float32 or remove the anchor"
        )
    tokens = np.array([item.response_tokens for item in continuations], dtype=np.int32)
    return Baseline(sums.astype(np.float32), tokens)


def write_baseline(store: Store, key: str, anchor_ids: Sequence[str], baseline: Baseline) -> None:
    """Store a baseline beside the others of the scoring key."""
    path = f"baselines/{key}/{digest(list(anchor_ids))}.parquet"
    columns = {
        "anchor_id": list(anchor_ids),
        "zero_shot": baseline.zero_shot,
        "response_tokens": baseline.response_tokens,
    }
    store.write(path, table_bytes(columns))


def known_baseline(store: Store, key: str) -> dict[str, tuple[float, int]]:
    """Zero-shot sum and response tokens of every anchor that was measured under the scoring key.

    Of two sums for one anchor, that with the smaller digest is used, as for cells.
    """
    known: dict[str, tuple[float, int]] = {}
    for path in store.list(f"baselines/{key}", suffix=".parquet"):
        table = read_table(store, path).to_pydict()
        for anchor, *measured in zip(table["anchor_id"], table["zero_shot"], table["response_tokens"], strict=True):
            both = (known.get(anchor, measured), measured)
            zero_shot, tokens = min(both, key=lambda item: value_digest("", anchor, item[0]))
            known[anchor] = (zero_shot, tokens)
    return known


def read_baseline(store: Store, key: str, anchor_ids: Sequence[str]) -> Baseline:
    """The baseline of these anchors, in their order. Raises StoreError if one was not measured."""
    known = known_baseline(store, key)
    missing = [anchor for anchor in anchor_ids if anchor not in known]
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(anchor_ids)} anchors have no baseline in {store.uri(f'baselines/{key}')}, "
            f"{missing[0]} for one: run nuggets curate again; only these are measured anew"
        )
    sums, tokens = zip(*(known[anchor] for anchor in anchor_ids), strict=True)
    return Baseline(np.array(sums, dtype=np.float32), np.array(tokens, dtype=np.int32))
