"""Prompt notes: what a candidate's demonstration lacks or holds, found before anything is scored.

```
prompts/<scoring key>/<pool>/<shard>.parquet     the notes of one shard; nuggets gc deletes them after they are joined
prompts/<scoring key>/<pool>/pool.parquet        the notes of all shards; if it exists, every candidate was checked
prompts/<scoring key>/<anchors>/anchors.parquet  the notes on an anchor set
```

A candidate has a row if its prompt has anything to count: a cut, a special token in a text, a text that the tokenizer
alters, or a fault for which the candidate must not be scored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nuggets.errors import StoreError
from nuggets.store.addresses import digest
from nuggets.store.parquet import read_table, table_bytes
from nuggets.store.store import Store

NOTES_VERSION = 1  # raised when the same prompts would give other notes
POOL_NOTES = "pool.parquet"
ANCHOR_NOTES = "anchors.parquet"
_SCHEMA = pa.schema(
    [
        ("candidate_id", pa.string()),
        ("candidate_row", pa.int64()),
        ("cut_prompt", pa.int32()),
        ("cut_response", pa.int32()),
        ("special_tokens", pa.int32()),
        ("altered", pa.int32()),
        ("fault", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class PromptNote:
    """A candidate and its 0-based row, the tokens cut from its prompt and its response, and what else was noted.

    `special_tokens` is how many special tokens its texts hold. `altered` is 1 if the tokens do not give back the texts
    as they are. `fault` is why it must not be scored, None if it may.
    """

    candidate_id: str
    candidate_row: int
    cut_prompt: int
    cut_response: int
    special_tokens: int
    altered: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class PromptNotes:
    """The notes of a pool, in the order of example ids, as a table with the fields of PromptNote."""

    table: Any

    @property
    def faults(self) -> Mapping[str, str]:
        """The candidates that must not be scored, each with its fault."""
        faulty = self.table.filter(self._is_faulty)
        return dict(zip(faulty["candidate_id"].to_pylist(), faulty["fault"].to_pylist(), strict=True))

    def cut_tokens(self, candidate_ids: Any) -> Any:
        """How many tokens were cut from the demonstration of each candidate: a pyarrow array of int32."""
        total = pc.add(self.table["cut_prompt"], self.table["cut_response"])
        cut = total.combine_chunks().take(self._positions(candidate_ids))
        return pc.fill_null(cut, pa.scalar(0, pa.int32()))

    def fault_of(self, candidate_ids: Any) -> Any:
        """The fault of each candidate: a pyarrow array of strings, null where there is none."""
        return self.table["fault"].combine_chunks().take(self._positions(candidate_ids))

    def rows_with(self, column: str) -> list[int]:
        """The rows of scored candidates with `column` above 0, in ascending order."""
        chosen = pc.and_(pc.greater(self.table[column], 0), pc.invert(self._is_faulty))
        return sorted(self.table.filter(chosen)["candidate_row"].to_pylist())

    def rows_by_fault(self) -> dict[str, list[int]]:
        """The rows of the candidates that must not be scored, by fault, each in ascending order."""
        faulty = self.table.filter(self._is_faulty)
        rows: dict[str, list[int]] = {}
        for row, fault in sorted(zip(faulty["candidate_row"].to_pylist(), faulty["fault"].to_pylist(), strict=True)):
            rows.setdefault(fault, []).append(row)
        return rows

    @property
    def _is_faulty(self) -> Any:
        return pc.is_valid(self.table["fault"])

    def _positions(self, candidate_ids: Any) -> Any:
        """The position of each candidate in the table, null where it has no note."""
        return pc.index_in(candidate_ids, value_set=self.table["candidate_id"].combine_chunks())


def notes_folder(scoring_key: str, source: str) -> str:
    """The folder of the notes under a scoring key on a pool, by its id, or on an anchor set, by its path."""
    return f"prompts/{scoring_key}/{digest([NOTES_VERSION, source])}"


def shard_notes_path(scoring_key: str, pool_id: str, index: int) -> str:
    """The path of a shard's notes."""
    return f"{notes_folder(scoring_key, pool_id)}/{index:05d}.parquet"


def pool_notes_path(scoring_key: str, pool_id: str) -> str:
    """The path of a pool's joined notes."""
    return f"{notes_folder(scoring_key, pool_id)}/{POOL_NOTES}"


def anchor_notes_path(scoring_key: str, anchors_path: str) -> str:
    """The path of the notes on an anchor set; their rows are positions in the set."""
    return f"{notes_folder(scoring_key, anchors_path)}/{ANCHOR_NOTES}"


def write_notes(store: Store, path: str, notes: Sequence[PromptNote]) -> None:
    """Store the notes of a shard."""
    columns = zip(*map(astuple, notes), strict=True) if notes else [[] for _ in _SCHEMA]
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
    store.write(path, table_bytes(dict(zip(_SCHEMA.names, arrays, strict=True))))


def join_notes(store: Store, path: str, parts: Iterable[str]) -> None:
    """Store the notes of all shards, which are at `parts` in the order of the pool, as one table."""
    joined = pa.concat_tables([_SCHEMA.empty_table(), *(read_table(store, part, _SCHEMA.names) for part in parts)])
    store.write(path, table_bytes({name: joined[name].combine_chunks() for name in _SCHEMA.names}))


def read_notes(store: Store, path: str) -> PromptNotes:
    """A pool's joined notes. Raises StoreError if there are none."""
    try:
        return PromptNotes(read_table(store, path, _SCHEMA.names))
    except FileNotFoundError as error:
        raise StoreError(
            f"the notes on prompts at {store.uri(path)} are missing: run the same nuggets curate command again, which "
            "makes them and computes no stored cell again"
        ) from error
