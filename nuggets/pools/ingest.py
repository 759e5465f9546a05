"""Ingest: read a pool and write its distinct, usable examples to the store, in shards in the order of example ids.

Ids are hashes, so each shard is a random sample of the pool. A shard holds a narrow range of ids, so few blocks of
cells overlap it, even where the cells were computed for another pool. Equal examples are neighbours.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from nuggets.errors import InputError
from nuggets.examples import RECOGNISED, FieldNames, PoolRow, Position, Reject, RejectReason
from nuggets.pools.distinct_rows import ID_SPLITS, DistinctRows
from nuggets.pools.readers.content_digest import ContentDigest
from nuggets.pools.readers.detect import PoolSource, check_unchanged
from nuggets.pools.readers.rows import read_pool
from nuggets.pools.shards import Pool, pool_record_path, read_pool_record
from nuggets.store.addresses import digest
from nuggets.store.external_sort import MEMORY, external_sort
from nuggets.store.parquet import table_bytes
from nuggets.store.records import write_record
from nuggets.store.store import Store
from nuggets.store.temporary import temporary_folder

POOL_VERSION = 5  # raised when the same source would give other shards
_ADVICE = {
    RejectReason.NOT_AN_OBJECT: "make each row an object with fields",
    RejectReason.UNDECODABLE: "repair the rows that can't be decoded",
    RejectReason.UNKNOWN_FIELDS: "name the fields with --instruction-field, --input-field and --output-field",
    RejectReason.MISSING_INSTRUCTION: "fill or remove rows without an instruction",
    RejectReason.MISSING_OUTPUT: "fill or remove rows without an output",
    RejectReason.NO_EXCHANGE: "remove conversations without an exchange of user and assistant",
    RejectReason.TOOL_CALL: "remove conversations that begin with a tool call",
    RejectReason.NOT_TEXT: "make the fields texts",
    RejectReason.TOO_LARGE: "raise --max-row-bytes",
}


def ingest_pool(
    store: Store,
    source: PoolSource,
    source_digest: str,
    *,
    shard_size: int,
    max_row_bytes: int,
    max_rejected_share: float,
    memory: int = MEMORY,
    names: FieldNames = RECOGNISED,
) -> Pool:
    """The pool of a source, taken from the store if the same content was ingested before.

    Rows beyond `memory` bytes are sorted on disk. Of equal examples the first row is kept. Raises InputError if no row
    can be used, or if more than `max_rejected_share` can't; `rejects.jsonl` is written before that. Raises InputError
    and stores no pool if the content differs from `source_digest`.
    """
    pool_id = digest(
        {
            "version": POOL_VERSION,
            "source": source_digest,
            "formats": [file.format for file in source.files],
            "rows_key": source.rows_key,
            "shard_size": shard_size,
            "max_row_bytes": max_row_bytes,
            **names.identity,
        }
    )
    pool = _stored(store, pool_id)
    if pool is None:
        rows = _rows(source, source_digest, max_row_bytes=max_row_bytes, names=names)
        pool = _ingest(store, f"pools/{pool_id}", rows, shard_size=shard_size, memory=memory)
        # Last, because its presence means that all shards are stored.
        write_record(store, pool_record_path(pool_id), replace(pool, source=source.name))
    # The same content may have been ingested from another address; messages name the current one.
    pool = replace(pool, source=source.name)
    _check_usable(store, pool, max_rejected_share)
    return pool


def described_rejects(store: Store, pool: Pool) -> str:
    """Text for the log: how many rows can't be used, why, and the first row of the most frequent reason."""
    if not pool.rejects:
        return "0 rejected"
    reasons = ", ".join(f"{reason} {count}" for reason, count in pool.rejects.items())
    return f"{sum(pool.rejects.values())} rejected ({reasons}{_first_reject(pool)}; see {store.uri(pool.rejects_path)})"


def _first_reject(pool: Pool) -> str:
    if not pool.rejects:
        return ""
    most = max(pool.rejects, key=lambda reason: pool.rejects[reason])
    kind = f" {most}" if len(pool.rejects) > 1 else ""
    return f"; the first{kind} is {pool.first_rejects[most]}" if most in pool.first_rejects else ""


