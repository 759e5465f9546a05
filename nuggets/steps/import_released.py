"""Import of golden scores that the authors' released program wrote, as a run that new cuts can be made on.

The program writes `{start}_{end}_score.json`, `{"<pool row>": [win rate per kv_iter]}`, and
`{start}_{end}_raw_score.json`, `{"<pool row>": [[zero-shot sums], [one-shot sums]]}`, sums in nats rounded to two
decimals. Rows count from 0 in the pool file that was given as --prompt_path; anchors are those of --test_path.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nuggets.anchors.anchor_set import (
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
from nuggets.pools.shards import Pool, read_ids
from nuggets.runs.manifest import Run, RunState, open_run, record_state
from nuggets.scores.golden import ScoreTable
from nuggets.scores.score_table import write_score_table
from nuggets.store.addresses import digest
from nuggets.store.store import Store
from nuggets.store.user_address import with_full_path

_NAME = re.compile(r"(\d+)_(\d+)_(raw_)?score\.json")


@dataclass(frozen=True, slots=True)
class ReleasedScores:
    """Per pool row the win rate (0 to 1), and the sums `(2, anchors)` where the raw files exist."""

    win_rates: dict[int, float]
    sums: dict[int, list[list[float]]]
    files: tuple[str, ...]


def read_released_scores(folder: Path) -> ReleasedScores:
    """Read all score files of a folder. Raises InputError for a damaged file, or two that disagree about a row."""
    if not folder.is_dir():
        raise UsageError(
            f"{with_full_path(str(folder))} is not a folder: give the --save_path that the authors' program wrote to"
        )
    win_rates: dict[int, float] = {}
    sums: dict[int, list[list[float]]] = {}
    files = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    for path in files:
        is_raw = "_raw_" in path.name
        by_row: dict[int, Any] = sums if is_raw else win_rates
        for row, values in _load(path, is_raw=is_raw).items():
            value: Any = values if is_raw else values[-1]  # one win rate per kv_iter: the last one is the result
            if by_row.setdefault(int(row), value) != value:
                raise InputError(f"{path}: row {row} has {value}, another file in {folder} has {by_row[int(row)]}")
    if not win_rates:
        raise UsageError(f"no {{start}}_{{end}}_score.json in '{folder}': give the folder that holds these files")
    return ReleasedScores(win_rates, sums, tuple(path.name for path in files))


def import_scores(store: Store, folder: Path, *, pool: str, anchor_file: str, run: str | None = None) -> Run:
    """Make a complete run of released scores, with exactly these golden scores.

    Candidates without a score (rows that were not run yet) are left out and counted. Mean gains come from the raw sums
    and are in nats per anchor, because the files hold no token counts. Without raw sums gains are unknown, and ties are
    broken by example id alone.
    """
    scores = read_released_scores(folder)
    anchor_source = find_source(anchor_file, store.endpoint)
    anchor_digest = source_digest(anchor_source)
    anchors = anchors_from_file(anchor_source, max_row_bytes=MAX_ROW_BYTES)
    check_unchanged(anchor_source, anchor_digest)
    source = find_source(pool, store.endpoint)
    pool_digest = source_digest(source)
    ingested = ingest_pool(
        store, source, pool_digest, shard_size=SHARD_SIZE, max_row_bytes=MAX_ROW_BYTES, max_rejected_share=1.0
    )
    beyond = [row for row in scores.win_rates if row >= ingested.rows]
    if beyond:
        raise InputError(
            f"the score files name row {max(beyond)}, but pool '{pool}' has {ingested.rows} rows: give the file that "
            "was their --prompt_path"
        )
    table = _table(scores, _scored_rows(store, ingested, scores), anchors=len(anchors))
    anchors_path = anchor_set_path(anchor_set_digest(anchors))
    write_anchor_set(store, anchors_path, AnchorSet(tuple(anchors)))
    identity = {
        "pool": pool_digest,
        "anchors": f"file {anchor_digest}",
        "profile": "released",
        "dtype": "unknown",
        "imported": digest([[row, rate, scores.sums.get(row)] for row, rate in sorted(scores.win_rates.items())]),
    }
    inputs = {
        "pool": {
            "source": pool,
            "digest": pool_digest,
            "not_used": [asdict(item) for item in (*source.left_out, *anchor_source.left_out)],
        },
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


def _scored_rows(store: Store, pool: Pool, scores: ReleasedScores) -> list[tuple[str, int, int]]:
    """Example id, pool row and shard of the candidates that have a score. Raises InputError if there are none."""
    scored = [
        (example_id, row, shard)
        for shard, path in enumerate(pool.shards)
        for ids, rows in [read_ids(store, path)]
        for example_id, row in zip(ids.to_pylist(), rows.tolist(), strict=True)
        if row in scores.win_rates
    ]
    if not scored:
        raise InputError(
            "no usable example of the pool has a score in the files: pool and files do not belong together"
        )
    return scored


def _table(scores: ReleasedScores, scored: Sequence[tuple[str, int, int]], *, anchors: int) -> ScoreTable:
    complete = np.full(len(scored), anchors, dtype=np.int32)
    return ScoreTable(
        candidate_ids=pa.array([example_id for example_id, _, _ in scored], pa.string()),
        candidate_rows=np.array([row for _, row, _ in scored], dtype=np.int64),
        shards=np.array([shard for _, _, shard in scored], dtype=np.int32),
        wins=np.array([_wins(scores.win_rates[row], anchors, row) for _, row, _ in scored], dtype=np.int32),
        cells=complete,
        anchors=complete,
        mean_gain=np.array([_mean_gain(scores.sums.get(row), anchors, row) for _, row, _ in scored]),
    )


def _wins(win_rate: float, anchors: int, row: int) -> int:
    wins = round(win_rate * anchors)
    if abs(win_rate * anchors - wins) > 1e-6 * anchors or not 0 <= wins <= anchors:
        raise InputError(
            f"row {row} has win rate {win_rate}, which is no share of {anchors} anchors: give the file that was their "
            "--test_path as anchor file"
        )
    return wins


def _mean_gain(sums: list[list[float]] | None, anchors: int, row: int) -> float:
    if sums is None:
        return float("nan")
    if [len(side) for side in sums] != [anchors, anchors]:
        raise InputError(
            f"row {row} has raw sums for {' and '.join(str(len(side)) for side in sums)} anchors, not zero-shot and "
            f"one-shot sums for the {anchors} of the anchor file"
        )
    zero_shot, one_shot = np.array(sums)
    return float((one_shot - zero_shot).mean())


def _load(path: Path, *, is_raw: bool) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): copy it again, or move it away") from error
    is_value = _is_sums if is_raw else _is_win_rate
    if not isinstance(content, dict) or not all(
        key.isdecimal() and isinstance(values, list) and values and all(map(is_value, values))
        for key, values in content.items()
    ):
        expected = "lists of sums" if is_raw else "win rates"
        raise InputError(f"{path} does not map pool rows to {expected}: it was not written by the authors' program")
    return content


def _is_win_rate(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_sums(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)
