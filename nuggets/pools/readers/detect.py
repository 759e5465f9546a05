"""The pool at one or several addresses: its files in reading order, and the digest of their content."""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nuggets.errors import InputError, StoreError, StoreUnavailable, UsageError
from nuggets.pools.left_out import LeftOut
from nuggets.pools.names import pool_name
from nuggets.pools.readers.content_digest import ContentDigest, combined_digest
from nuggets.pools.readers.folders import SplitFile, folder_files, is_data_name
from nuggets.pools.readers.formats import KNOWN_FORMATS, PoolFile, format_of
from nuggets.pools.readers.json_layout import find_layout
from nuggets.pools.readers.json_tokens import SPACE
from nuggets.pools.readers.splits import ALL, choose_split, split_of
from nuggets.pools.readers.stored_file import StoredFile
from nuggets.pools.readers.text_pieces import read_pieces
from nuggets.store.file_systems import call_file_system
from nuggets.store.user_address import with_full_path

_WILD = "*?["
_SHOWN = 5
_HASH_BYTES = 1 << 20
_CHECKED_PIECES = 64  # of 256 KiB


@dataclass(frozen=True, slots=True)
class PoolSource:
    """An existing pool: how messages name it, its files in reading order, and what is left out.

    `rows_key`: the key of the list to read in a JSON object that holds several.
    """

    name: str
    files: tuple[PoolFile, ...]
    endpoint: str | None = None  # URL of the S3 server of s3:// addresses; None leaves it to the AWS environment
    left_out: tuple[LeftOut, ...] = ()
    rows_key: str | None = None


def find_source(addresses: str | Sequence[str], endpoint: str | None = None, *, split: str | None = None) -> PoolSource:
    """The pool of the files at local paths, URLs and globs, which may name folders; its files are sorted by address.

    `split`: the split to read of files and folders that name splits, or the key of the list in an object with several.
    Raises UsageError if there is nothing to read, its format is not known, or it is not clear which split is meant.
    Raises StoreUnavailable where a server does not answer.
    """
    addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
    try:
        return _source(addresses, endpoint, split)
    except StoreUnavailable:
        raise
    except StoreError as error:
        raise UsageError(
            f"'{pool_name(addresses)}' can't be read: {_cause(error)}. Check address, credentials and permissions"
        ) from error
    except OSError as error:
        raise UsageError(
            f"'{pool_name(addresses)}' can't be read: {error}. Check address, credentials and permissions"
        ) from error


def _cause(error: StoreError) -> object:
    cause = error.__cause__
    return getattr(cause, "strerror", None) or cause or error


def _source(addresses: Sequence[str], endpoint: str | None, split: str | None) -> PoolSource:
    name = pool_name(addresses)
    expanded = [item for address in addresses for item in _expanded(address, endpoint)]
    listed, left_out = _listed(expanded, endpoint)
    is_one_file = len(expanded) == 1 and not expanded[0].is_folder
    if is_one_file and listed[0][1] != split:  # who names a single file means it, whatever its name
        listed = [(listed[0][0], None)]
    unique = sorted(dict(listed).items(), key=lambda item: item[0].address)
    if again := len(listed) - len(unique):
        left_out.append(LeftOut("addresses that name a file again", again, f"each file of pool '{name}' is read once"))
    splits = [of_file for _, of_file in unique]
    chosen = choose_split(splits, split, pool=name)
    files = tuple(unique[position][0] for position in chosen.positions)
    rows_key = None if any(splits) or split == ALL else split
    _check_first(files, endpoint, rows_key=rows_key)
    return PoolSource(name, files, endpoint, (*left_out, *chosen.left_out), rows_key)


@dataclass(frozen=True, slots=True)
class _Existing:
    address: str
    is_folder: bool


def _expanded(address: str, endpoint: str | None) -> list[_Existing]:
    """The file or folder at an address, or those that match it as a pattern."""
    is_url = "://" in address
    scheme = address.partition("://")[0]

    def look(filesystem: Any, path: str) -> list[_Existing]:
        if filesystem.exists(path):
            return [_Existing(address.rstrip("/") if is_url else path, filesystem.isdir(path))]
        matching = filesystem.glob(path, detail=True) if any(mark in path for mark in _WILD) else {}
        data = {match: details for match, details in matching.items() if is_data_name(posixpath.basename(match))}
        matching = data or matching  # a pattern such as data/* also matches a README.md
        return [
            _Existing(f"{scheme}://{match.lstrip('/')}" if is_url else match, details["type"] == "directory")
            for match, details in sorted(matching.items())
        ]

    existing = call_file_system("read", address, endpoint, look)
    if not existing:
        what = "no file matches" if any(mark in address for mark in _WILD) else "no file or folder at"
        raise UsageError(f"{what} {with_full_path(address)}. Give the path or URL of a pool: {KNOWN_FORMATS}")
    # A pattern that matches files means these; folders beside them are not read.
    return [item for item in existing if not item.is_folder] or existing


