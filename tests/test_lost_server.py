"""A Prefect server that goes away while a run scores: the user reads one message, and no lines of Prefect's workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import EXAMPLES

from deployments.local_s3 import free_port

NUGGETS = str(Path(sys.executable).with_name("nuggets"))


def wait_until(happens: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happens():  # type: ignore[operator]
        assert time.monotonic() < end, f"it did not happen within {seconds} seconds"
        time.sleep(0.3)


@pytest.mark.slow
def test_a_server_that_goes_away_is_one_message(tmp_path: Path, tiny_model: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_CLIENT_MAX_RETRIES": "1",  # a client's five retries take two minutes
    }
    rows = [{**row, "instruction": f"{row['instruction']} ({number})"} for number in range(100) for row in EXAMPLES]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "anchors.json").write_text(json.dumps(EXAMPLES))
    command = [NUGGETS, "curate", "pool.jsonl", "--anchor-file", "anchors.json", "--model", str(tiny_model)]
    command += ["--racing", "off", "--store", "store"]
    serve = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(serve, env=environment, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        wait_until(lambda: _answers(url), seconds=120)
        with (tmp_path / "log").open("w") as log:
            run = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log)
        wait_until(lambda: list((tmp_path / "store").glob("cells/**/*.parquet")), seconds=120)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    time.sleep(6)  # Prefect sends logs every two seconds
    run.send_signal(signal.SIGTERM)
    printed, _ = run.communicate(timeout=200)
    lines = (tmp_path / "log").read_text().splitlines()
    assert (run.returncode, printed) == (1, b""), lines
    assert lines[-1].startswith(f"error: the Prefect server at PREFECT_API_URL={url} does not answer any more"), lines
    assert not [line for line in lines if "Traceback" in line or "Error logging" in line or "Worker" in line], lines


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
