"""Ingest: a pool as it comes, turned into shards of distinct, usable examples in the store."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from nuggets.addresses import digest
from nuggets.columns import read_table, table_bytes
from nuggets.errors import InputError
from nuggets.examples import Example, PoolRow, Reject, RejectReason, example_id
from nuggets.readers import PoolSource, read_pool
from nuggets.store import Store

POOL_VERSION = 2  # raised when the same source would give other shards


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool in the store: what was found in its source, and where its shards lie."""

    id: str
    source: str
    rows: int
    examples: int
    duplicates: int  # rows whose example stood in an earlier row already
    dropped_turns: int
    rejects: dict[str, int]  # reason -> rows
    rejects_path: str
    shards: tuple[str, ...]  # paths, in the order of the source
    shard_examples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An example of the pool with its id and the 0-based row where it first stood."""

    id: str
    row: int
    example: Example


def ingest_pool(
    store: Store,
    source: PoolSource,
    fingerprint: str,
    *,
    shard_size: int,
    max_row_bytes: int,
    max_rejected_share: float,
) -> Pool:
    """The pool of a source, taken from the store if the same content was ingested before.

    One shard is held in memory at a time, and 16 bytes of each example's id to find duplicates. Raises InputError if
    no row, or less than the asked share of rows, can be used; `rejects.jsonl` is written before that.
    """
    pool_id = digest(
        {
            "version": POOL_VERSION,
            "fingerprint": fingerprint,
            "kind": source.kind,
            "shard_size": shard_size,
            "max_row_bytes": max_row_bytes,
        }
    )
    folder = f"pools/{pool_id}"
    if store.exists(f"{folder}/pool.json"):
        # The same content may have come from elsewhere then; messages name what was given now.
        pool = replace(read_pool_record(store, pool_id), source=source.url)
    else:
        pool = _ingest(store, source, folder, shard_size=shard_size, max_row_bytes=max_row_bytes)
        # Last, because its presence says that the shards are all there.
        store.write(f"{folder}/pool.json", json.dumps(asdict(pool), indent=1).encode())
    _check_usable(store, pool, max_rejected_share)
    return pool


def read_pool_record(store: Store, pool_id: str) -> Pool:
    """The record that ingest left of a pool."""
    fields = store.read_json(f"pools/{pool_id}/pool.json")
    return Pool(**{**fields, "shards": tuple(fields["shards"]), "shard_examples": tuple(fields["shard_examples"])})


def read_candidates(store: Store, shard: str) -> list[Candidate]:
    """The examples of a shard, in the order of the source."""
    table = read_table(store, shard, ["example_id", "row", "instruction", "input", "output"])
    columns = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return [Candidate(key, row, Example(*texts)) for key, row, *texts in columns]


def read_ids(store: Store, shards: Iterable[str]) -> tuple[list[str], list[int]]:
    """Example ids and rows of some shards, in order."""
    ids: list[str] = []
    rows: list[int] = []
    for shard in shards:
        table = read_table(store, shard, ["example_id", "row"])
        ids.extend(table["example_id"].to_pylist())
        rows.extend(table["row"].to_pylist())
    return ids, rows


def read_records(store: Store, shards: Iterable[str]) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    """Candidates with their rows as they stood in the source, one shard in memory at a time."""
    for shard in shards:
        originals = read_table(store, shard, ["original"])["original"].to_pylist()
        for candidate, original in zip(read_candidates(store, shard), originals, strict=True):
            yield candidate, json.loads(original)


def _ingest(store: Store, source: PoolSource, folder: str, *, shard_size: int, max_row_bytes: int) -> Pool:
    seen: set[bytes] = set()
    rejects: list[Reject] = []
    shards: list[str] = []
    sizes: list[int] = []
    pending: list[tuple[str, PoolRow]] = []
    rows = duplicates = dropped_turns = 0

    def write_shard() -> None:
        shards.append(f"{folder}/shard-{len(shards):05d}.parquet")
        sizes.append(len(pending))
        store.write(shards[-1], _shard_bytes(pending))
        pending.clear()

    for item in read_pool(source, max_row_bytes=max_row_bytes):
        rows += 1
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        dropped_turns += item.dropped_turns
        key = example_id(item.example)
        if bytes.fromhex(key) in seen:
            duplicates += 1
            continue
        seen.add(bytes.fromhex(key))
        pending.append((key, item))
        if len(pending) == shard_size:
            write_shard()
    if pending:
        write_shard()
    rejects_path = f"{folder}/rejects.jsonl"
    store.write(rejects_path, b"".join(json.dumps(asdict(item)).encode() + b"\n" for item in rejects))
    counts = Counter(str(item.reason) for item in rejects)
    return Pool(
        id=folder.rpartition("/")[2],
        source=source.url,
        rows=rows,
        examples=len(seen),
        duplicates=duplicates,
        dropped_turns=dropped_turns,
        rejects={str(reason): counts[str(reason)] for reason in RejectReason if counts[str(reason)]},
        rejects_path=rejects_path,
        shards=tuple(shards),
        shard_examples=tuple(sizes),
    )


def _shard_bytes(rows: list[tuple[str, PoolRow]]) -> bytes:
    return table_bytes(
        {
            "example_id": [key for key, _ in rows],
            "row": [item.row for _, item in rows],
            "instruction": [item.example.instruction for _, item in rows],
            "input": [item.example.input for _, item in rows],
            "output": [item.example.output for _, item in rows],
            "original": [_strict_json(item.original) for _, item in rows],
        }
    )


def _strict_json(value: object) -> str:
    """JSON that every reader takes: NaN and infinities, which tables hold and JSON does not know, become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        cleaned = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(cleaned, ensure_ascii=False)


def _check_usable(store: Store, pool: Pool, max_rejected_share: float) -> None:
    if pool.rows == 0:
        raise InputError(f"pool '{pool.source}' has no rows: give a file with at least one example")
    rejected = sum(pool.rejects.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in pool.rejects.items())
    found = f"{rejected} of {pool.rows} rows of pool '{pool.source}' can't be used ({reasons})"
    where = f"see {store.uri(pool.rejects_path)}, mend the pool"
    if pool.examples == 0:
        raise InputError(f"{found}: {where}")
    if rejected > max_rejected_share * pool.rows:
        raise InputError(
            f"{found}, more than max_rejected_share={max_rejected_share} allows: {where}, or raise the share"
        )
