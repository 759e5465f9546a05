"""Which file system an address means, and how it is asked."""

import os
from typing import Any

import fsspec.core

from nuggets.errors import UsageError

S3_OPTIONS = {
    "use_listings_cache": False,  # it never expires, and would hide what other writers add
    # Short pauses here; `call_with_retries` makes the long ones. A stalled connection is closed and opened again.
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 30,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}


def locate(url: str, endpoint: str | None = None) -> tuple[Any, str]:
    """The file system and the path on it that a local path or URL means.

    `endpoint` is the server of s3:// addresses; None leaves it to the AWS environment.
    """
    if "://" not in url:
        url = os.path.abspath(os.path.expanduser(url))
    options: dict[str, Any] = {}
    if url.startswith(("s3://", "s3a://")):
        options = S3_OPTIONS | ({"endpoint_url": endpoint} if endpoint else {})
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise UsageError(f"'{url}' can't be opened ({error}): use a local folder, or install s3fs for s3://") from error
    return filesystem, str(path).rstrip("/")


def is_local(filesystem: Any) -> bool:
    """Whether its files are on a disk of this machine, or on one that looks like it."""
    return "file" in filesystem.protocol
