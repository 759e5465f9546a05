"""The format and the files of the pool at an address, found by names and first bytes."""

import codecs
import json
import posixpath
from dataclasses import dataclass
from typing import Any, Literal

from nuggets.errors import InputError, StoreError, StoreUnavailable, UsageError
from nuggets.pools.readers.remote_file import GZIP_ERRORS, ContentDigest, StoredFile, sha256_of, uncompressed
from nuggets.store.file_systems import call_file_system, locate

Kind = Literal["json_array", "jsonl", "csv", "tsv", "parquet", "arrow_folder"]
KNOWN_FORMATS = (
    ".json, .jsonl, .ndjson, .csv or .tsv (each also with .gz), .parquet, a folder of .parquet files, "
    "or a folder saved by Hugging Face datasets (save_to_disk)"
)
_PIECE_BYTES = 64 << 10
_JSON_SPACE = b" \t\r\n"
_FOREIGN_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32-LE starts like UTF-16-LE


@dataclass(frozen=True, slots=True)
class PoolSource:
    """An existing pool: the address that the user gave, its format, and its files in reading order."""

    url: str
    kind: Kind
    files: tuple[str, ...]  # full addresses; local ones are absolute paths, so that every task means the same file
    endpoint: str | None = None  # URL of the S3 server of s3:// addresses; None leaves it to the AWS environment


def find_source(url: str, endpoint: str | None = None) -> PoolSource:
    """The pool at a local path or URL. Raises UsageError if there is none or its format is not known.

    Raises StoreUnavailable where a server does not answer.
    """
    try:
        return _source_at(url, endpoint)
    except GZIP_ERRORS as error:
        raise UsageError(f"'{url}' ends in .gz but is not valid gzip ({error}). Rename or compress it again") from error
    except StoreUnavailable:
        raise
    except StoreError as error:
        raise UsageError(
            f"'{url}' can't be read: {_cause(error)}. Check address, credentials and permissions"
        ) from error
    except OSError as error:
        raise UsageError(f"'{url}' can't be read: {error}. Check address, credentials and permissions") from error


def _cause(error: StoreError) -> object:
    cause = error.__cause__
    return getattr(cause, "strerror", None) or cause or error


def _source_at(url: str, endpoint: str | None) -> PoolSource:
    def names_below(filesystem: Any, path: str) -> list[str] | None:
        """The names in a folder, None for a file."""
        if not filesystem.exists(path):
            raise UsageError(f"no file or folder at '{url}'. Give the path or URL of a pool: {KNOWN_FORMATS}")
        if not filesystem.isdir(path):
            return None
        return sorted(posixpath.basename(name.rstrip("/")) for name in filesystem.ls(path, detail=False))

    names = call_file_system("read", url, endpoint, names_below)
    is_url = "://" in url and not url.startswith("file://")
    address = url.rstrip("/") if is_url else locate(url)[1]
    return _file_source(address, endpoint) if names is None else _folder_source(address, endpoint, names)


def _file_source(address: str, endpoint: str | None) -> PoolSource:
    if call_file_system("read", address, endpoint, lambda filesystem, path: filesystem.size(path)) == 0:
        raise UsageError(f"'{address}' is an empty file. Give a file with at least one row")
    name = address.lower()
    if name.endswith(".parquet"):
        return PoolSource(address, "parquet", (address,), endpoint)
    plain = name.removesuffix(".gz")
    if not plain.endswith((".json", ".jsonl", ".ndjson", ".csv", ".tsv")):
        raise UsageError(f"the format of '{address}' is not known. Known formats: {KNOWN_FORMATS}")
    first = _first_character(address, endpoint)
    if plain.endswith((".csv", ".tsv")):
        return PoolSource(address, "csv" if plain.endswith(".csv") else "tsv", (address,), endpoint)
    is_array = plain.endswith(".json") and first == b"["
    return PoolSource(address, "json_array" if is_array else "jsonl", (address,), endpoint)


def _first_character(address: str, endpoint: str | None) -> bytes:
    with StoredFile(address, endpoint) as file:
        text = uncompressed(file)
        piece: bytes = text.read(_PIECE_BYTES)
        if piece.startswith(_FOREIGN_BOMS):
            raise UsageError(f"'{address}' is UTF-16 or UTF-32. Convert it to UTF-8, for example with iconv")
        piece = piece.removeprefix(codecs.BOM_UTF8)
        while piece and not piece.lstrip(_JSON_SPACE):
            piece = text.read(_PIECE_BYTES)
    if not piece:
        raise UsageError(f"'{address}' has no rows. Give a file with at least one row")
    return piece.lstrip(_JSON_SPACE)[:1]


def _folder_source(address: str, endpoint: str | None, names: list[str]) -> PoolSource:
    if "dataset_dict.json" in names:
        splits = [str(split) for split in _read_json(f"{address}/dataset_dict.json", endpoint).get("splits", [])]
        if "train" not in splits and len(splits) != 1:
            choices = ", ".join(f"{address}/{split}" for split in splits) or "none"
            raise UsageError(f"'{address}' has several splits, and none of them is named train. Give one of: {choices}")
        split = "train" if "train" in splits else splits[0]
        return find_source(f"{address}/{split}", endpoint)
    if "state.json" in names:
        return _saved_dataset(address, endpoint)
    parquet = [name for name in names if name.lower().endswith(".parquet") and not name.startswith((".", "_"))]
    if not parquet:
        raise UsageError(f"no pool in the folder '{address}'. Known formats: {KNOWN_FORMATS}")
    return PoolSource(address, "parquet", tuple(f"{address}/{name}" for name in parquet), endpoint)


def _saved_dataset(address: str, endpoint: str | None) -> PoolSource:
    state = _read_json(f"{address}/state.json", endpoint)
    if state.get("_indices_data_files"):  # only datasets 1.x: the data set is a selection of the files' rows
        raise UsageError(f"'{address}' was saved with an indices mapping. Call flatten_indices() and save it again")
    try:
        files = tuple(f"{address}/{entry['filename']}" for entry in state["_data_files"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"'{address}/state.json' names no _data_files. Save the dataset again") from error
    if not files:
        raise UsageError(f"'{address}' is an empty dataset. Give one with at least one row")
    for file in files:
        if not call_file_system("read", file, endpoint, lambda filesystem, path: filesystem.exists(path)):
            raise UsageError(f"'{file}' is named in state.json but missing. Copy or save the whole folder again")
    return PoolSource(address, "arrow_folder", files, endpoint)


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


def source_digest(source: PoolSource) -> str:
    """SHA-256, in hex, of the stored bytes of the files in order; it does not depend on their address."""
    return sha256_of(source.files, source.endpoint)


def check_unchanged(source: PoolSource, expected: str, content: ContentDigest | None = None) -> None:
    """Raise InputError if the files that have just been read are not those of the digest `expected`.

    Without this check, what was read would be stored under the address of other content. `content` is the digest of
    what was read; where it is not whole, the files are read once more.
    """
    digest = content.hexdigest() if content is not None and content.is_whole else source_digest(source)
    if digest != expected:
        raise InputError(
            f"'{source.url}' was changed while it was read (SHA-256 {expected} before, {digest} now): stop other "
            "programs from writing to it and run again"
        )
