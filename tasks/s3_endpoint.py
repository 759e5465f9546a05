"""Which S3 server s3:// addresses mean, where a run says so itself instead of its environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec

_VARIABLE = "AWS_ENDPOINT_URL_S3"  # what the AWS clients read first; processes that are started from here inherit it


@contextmanager
def s3_endpoint(url: str | None) -> Iterator[None]:
    """Have s3:// addresses mean this server for as long as this lasts; None leaves it to the AWS environment."""
    before = os.environ.get(_VARIABLE)
    if url is None or url == before:
        yield
        return
    _set(url)
    try:
        yield
    finally:
        _set(before)


def _set(url: str | None) -> None:
    if url is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = url
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # a client keeps the server that it began with
