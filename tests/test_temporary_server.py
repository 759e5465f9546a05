"""The temporary Prefect server of a command: what it imports, what happens while it starts, and a stop meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from deployments.local_s3 import free_port
from deployments.processes import lives

NUGGETS = Path(sys.executable).with_name("nuggets")
INTEGRATIONS = {"prefect_dask", "prefect_ray", "distributed", "ray"}


def without_server() -> dict[str, str]:
    """The environment of a command that starts a temporary server, on the database of the tests' server."""
    return {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def test_the_server_imports_no_integration_and_ends_by_sigterm(prefect_server: str, tmp_path: Path) -> None:
    port, imports = free_port(), tmp_path / "imports"
    command = [sys.executable, "-X", "importtime", "-m", "flows.cli.server_program", str(port)]
    with imports.open("w") as file:
        server = subprocess.Popen(command, env=without_server(), stderr=file)
        end = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/api/health"):
            assert server.poll() is None and time.monotonic() < end, imports.read_text()[-2000:]
            time.sleep(0.2)
        server.terminate()
        assert server.wait(timeout=30) in (0, -signal.SIGTERM)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports.read_text().splitlines()}
    assert "prefect" in imported and not INTEGRATIONS & imported


def test_functions_are_called_while_the_server_starts_and_only_then(prefect_server: str) -> None:
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "from flows.cli.local_server import prefect_api\n"
        "with prefect_api([lambda: import_module('tabnanny')]):\n"
        "    from prefect.settings import PREFECT_API_URL\n"
        "    print('tabnanny' in sys.modules, PREFECT_API_URL.value())\n"
    )
    outputs = {}
    for kind, environment in {"temporary": without_server(), "configured": dict(os.environ)}.items():
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        outputs[kind] = done.stdout.split()
    assert outputs["configured"] == ["False", prefect_server]
    assert outputs["temporary"][0] == "True" and outputs["temporary"][1] != prefect_server


@pytest.mark.slow
def test_a_wrong_model_is_refused_before_a_temporary_server_answers(
    pool_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The module of the flow is imported after the model has been checked."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}))
    code = (
        "import sys\n"
        "from flows.cli.commands import app, run_command\n"
        "print(run_command(lambda: app(sys.argv[1:])), 'flows.curate' in sys.modules)\n"
    )
    options = ["--model", model, "--anchor-file", pool_file, "--store", tmp_path / "store"]
    done = subprocess.run(
        [sys.executable, "-c", code, "curate", pool_file, *options],
        env=without_server(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["1", "False"], done.stderr
    assert f"error: model='{model}': its weights in {model} are not those that its config.json describes" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_while_the_server_starts_ends_the_command_and_the_server(
    prefect_server: str, pool_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command = [NUGGETS, "curate", pool_file, "--model", tiny_model, "--store", store, "--anchors", "3"]
    running = subprocess.Popen(
        [str(part) for part in command], env=without_server(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "starting a temporary one" in line:
            break
    children: list[int] = []
    while not children:
        children = [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
    running.send_signal(signal.SIGINT)
    errors = running.stderr.read()
    assert running.wait(timeout=60) == 130 and "interrupted" in errors and "Traceback" not in errors
    assert not (store / "runs").exists() and not any(lives(pid) for pid in children)
