"""The first requests of a run give up after a short time; those in its middle are retried for long."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.local_s3 import free_port
from nuggets.errors import NuggetsError
from nuggets.store.retries import FIRST_REQUEST_SECONDS, RETRY_SECONDS, call_with_retries, first_requests
from nuggets.store.store import Store

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("nuggets.store.retries.FIRST_REQUEST_SECONDS", 1.0)


@pytest.fixture
def silent() -> Iterator[str]:
    """The endpoint of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def failing(times: int) -> Callable[[], int]:
    """A request that fails as if its server were restarting; after `times` failures it returns their number."""
    failures: list[int] = []

    def request() -> int:
        if len(failures) == times:
            return times
        failures.append(1)
        raise ConnectionError("restarting")

    return request


def test_a_first_request_has_20_seconds_and_a_later_one_two_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (FIRST_REQUEST_SECONDS, RETRY_SECONDS) == (20, 120)
    monkeypatch.setattr("nuggets.store.retries.LONGEST_PAUSE_SECONDS", 0.01)
    with first_requests():
        assert call_with_retries(failing(3), what="read") == 3
    monkeypatch.setattr("nuggets.store.retries.FIRST_REQUEST_SECONDS", 0.0)
    with first_requests(), pytest.raises((ConnectionError, TimeoutError)):
        call_with_retries(failing(3), what="read")
    assert call_with_retries(failing(3), what="read") == 3


def test_a_first_request_raises_the_error_of_its_call() -> None:
    with first_requests(), pytest.raises(KeyError):
        call_with_retries(lambda: {}["none"], what="read")


def test_a_server_that_accepts_and_stays_silent_is_given_up(silent: str) -> None:
    with first_requests(), pytest.raises(NuggetsError) as refused:
        Store("s3://lab/x", silent).exists("runs")
    assert str(refused.value).startswith(
        f"could not read s3://lab/x/runs (endpoint {silent}): no answer within 1 seconds"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("curate", "s3://lab/pool.jsonl"),
        ("curate", "pool.jsonl", "--store", "s3://lab/x"),
        ("reselect", "r", "--top-k", "1", "--store", "s3://lab/x"),
        ("score-shards", "r", "--store", "s3://lab/x"),
        ("runs", "--store", "s3://lab/x"),
    ],
)
def test_commands_give_up_on_a_server_that_is_away(
    command: tuple[str, ...], cli: Cli, silent: str, tiny_model: Path, pool_file: Path
) -> None:
    words = [str(pool_file) if word == "pool.jsonl" else word for word in command]
    if command[0] == "curate":
        words += ["--model", str(tiny_model)]
    for endpoint in (silent, f"http://127.0.0.1:{free_port()}"):
        done = cli(*words, "--s3-endpoint", endpoint)
        assert done.returncode == 1 and f"(endpoint {endpoint})" in done.stderr, done.stderr
