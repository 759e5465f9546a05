"""Which S3 server s3:// addresses mean, where a run says so itself instead of its environment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
# Of the context and not of the process: on a cluster tasks of several runs may share one.
_current: ContextVar[str | None] = ContextVar("s3_endpoint", default=None)


def current_s3_endpoint() -> str | None:
    """The server that s3:// addresses mean here; None leaves it to the AWS environment."""
    return _current.get()


@contextmanager
def s3_endpoint(url: str | None) -> Iterator[None]:
    """Have s3:// addresses mean this server for as long as this lasts; None changes nothing."""
    token = _current.set(url or _current.get())
    try:
        yield
    finally:
        _current.reset(token)


def at_s3_endpoint(url: str | None, function: Callable[..., T], *arguments: object) -> T:
    """What `function` returns where s3:// addresses mean this server: a job for another process."""
    with s3_endpoint(url):
        return function(*arguments)
