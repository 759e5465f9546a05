"""The files of a pool in a folder: files of one format, a dataset saved by Hugging Face datasets, or a hub layout."""

import json
import posixpath
from collections.abc import Iterator
from typing import Any

from nuggets.errors import UsageError
from nuggets.pools.left_out import LeftOut
from nuggets.pools.readers.dataset_card import card_files
from nuggets.pools.readers.formats import KNOWN_FORMATS, PoolFile, ending_of, format_of
from nuggets.pools.readers.splits import split_of
from nuggets.store.file_systems import call_file_system

SplitFile = tuple[PoolFile, str | None]  # a file and the split that it belongs to
_DEPTH = 3  # data/train/part.parquet
_METADATA = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
_SHOWN = 5


def folder_files(address: str, endpoint: str | None) -> tuple[list[SplitFile], tuple[LeftOut, ...]]:
    """The files of a folder with their splits, in the order of their names, and what is left out.

    Raises UsageError if the folder holds no pool, or files of several formats.
    """
    names = _names_below(address, endpoint)
    if "dataset_dict.json" in names:
        splits = _read_json(f"{address}/dataset_dict.json", endpoint).get("splits", [])
        return [(file, str(split)) for split in splits for file in _saved_dataset(f"{address}/{split}", endpoint)], ()
    if "state.json" in names:
        return [(file, None) for file in _saved_dataset(address, endpoint)], ()
    if "README.md" in names and (named := card_files(address, endpoint)):
        return [(PoolFile(f"{address}/{name}", format_of(name, endpoint)), split) for name, split in named], ()
    data = [name for name in names if _is_data(name)]
    chosen, left_out = _of_one_format(address, data)
    if not chosen:
        raise UsageError(
            f"no pool in the folder '{address}'. Known formats: {KNOWN_FORMATS}. Folders inside it are read if "
            "they are named data or after a split, such as train"
        )
    return [(PoolFile(f"{address}/{name}", format_of(name, endpoint)), split_of(name)) for name in chosen], left_out


def is_data_name(name: str) -> bool:
    """Whether a file of this name holds rows, and not metadata of a dataset or of a file system."""
    return not name.startswith((".", "_")) and name not in _METADATA and ending_of(name) is not None


def _names_below(address: str, endpoint: str | None) -> list[str]:
    """The paths of all files down to a few levels, relative to the folder."""

    def find(filesystem: Any, path: str) -> list[str]:
        return [posixpath.relpath(name, path) for name in filesystem.find(path, maxdepth=_DEPTH)]

    return sorted(call_file_system("read", address, endpoint, find))


def _is_data(name: str) -> bool:
    *folders, file = name.split("/")
    return is_data_name(file) and all(_is_data_folder(folder) for folder in folders)


def _is_data_folder(name: str) -> bool:
    return name == "data" or (not name.startswith((".", "_")) and split_of(f"{name}/x") is not None)


def _of_one_format(address: str, names: list[str]) -> tuple[list[str], tuple[LeftOut, ...]]:
    by_ending: dict[str, list[str]] = {}
    for name in names:
        by_ending.setdefault(str(ending_of(name)).replace(".ndjson", ".jsonl"), []).append(name)
    # A .json file beside tables or JSON Lines describes them.
    left_out = by_ending.pop(".json") if len(by_ending) > 1 and ".json" in by_ending else []
    if len(by_ending) > 1:
        held = ", ".join(f"{ending} ({len(files)})" for ending, files in sorted(by_ending.items()))
        raise UsageError(
            f"the folder '{address}' holds files of several formats: {held}. Name those to read, such as "
            f"'{address}/*{min(by_ending)}'"
        )
    chosen = next(iter(by_ending.values()), [])
    shown = ", ".join(left_out[:_SHOWN]) + (", ..." if len(left_out) > _SHOWN else "")
    why = f"{shown}: the other files of folder '{address}' have another format"
    return chosen, (LeftOut("files of another format", len(left_out), why),) if left_out else ()


def _saved_dataset(address: str, endpoint: str | None) -> Iterator[PoolFile]:
    state = _read_json(f"{address}/state.json", endpoint)
    if state.get("_indices_data_files"):  # only datasets 1.x: the data set is a selection of the files' rows
        raise UsageError(f"'{address}' was saved with an indices mapping. Call flatten_indices() and save it again")
    try:
        files = [f"{address}/{entry['filename']}" for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise UsageError(f"'{address}/state.json' names no _data_files. Save the dataset again") from error
    if not files:
        raise UsageError(f"'{address}' is an empty dataset. Give one with at least one row")
    for file in files:
        if not call_file_system("read", file, endpoint, lambda filesystem, path: filesystem.exists(path)):
            raise UsageError(f"'{file}' is named in state.json but missing. Copy or save the whole folder again")
        yield PoolFile(file, "arrow")


def _read_json(address: str, endpoint: str | None) -> dict[str, Any]:
    try:
        content = json.loads(
            call_file_system("read", address, endpoint, lambda filesystem, path: filesystem.cat_file(path))
        )
    except ValueError as error:
        raise UsageError(f"'{address}' is not JSON ({error}). Save the dataset again") from error
    if not isinstance(content, dict):
        raise UsageError(f"'{address}' is not a JSON object. Save the dataset again")
    return content
