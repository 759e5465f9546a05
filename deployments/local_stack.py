"""Everything that deployments need, on this machine and on loopback only: S3 server, Prefect server, work pool, worker.

    python deployments/local_stack.py up      start, deploy everything, print where the UI is
    python deployments/local_stack.py down    stop what up started; data stays in the folder

`make up` and `make down` call these.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deployments.local_s3 import LocalS3  # noqa: E402
from deployments.processes import family, lives  # noqa: E402
from flows.loopback import exempt_loopback_from_proxies  # noqa: E402

POOL = "nuggets"
BUCKET = "nuggets"
_STARTUP_SECONDS = 180
_END_SECONDS = 40  # a worker gives its runs half a minute to store what they have


@dataclass(frozen=True)
class LocalStack:
    """Where it keeps data, logs and process numbers, and where it listens."""

    folder: Path
    port: int = 4200
    s3_port: int = 8333
    lost_after: int | None = None  # seconds without a heartbeat; default: `within` in deployments/automations.yaml

    @property
    def ui(self) -> str:
        """The address for a browser."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def s3(self) -> LocalS3:
        """The S3 server."""
        return LocalS3(self.folder / "s3", self.s3_port)

    def environment(self) -> dict[str, str]:
        """The environment variables of commands that use this stack."""
        return {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.ui}/api",
            "PREFECT_SERVER_UI_API_URL": f"{self.ui}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            # Task runs reach the database in batches; never an interval below 1, which makes the server spin.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            **self.s3.environment(),
        }

    def up(self) -> None:
        """Start what is not running yet, and deploy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start_s3()
        self._start("server", ["server", "start", "--host", "127.0.0.1", "--port", str(self.port)])
        self._await_server()
        self.prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
        self.prefect("--no-prompt", "deploy", "--all")
        self._automate()
        self.start_worker()

    def start_worker(self) -> None:
        """Start the worker, unless it runs."""
        self._start("worker", ["worker", "start", "--pool", POOL, "--name", "local", "--type", "process"])

    def down(self) -> None:
        """Stop the worker first, so that its runs can still report their final state."""
        for name in ("worker", "server", "s3"):
            self.end(name, signal.SIGTERM)

    def end(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process; SIGKILL also goes to all its descendants."""
        pid = self.pids().get(name)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                for member in family(pid):
                    with suppress(ProcessLookupError):
                        os.kill(member, number)
            else:
                os.kill(pid, number)
            end = time.monotonic() + _END_SECONDS
            while lives(pid) and time.monotonic() < end:
                time.sleep(0.1)
            os.killpg(pid, signal.SIGKILL)
        self._note({key: value for key, value in self.pids().items() if key != name})

    def pids(self) -> dict[str, int]:
        """The processes that `up` started and `down` has not ended."""
        file = self.folder / "pids.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def prefect(self, *arguments: str) -> str:
        """Run a Prefect command; returns its output. Ends the program with that output if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=os.environ | self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _start(self, name: str, arguments: list[str]) -> None:
        if lives(self.pids().get(name)):
            return
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=ROOT,
                env=os.environ | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._note(self.pids() | {name: process.pid})

    def _start_s3(self) -> None:
        if lives(self.pids().get("s3")):
            return
        server = self.s3
        server.start()
        assert server.process is not None
        self._note(self.pids() | {"s3": server.process.pid})
        import s3fs

        client = s3fs.S3FileSystem(
            key=server.key, secret=server.secret, endpoint_url=server.endpoint, skip_instance_cache=True
        )
        if not client.exists(BUCKET):
            client.mkdir(BUCKET)

    def _await_server(self) -> None:
        end = time.monotonic() + _STARTUP_SECONDS
        while not _answers(f"{self.ui}/api/health"):
            if time.monotonic() > end or not lives(self.pids()["server"]):
                raise SystemExit(f"the Prefect server did not start: see {self.folder / 'server.log'}")
            time.sleep(0.2)

    def _automate(self) -> None:
        if "nuggets-lost-runs" in self.prefect("automation", "ls"):
            return
        file = ROOT / "deployments" / "automations.yaml"
        if self.lost_after is not None:
            content = yaml.safe_load(file.read_text())
            content["automations"][0]["trigger"]["within"] = self.lost_after
            file = self.folder / file.name
            file.write_text(yaml.safe_dump(content))
        self.prefect("automation", "create", "--from-file", str(file))

    def _note(self, pids: Mapping[str, int]) -> None:
        (self.folder / "pids.json").write_text(json.dumps(pids))


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def main() -> None:
    """Start or stop it."""
    exempt_loopback_from_proxies()  # all servers of the stack listen there
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--folder", type=Path, default=ROOT / ".stack")
    parser.add_argument("--port", type=int, default=4200, help="of the Prefect server")
    parser.add_argument("--s3-port", type=int, default=8333)
    options = parser.parse_args()
    stack = LocalStack(options.folder.resolve(), options.port, options.s3_port)
    if options.action == "down":
        stack.down()
        return
    stack.up()
    variables = "\n".join(f"  export {name}={value}" for name, value in stack.environment().items())
    sys.stdout.write(
        f"UI: {stack.ui}\nS3: {stack.s3.endpoint}, bucket s3://{BUCKET}\nlogs: {stack.folder}/*.log\n"
        f"to use them from a shell:\n{variables}\n"
    )


if __name__ == "__main__":
    main()
