"""A stage as the UI shows it: a progress artifact that is brought up to date every few seconds."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

_SECONDS = 5.0  # between two updates; each costs the server a write
_LAST_SECONDS = 10.0  # for what is shown at the end

logger = logging.getLogger(__name__)

Look = Callable[[], tuple[float, str]]  # how a stage stands: 0 to 100, and words


@contextmanager
def shown(stage: str, look: Look) -> Iterator[None]:
    """Show how a stage stands while this lasts.

    On a thread of its own, with the API's errors as its own: whoever computes waits for no page.
    """
    ended = threading.Event()
    page = threading.Thread(target=copy_context().run, args=(_show, stage, look, ended), daemon=True)
    page.start()
    try:
        yield
    finally:
        ended.set()
        page.join(_LAST_SECONDS)


def _show(stage: str, look: Look, ended: threading.Event) -> None:
    artifact: UUID | None = None
    last = False
    while not last:
        last = ended.is_set()
        percent, words = look()
        try:
            if artifact is None:  # a coroutine only where an event loop runs
                artifact = cast(UUID, create_progress_artifact(percent, key=stage, description=words))
            else:
                update_progress_artifact(artifact, percent, words)
        except Exception as error:
            logger.debug("the progress of stage %s could not be shown: %s", stage, error)
        ended.wait(_SECONDS)
