"""Retries for errors that may pass: a server that stalls, restarts, or asks for fewer requests."""

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

T = TypeVar("T")
RETRY_SECONDS = 120.0  # in all, until the error is raised
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


def call_with_retries(call: Callable[[], T], *, what: str) -> T:
    """What `call` returns. A transient error is raised only after retries, with random pauses that grow.

    `what` names the operation in retry warnings. `call` must be idempotent.
    """

    def log_retry(state: RetryCallState) -> None:
        if state.attempt_number >= _QUIET_ATTEMPTS and state.outcome is not None:
            logger.warning("%s: %s. Retry %d", what, state.outcome.exception(), state.attempt_number)

    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE_SECONDS),
        stop=stop_after_delay(RETRY_SECONDS),
        before_sleep=log_retry,
        reraise=True,
    )
    return retrying(call)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later; not so for missing objects, permissions and mistakes."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _TRANSIENT_TYPES) or getattr(error, "errno", None) in _TRANSIENT_NUMBERS
