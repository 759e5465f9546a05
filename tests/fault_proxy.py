"""An HTTP proxy that goes wrong now and then, as networks and object stores do: between a client and an S3 server."""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "stall", "cut")
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


@dataclass
class FaultProxy:
    """What goes through, and what went wrong."""

    upstream: str
    share: float  # of requests that go wrong
    stall_seconds: float
    seed: int = 0
    endpoint: str = ""
    passed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def next_fault(self) -> str | None:
        with self._lock:
            if self._rng.random() >= self.share:
                self.passed += 1
                return None
            fault = FAULTS[self.faults.total() % len(FAULTS)]  # each kind has its turn
            self.faults[fault] += 1
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.proxy.next_fault()
        if fault == "500":
            self.refuse(500, _INTERNAL)
        elif fault == "503":
            self.refuse(503, _SLOW_DOWN)
        elif fault == "reset":
            self.reset()
        elif fault == "stall":
            time.sleep(self.server.proxy.stall_seconds)
            self.close_connection = True
        else:
            self.forward(body, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def refuse(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def forward(self, body: bytes, *, cut: bool) -> None:
        """Hand it on as it is, the Host header too, since that is signed; a cut answer lacks its second half."""
        address = urlsplit(self.server.proxy.upstream)
        upstream = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
        except OSError:  # the server behind is gone
            self.reset()
            return
        finally:
            upstream.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has gone, or we have hung up
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def fault_proxy(upstream: str, *, share: float, stall_seconds: float) -> Iterator[FaultProxy]:
    """A proxy in front of `upstream`, as long as this lasts."""
    proxy = FaultProxy(upstream, share, stall_seconds)

    server = _Server(("127.0.0.1", 0), _Handler)
    server.proxy = proxy
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
