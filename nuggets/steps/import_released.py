"""Golden scores that the authors' released program left, turned into a run that new cuts can be made on.

It writes `{start}_{end}_score.json`, `{"<pool row>": [win rate per kv_iter]}`, and `{start}_{end}_raw_score.json`,
`{"<pool row>": [[zero-shot sums], [one-shot sums]]}`, sums in nats rounded to two decimals. Rows count from 0 in the
pool file that was given as --prompt_path; anchors are those of --test_path.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nuggets.anchors.anchor_set import (
    Anchor,
    AnchorSet,
    anchor_set_digest,
    anchor_set_path,
    anchors_from_file,
    write_anchor_set,
)
from nuggets.config.configs import MAX_ROW_BYTES, SHARD_SIZE
from nuggets.errors import InputError, UsageError
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import check_unchanged, find_source, source_digest
from nuggets.pools.shards import read_ids
from nuggets.runs.manifest import Run, RunState, open_run, record_state
from nuggets.scores.golden import ScoreTable
from nuggets.scores.score_table import write_score_table
from nuggets.store.addresses import digest
from nuggets.store.store import Store

_NAME = re.compile(r"(\d+)_(\d+)_(raw_)?score\.json")


@dataclass(frozen=True, slots=True)
class ReleasedScores:
    """What the files say per pool row: the win rate (0 to 1), and the sums `(2, anchors)` where they were kept."""

    win_rates: dict[int, float]
    sums: dict[int, list[list[float]]]
    files: tuple[str, ...]


def read_released_scores(folder: Path) -> ReleasedScores:
    """All score files of a folder. Raises InputError for a damaged file or two that disagree about a row."""
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not a folder: give the --save_path that the authors' program wrote to")
    win_rates: dict[int, float] = {}
    sums: dict[int, list[list[float]]] = {}
    files = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    for path in files:
        raw = "_raw_" in path.name
        for row, value in _load(path, raw=raw).items():
            found: Any = value if raw else value[-1]  # one win rate per kv_iter: the last one is the result
            known: dict[int, Any] = sums if raw else win_rates
            if known.setdefault(int(row), found) != found:
                raise InputError(f"{path}: row {row} has {found}, another file in {folder} says {known[int(row)]}")
    if not win_rates:
        raise UsageError(f"no {{start}}_{{end}}_score.json in '{folder}': give the folder that holds these files")
    return ReleasedScores(win_rates, sums, tuple(path.name for path in files))


def import_scores(store: Store, folder: Path, *, pool: str, anchor_file: str, run: str | None = None) -> Run:
    """Make a finished run of released scores; its golden scores are exactly theirs.

    Candidates without a score (rows that were not run yet) are left out and counted. Mean gains come from the raw
    sums and are in nats per anchor, because the files don't tell how many tokens a response had; where the sums are
    missing gains are unknown, and ties are broken by example id alone.
    """
    scores = read_released_scores(folder)
    anchor_source = find_source(anchor_file, store.endpoint)
    anchor_print = source_digest(anchor_source)
    anchors = anchors_from_file(anchor_source, max_row_bytes=MAX_ROW_BYTES)
    check_unchanged(anchor_source, anchor_print)
    source = find_source(pool, store.endpoint)
    pool_print = source_digest(source)
    ingested = ingest_pool(
        store, source, pool_print, shard_size=SHARD_SIZE, max_row_bytes=MAX_ROW_BYTES, max_rejected_share=1.0
    )
    parts = [(shard, *read_ids(store, path)) for shard, path in enumerate(ingested.shards)]
    beyond = [row for row in scores.win_rates if row >= ingested.rows]
    if beyond:
        raise InputError(
            f"the score files name row {max(beyond)}, but pool '{pool}' has {ingested.rows} rows: give the file that "
            "was their --prompt_path"
        )
    table = _table(scores, anchors, parts)
    anchors_path = anchor_set_path(anchor_set_digest(anchors))
    write_anchor_set(store, anchors_path, AnchorSet(tuple(anchors)))
    identity = {
        "pool": pool_print,
        "anchors": f"file {anchor_print}",
        "profile": "released",
        "dtype": "unknown",
        "imported": digest([[row, rate, scores.sums.get(row)] for row, rate in sorted(scores.win_rates.items())]),
    }
    inputs = {
        "pool": {"source": pool, "digest": pool_print},
        "model": {"name": "of the authors' program, not recorded in its files", "digest": None},
        "score_files": list(scores.files),
        "mean_gain_unit": "nats per anchor: the score files hold no token counts",
    }
    name = run or f"imported-{digest(identity)[:8]}"
    open_run(
        store,
        name,
        config={"folder": str(folder), "pool": pool, "anchor_file": anchor_file},
        identity=identity,
        inputs=inputs,
    )
    write_score_table(store, name, [table])
    return record_state(
        store,
        name,
        RunState.COMPLETE,
        references={"pool": ingested.id, "anchors": anchors_path},
        counts={
            "rows": ingested.rows,
            "examples": ingested.examples,
            "anchors": len(anchors),
            "imported_scores": len(table),
            "examples_without_score": ingested.examples - len(table),
            "scores_of_unusable_or_duplicate_rows": len(scores.win_rates) - len(table),
        },
    )


def _table(scores: ReleasedScores, anchors: Sequence[Anchor], parts: Sequence[tuple[int, Any, Any]]) -> ScoreTable:
    scored = [
        (key, row, shard)
        for shard, ids, rows in parts
        for key, row in zip(ids.to_pylist(), rows.tolist(), strict=True)
        if row in scores.win_rates
    ]
    if not scored:
        raise InputError(
            "no usable example of the pool has a score in the files: pool and files do not belong together"
        )
    count = len(anchors)
    wins = [scores.win_rates[row] * count for _, row, _ in scored]
    for (_, row, _), value in zip(scored, wins, strict=True):
        if abs(value - round(value)) > 1e-6 * count or not 0 <= round(value) <= count:
            raise InputError(
                f"row {row} has win rate {scores.win_rates[row]}, which is no share of {count} anchors: give the file "
                "that was their --test_path as anchor file"
            )
    met = np.full(len(scored), count, dtype=np.int32)
    return ScoreTable(
        candidate_ids=pa.array([key for key, _, _ in scored], pa.string()),
        candidate_rows=np.array([row for _, row, _ in scored], dtype=np.int64),
        shards=np.array([shard for _, _, shard in scored], dtype=np.int32),
        wins=np.array([round(value) for value in wins], dtype=np.int32),
        cells=met,
        anchors=met,
        mean_gain=np.array([_mean_gain(scores.sums.get(row), count, row) for _, row, _ in scored]),
    )


def _mean_gain(sums: list[list[float]] | None, count: int, row: int) -> float:
    if sums is None:
        return float("nan")
    if [len(side) for side in sums] != [count, count]:
        raise InputError(
            f"row {row} has raw sums for {' and '.join(str(len(side)) for side in sums)} anchors, not zero-shot and "
            f"one-shot sums for the {count} of the anchor file"
        )
    zero_shot, one_shot = np.array(sums)
    return float((one_shot - zero_shot).mean())


def _load(path: Path, *, raw: bool) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): copy it again, or move it away") from error
    is_value = _is_sums if raw else _is_win_rate
    if not isinstance(content, dict) or not all(
        key.isdecimal() and isinstance(values, list) and values and all(map(is_value, values))
        for key, values in content.items()
    ):
        found = "lists of sums" if raw else "win rates"
        raise InputError(f"{path} does not map pool rows to {found}: it was not written by the authors' program")
    return content


def _is_win_rate(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_sums(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)
