"""Progress in the UI delays no task and waits for none."""

import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import flows.execution.progress_artifact
from flows.execution.progress_artifact import scoring_shown, shown
from nuggets.progress import report_cells


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    for connection in held:
        connection.close()


def test_a_server_that_never_answers_holds_up_no_scoring(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.execution.progress_artifact, "LAST_SECONDS", 0.5)
    monkeypatch.setattr(flows.execution.progress_artifact, "UPDATE_SECONDS", 0.05)
    logging.getLogger("nuggets").setLevel(logging.INFO)
    begun = time.monotonic()
    with temporary_settings({PREFECT_API_URL: silent_server}), scoring_shown(100):
        for _ in range(100):
            report_cells(computed=1)
            time.sleep(0.001)
    assert time.monotonic() - begun < 10


def test_the_last_look_is_shown_whatever_became_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[tuple[float, str]] = []

    def create(percent: float, *, key: str, description: str) -> str:
        updates.append((percent, f"{key}: {description}"))
        if len(updates) == 1:
            raise ConnectionError("the server restarts")
        return "an id"

    monkeypatch.setattr(flows.execution.progress_artifact, "UPDATE_SECONDS", 0.05)
    monkeypatch.setattr(flows.execution.progress_artifact, "create_progress_artifact", create)
    monkeypatch.setattr(
        flows.execution.progress_artifact,
        "update_progress_artifact",
        lambda _, percent, words: updates.append((percent, words)),
    )
    done = 0
    with shown("embed", lambda: (50.0 * done, f"{done} of 2")):
        time.sleep(0.3)
        done = 2
    assert updates[:2] == [(0.0, "embed: 0 of 2")] * 2 and updates[-1] == (100.0, "2 of 2")
