"""External sorting within a memory limit: nuggets' own against DuckDB's; each case in a separate process.

    pip install duckdb==2.0.1
    python benchmarks/sorting.py --rows 300000 --width 5000 --memory-mib 512 --json OUT

Rows have a random key of 32 hexadecimal digits and a text of `--width` bytes. Prints CPU seconds, the peak memory of
the process above what it had after importing, and whether all rows came back in order.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
_BATCH_BYTES = 8 << 20


def batches(rows: int, width: int) -> Iterator[Any]:
    """The rows as pyarrow record batches."""
    size = max(1, min(4096, _BATCH_BYTES // width))
    for start in range(0, rows, size):
        count = min(size, rows - start)
        keys = [os.urandom(16).hex() for _ in range(count)]
        yield pa.record_batch({"key": keys, "text": [f"{start + row:0{width}d}" for row in range(count)]})


def with_nuggets(rows: int, width: int, memory: int) -> Iterator[Any]:
    """Tables in the order of keys, sorted by nuggets."""
    from nuggets.store.external_sort import external_sort

    with external_sort("key", splits=[b"%02x" % first for first in range(1, 256)], memory=memory) as by_key:
        for batch in batches(rows, width):
            by_key.add(pa.Table.from_batches([batch]))
        yield from by_key.sorted()


def with_duckdb(rows: int, width: int, memory: int) -> Iterator[Any]:
    """Tables in the order of keys, sorted by DuckDB."""
    import duckdb

    schema = pa.schema([("key", pa.string()), ("text", pa.string())])
    with tempfile.TemporaryDirectory() as folder:
        options = {"threads": 2, "temp_directory": folder, "preserve_insertion_order": False}
        connection = duckdb.connect(config={"memory_limit": f"{memory >> 20}MiB", **options})
        connection.register("unsorted", pa.RecordBatchReader.from_batches(schema, batches(rows, width)))
        yield from connection.sql("select * from unsorted order by key").to_arrow_reader(4096)
        connection.close()


def run(by: str, rows: int, width: int, memory: int) -> dict[str, Any]:
    """One case in this process."""
    sort = {"nuggets": with_nuggets, "duckdb": with_duckdb}[by]
    __import__({"nuggets": "nuggets.store.external_sort", "duckdb": "duckdb"}[by])
    before = _peak_mib()
    returned, last, error = 0, "", ""
    try:
        for table in sort(rows, width, memory):
            keys = table["key"].to_pylist()
            if keys != sorted(keys) or keys[0] < last:
                error = "not sorted"
            returned, last = returned + len(keys), keys[-1]
    except Exception as problem:  # DuckDB's OutOfMemoryException: the result that is to be seen
        error = f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = round(usage.ru_utime + usage.ru_stime, 1)
    return {"by": by, "returned": returned, "cpu_seconds": cpu, "peak_mib": _peak_mib() - before, "error": error}


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure both, print, and write the JSON; or, as a child, run one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--width", type=int, default=5000, help="bytes of text per row; default 5000")
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--json", type=Path, help="a file of cases, to which these are added")
    parser.add_argument("--by", choices=["nuggets", "duckdb"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by:
        print(json.dumps(run(options.by, options.rows, options.width, options.memory_mib << 20)))
        return
    asked = {"rows": options.rows, "width": options.width, "memory_mib": options.memory_mib}
    cases = []
    for by in ("nuggets", "duckdb"):
        command = [sys.executable, __file__, "--by", by]
        command += [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        cases.append({"made_at": made_at} | asked | json.loads(done.stdout))
        print(json.dumps(cases[-1]), flush=True)
    if options.json:
        earlier = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else []
        options.json.write_text(json.dumps(earlier + cases, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
