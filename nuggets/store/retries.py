"""Trying again what may pass: a store that stalls, is being restarted, or asks to slow down."""

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

T = TypeVar("T")
PATIENCE_SECONDS = 120.0  # in all, before a store counts as gone
LONGEST_PAUSE_SECONDS = 15.0
_QUIET_TRIES = 2  # a single failure in thousands of requests is nothing to tell anybody
# Clients of remote stores have types of their own, of packages that this core does not import.
_PASSING_TYPES = {
    "HTTPClientError",  # botocore: no connection, connection closed, timeouts
    "ConnectionError",
    "TimeoutError",
    "ClientError",  # aiohttp; botocore's one of that name reaches us as an OSError
    "ResponseParserError",  # botocore: half an answer
    "IncompleteRead",
}
_PASSING_NUMBERS = {errno.EIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT}
logger = logging.getLogger(__name__)


def call_with_retries(call: Callable[[], T], *, what: str) -> T:
    """What `call` returns; what may pass is tried again, after random pauses that grow, before it is raised.

    `what` is said in a warning when it takes longer. `call` has to be harmless when repeated.
    """

    def tell(state: RetryCallState) -> None:
        if state.attempt_number >= _QUIET_TRIES and state.outcome is not None:
            logger.warning("%s: %s. Trying again (%d)", what, state.outcome.exception(), state.attempt_number)

    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE_SECONDS),
        stop=stop_after_delay(PATIENCE_SECONDS),
        before_sleep=tell,
        reraise=True,
    )
    return retrying(call)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later; not so for missing objects, permissions and mistakes."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _PASSING_TYPES) or getattr(error, "errno", None) in _PASSING_NUMBERS