def _listed(expanded: Sequence[_Existing], endpoint: str | None) -> tuple[list[SplitFile], list[LeftOut]]:
    """The files with the splits that they name, each in its folder or, if they are given one by one, together."""
    files: list[SplitFile] = []
    left_out: list[LeftOut] = []
    alone = [item.address for item in expanded if not item.is_folder]
    own = dict(zip(alone, map(split_of, _relative(alone)), strict=True))
    for item in expanded:
        if item.is_folder:
            of_folder, not_read = folder_files(item.address, endpoint)
            files += of_folder
            left_out += not_read
        else:
            files.append((PoolFile(item.address, format_of(item.address, endpoint)), own[item.address]))
    return files, left_out


def _relative(addresses: Sequence[str]) -> list[str]:
    """The addresses without the folders that all of them have in common."""
    parts = [address.split("/") for address in addresses]
    common = len(os.path.commonprefix([item[:-1] for item in parts]))
    return ["/".join(item[common:]) for item in parts]


def _check_first(files: Sequence[PoolFile], endpoint: str | None, *, rows_key: str | None) -> None:
    """Raise UsageError if the only file has no rows, or if it is not clear which rows of the first file are meant.

    Files after the first, and what follows the start of a file, are checked when they are read.
    """
    first = files[0]
    if len(files) == 1 and not call_file_system(
        "read", first.address, endpoint, lambda system, path: system.size(path)
    ):
        raise UsageError(f"'{first.address}' is an empty file. Give a file with at least one row")
    other = next((file.address for file in files if file.format != "json"), None)
    if rows_key is not None and other is not None:
        raise UsageError(f"split='{rows_key}': '{other}' has no splits; leave split out")
    if first.format not in ("json", "csv"):
        return
    with StoredFile(first.address, endpoint) as file:
        if len(files) == 1 and not any(piece.strip(SPACE) for piece in read_pieces(file)):
            raise UsageError(f"'{first.address}' has no rows. Give a file with at least one row")
        if first.format == "json":
            file.seek(0)
            pieces = read_pieces(file)
            # An object around millions of rows is read to its end only if its lists have to be known.
            start = pieces if rows_key is not None else islice(pieces, _CHECKED_PIECES)
            find_layout(start, rows_key=rows_key, address=first.address)


def source_digest(source: PoolSource) -> str:
    """SHA-256, in hex, of the stored bytes of the files in order; it does not depend on their addresses."""
    return combined_digest(file_digests(source))


def file_digests(source: PoolSource) -> list[str]:
    """SHA-256, in hex, of the stored bytes of each file."""
    content = ContentDigest()
    for item in source.files:
        with StoredFile(item.address, source.endpoint, content) as file:
            while file.read(_HASH_BYTES):
                pass
    return content.files


def copied_files(source: PoolSource, digests: Sequence[str]) -> tuple[LeftOut, ...]:
    """Files that have the same content as an earlier one, given the digest of each; their rows are duplicates."""
    first: dict[str, str] = {}
    copies = [
        f"'{item.address}' of '{first[digest]}'"
        for item, digest in zip(source.files, digests, strict=True)
        if first.setdefault(digest, item.address) != item.address
    ]
    shown = ", ".join(copies[:_SHOWN]) + (", ..." if len(copies) > _SHOWN else "")
    return (LeftOut("copies of files", len(copies), f"their rows are duplicates: {shown}"),) if copies else ()


def check_unchanged(source: PoolSource, expected: str, content: ContentDigest | None = None) -> None:
    """Raise InputError if the files that have just been read are not those of the digest `expected`.

    Without this check, what was read would be stored under the address of other content. `content` is the digest of
    what was read; where it is not whole, the files are read once more.
    """
    digest = combined_digest(content.files) if content is not None and content.is_whole else source_digest(source)
    if digest != expected:
        raise InputError(
            f"'{source.name}' was changed while it was read (SHA-256 {expected} before, {digest} now): stop other "
            "programs from writing to it and run again"
        )