def _rows(
    source: PoolSource, source_digest: str, *, max_row_bytes: int, names: FieldNames
) -> Iterator[tuple[Position, PoolRow | Reject]]:
    content = ContentDigest()
    yield from read_pool(source, max_row_bytes=max_row_bytes, names=names, content=content)
    check_unchanged(source, source_digest, content)


def _stored(store: Store, pool_id: str) -> Pool | None:
    """The record of a complete pool; None where a shard is missing, for example because a damaged one was deleted."""
    paths = set(store.list(f"pools/{pool_id}"))
    if pool_record_path(pool_id) not in paths:
        return None
    pool = read_pool_record(store, pool_id)
    return pool if paths.issuperset((*pool.shards, pool.rejects_path)) else None


def _ingest(
    store: Store, folder: str, items: Iterable[tuple[Position, PoolRow | Reject]], *, shard_size: int, memory: int
) -> Pool:
    rejects: Counter[str] = Counter()
    first_rejects: dict[str, str] = {}
    rows = usable = dropped_turns = system_messages = dropped_instances = 0
    shards: list[str] = []
    sizes: list[int] = []
    rejects_path = f"{folder}/rejects.jsonl"
    with (
        external_sort("example_id", splits=ID_SPLITS, memory=memory // 2) as by_id,
        temporary_folder() as temporary,
    ):
        distinct = DistinctRows(by_id, memory=memory)
        rejects_file = temporary / "rejects.jsonl"
        with rejects_file.open("wb") as file:
            for position, item in items:
                rows += 1
                if isinstance(item, Reject):
                    rejects[str(item.reason)] += 1
                    first_rejects.setdefault(str(item.reason), f"{position}: {item.detail}")
                    file.write(_reject_line(position, item) + b"\n")
                    continue
                usable += 1
                dropped_turns += item.dropped_turns
                system_messages += item.system_messages
                dropped_instances += item.dropped_instances
                distinct.add(position.row, item)
        store.write_file(rejects_path, rejects_file)
        for table in distinct.shards(shard_size):
            shards.append(f"{folder}/shard-{len(shards):05d}.parquet")
            sizes.append(table.num_rows)
            store.write(shards[-1], table_bytes({name: table[name] for name in table.column_names}))
    return Pool(
        id=folder.rpartition("/")[2],
        source="",
        rows=rows,
        examples=sum(sizes),
        duplicates=usable - sum(sizes),
        dropped_turns=dropped_turns,
        rejects={str(reason): rejects[str(reason)] for reason in RejectReason if rejects[str(reason)]},
        rejects_path=rejects_path,
        shards=tuple(shards),
        shard_examples=tuple(sizes),
        first_rejects=first_rejects,
        system_messages=system_messages,
        dropped_instances=dropped_instances,
    )


def _reject_line(position: Position, reject: Reject) -> bytes:
    fields = {"row": position.row, "reason": reject.reason, "detail": reject.detail}
    inside = {"line": position.line, "file": position.file}
    return json.dumps(fields | {name: value for name, value in inside.items() if value is not None}).encode()


def _check_usable(store: Store, pool: Pool, max_rejected_share: float) -> None:
    if pool.rows == 0:
        raise InputError(f"pool '{pool.source}' has no rows: give a file with at least one example")
    rejected = sum(pool.rejects.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in pool.rejects.items())
    problem = f"{rejected} of {pool.rows} rows of pool '{pool.source}' can't be used ({reasons}{_first_reject(pool)})"
    most = sorted(pool.rejects, key=lambda reason: -pool.rejects[reason])
    advice = [_ADVICE[RejectReason(reason)] for reason in most]
    where = f"all of them are in {store.uri(pool.rejects_path)}"
    if pool.examples == 0:
        raise InputError(f"{problem}: {', '.join(advice)}; {where}")
    if rejected > max_rejected_share * pool.rows:
        raise InputError(
            f"{problem}, more than max_rejected_share={max_rejected_share} allows: {', '.join(advice)}, or raise the "
            f"share; {where}"
        )
