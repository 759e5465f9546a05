"""Folders as save_to_disk of Hugging Face datasets writes them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa


def save_dataset(folder: Path, rows: list[dict[str, Any]], files: int = 1, **state: Any) -> Path:
    """A folder as save_to_disk of Hugging Face datasets writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    schema = pa.Table.from_pylist(rows).schema
    for i, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            share = rows[i * len(rows) // files : (i + 1) * len(rows) // files]
            stream.write_table(pa.Table.from_pylist(share, schema), max_chunksize=2)
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}, "splits": None}))
    content = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1f", "_split": None} | state
    (folder / "state.json").write_text(json.dumps(content))
    return folder
