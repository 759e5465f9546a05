"""Retries for errors that may pass: a server that stalls, restarts, or asks for fewer requests."""

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    stop_before_delay,
    wait_random_exponential,
)

T = TypeVar("T")
RETRY_SECONDS = 120.0  # in all, until the error is raised
FIRST_REQUEST_SECONDS = 20.0  # the same for the first requests of a run
LONGEST_PAUSE_SECONDS = 15.0
_QUIET_ATTEMPTS = 2  # a single failure in thousands of requests needs no warning
# Types of clients for remote stores, by name: this core does not import their packages.
_TRANSIENT_TYPES = {
    "HTTPClientError",  # botocore: no connection, connection closed, timeouts
    "ConnectionError",
    "TimeoutError",
    "ClientError",  # aiohttp; botocore's type of that name arrives as an OSError
    "ResponseParserError",  # botocore: an incomplete answer
    "IncompleteRead",
}
_TRANSIENT_NUMBERS = {errno.EIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT}
logger = logging.getLogger(__name__)
_is_first: ContextVar[bool] = ContextVar("is_first", default=False)


@contextmanager
def first_requests() -> Iterator[None]:
    """While this lasts, each request to a server ends after 20 seconds, whatever its client would wait.

    Nothing is computed yet when a run begins, and the address is often wrong: the user waits for the message.
    """
    token = _is_first.set(True)
    try:
        yield
    finally:
        _is_first.reset(token)


def call_with_retries(call: Callable[[], T], *, what: str) -> T:
    """What `call` returns. A transient error is raised only after retries, with random pauses that grow.

    `what` names the operation in retry warnings. `call` must be idempotent.
    """

    def log_retry(state: RetryCallState) -> None:
        if state.attempt_number >= _QUIET_ATTEMPTS and state.outcome is not None:
            logger.warning("%s: %s. Retry %d", what, state.outcome.exception(), state.attempt_number)

    is_first = _is_first.get()
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE_SECONDS),
        stop=stop_before_delay(FIRST_REQUEST_SECONDS) if is_first else stop_after_delay(RETRY_SECONDS),
        before_sleep=log_retry,
        reraise=True,
    )
    return _within(FIRST_REQUEST_SECONDS, lambda: retrying(call)) if is_first else retrying(call)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns. Raises TimeoutError after `seconds`; the call then goes on in a thread that nothing awaits.

    A client's own timeouts and retries add up to minutes.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="first request").start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        if future.done():  # the call's own error
            raise
        raise TimeoutError(f"no answer within {seconds:.0f} seconds") from None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later; not so for missing objects, permissions and mistakes."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _TRANSIENT_TYPES) or getattr(error, "errno", None) in _TRANSIENT_NUMBERS
