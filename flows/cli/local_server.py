"""A Prefect API for a command that runs where no server is configured."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

from flows.cli.server_settings import is_server_configured
from nuggets.errors import NuggetsError
from nuggets.progress import report_stage
from nuggets.stopping import check_stop

_STARTUP_SECONDS = 180
_DRAIN_SECONDS = 30
_PR_SET_PDEATHSIG = 1


@contextmanager
def prefect_api(meanwhile: Sequence[Callable[[], object]] = ()) -> Iterator[None]:
    """Use the configured server, or a temporary one on loopback while this lasts.

    A temporary server takes seconds to start: the functions of `meanwhile` are called in turn until it answers. They
    import what takes seconds to import, or check what the run needs; an error of theirs ends the server.

    Prefect can start one itself, but Ctrl-C in the terminal would end that server before the run can record that it was
    interrupted. It would also outlive a killed command, and lose task runs that are not stored yet.
    """
    if is_server_configured():
        from prefect.settings import PREFECT_API_URL

        from flows.cli.server_check import check_server

        configured = str(PREFECT_API_URL.value())
        check_server(configured)
        with _lost_server_named(configured):
            yield
        return
    report_stage("no Prefect server is configured (PREFECT_API_URL): starting a temporary one")
    with _server(meanwhile) as url:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: url}):
            try:
                yield
            finally:
                _drain(url)


@contextmanager
def _lost_server_named(url: str) -> Iterator[None]:
    """Raise NuggetsError with advice if the server stops to answer while this lasts."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise NuggetsError(
            f"the Prefect server at PREFECT_API_URL={url} does not answer any more ({error}). What was computed is "
            "stored: start the server, or unset the variable for a temporary one, and run the same command to continue"
        ) from error


@contextmanager
def _server(meanwhile: Sequence[Callable[[], object]]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.server_program", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread is alive yet
    )
    try:
        _await(url, process, iter(meanwhile))
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _await(url: str, process: subprocess.Popen[bytes], meanwhile: Iterator[Callable[[], object]]) -> None:
    end = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < end and process.poll() is None:
        check_stop()
        if _is_healthy(url):
            return
        if work := next(meanwhile, None):
            started = time.monotonic()
            work()
            end += time.monotonic() - started  # hashing a large model takes longer than a server may
        else:
            time.sleep(0.1)
    ended = process.poll()
    what = f"did not answer within {_STARTUP_SECONDS} seconds" if ended is None else f"ended with exit code {ended}"
    raise NuggetsError(
        f"the temporary Prefect server {what}. It keeps its data in {os.environ.get('PREFECT_HOME', '~/.prefect')}, "
        "which must be writable: set PREFECT_HOME to a writable folder. If it is, "
        f"'{sys.executable} -m prefect server start' shows the cause"
    )


def _is_healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _drain(url: str) -> None:
    """Wait until the server has stored what Prefect sends in the background: the rest would be lost with the server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all()
    APILogWorker.drain_all()
    stored, unchanged = -1, 0
    end = time.monotonic() + _DRAIN_SECONDS
    while unchanged < 3 and time.monotonic() < end:
        time.sleep(0.4)
        before, stored = stored, _stored_task_runs(url)
        unchanged = unchanged + 1 if stored == before else 0


def _stored_task_runs(url: str) -> int:
    request = Request(f"{url}/task_runs/count", data=b"{}", headers={"Content-Type": "application/json"}, method="POST")
    with contextlib.suppress(URLError, OSError), urlopen(request, timeout=5) as answer:
        return int(answer.read())
    return -1
