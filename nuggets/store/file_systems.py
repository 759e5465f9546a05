"""The file system of an address, and calls to it: retried where that can help, with errors that give advice."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec.core

from nuggets.errors import NuggetsError, UsageError
from nuggets.store.errors import store_error
from nuggets.store.retries import call_with_retries

T = TypeVar("T")
S3_OPTIONS = {
    "use_listings_cache": False,  # it never expires, and would hide what other writers add
    # Short pauses here; `call_with_retries` makes the long ones. A stalled connection is closed and opened again.
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 30,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}


def locate(address: str, endpoint: str | None = None) -> tuple[Any, str]:
    """The file system of a local path or URL, and the path on it.

    `endpoint` is the server of s3:// addresses; None leaves it to the AWS environment.
    """
    if "://" not in address:
        address = os.path.abspath(address)
    options: dict[str, Any] = {}
    if address.startswith("s3://"):
        options = S3_OPTIONS | ({"endpoint_url": endpoint} if endpoint else {})
    try:
        filesystem, path = fsspec.core.url_to_fs(address, **options)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"'{address}' can't be opened ({error}): use a local folder, or install s3fs for s3://"
        ) from error
    return filesystem, str(path).rstrip("/")


def is_local(filesystem: Any) -> bool:
    """Whether its files are on a disk of this machine, or on a network disk that is mounted here."""
    return "file" in filesystem.protocol


def call_file_system(action: str, address: str, endpoint: str | None, call: Callable[[Any, str], T]) -> T:
    """What `call` returns, given the file system of an address and the path on it.

    `action` is read, list, write or delete. Calls to a remote file system are retried: `call` must be idempotent.
    Raises StoreError with advice; a missing object that is read stays a FileNotFoundError.
    """
    filesystem, path = locate(address, endpoint)
    try:
        if is_local(filesystem):
            return call(filesystem, path)
        return call_with_retries(lambda: call(filesystem, path), what=f"could not {action} {address}")
    except (NuggetsError, TypeError, AttributeError):  # has advice already, or is a mistake of the program
        raise
    except Exception as error:  # clients of remote stores have their own types, not all of them OSError
        if isinstance(error, FileNotFoundError) and action == "read":
            raise
        client = getattr(filesystem, "_s3", None)  # s3fs has no public name for the server that it uses
        server = endpoint if client is None else client.meta.endpoint_url
        raise store_error(error, action, address, server=server, is_local=is_local(filesystem)) from error
