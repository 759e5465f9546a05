"""A Prefect server that is absent, wrong, closed or busy has a message of each kind, with what to change."""

import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployments.local_s3 import free_port
from flows.cli import server_check
from flows.cli.server_check import check_server
from flows.loopback import exempt_loopback_from_proxies
from nuggets.errors import NuggetsError, UsageError

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
Answer = tuple[int, str, bytes]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def serving(answer: Callable[[str], Answer], certificate: Path | None = None) -> Iterator[str]:
    """A web server on loopback that gives the status, type and body of `answer` for a path; its host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that no authority has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return file


def refusal(url: str) -> NuggetsError:
    with pytest.raises(NuggetsError) as refused:
        check_server(url)
    assert "Traceback" not in str(refused.value)
    return refused.value


def prefect(path: str) -> Answer:
    """The answers of a server whose UI and API are where Prefect has them."""
    if path == "/api/admin/version":
        return 200, "application/json", b'"3.8.8"'
    return 200, "text/html", b"<html>Prefect</html>"


def test_a_real_server_is_accepted_and_its_url_without_api_is_corrected(prefect_server: str) -> None:
    check_server(prefect_server)
    error = refusal(prefect_server.removesuffix("/api"))
    assert isinstance(error, UsageError) and f"did you mean PREFECT_API_URL={prefect_server}?" in str(error)


def test_a_page_of_the_ui_is_corrected() -> None:
    with serving(prefect) as host:
        check_server(f"http://{host}/api")
        for path in ("", "/", "/dashboard", "/runs?state=failed", "/api/v2"):
            error = refusal(f"http://{host}{path}")
            assert isinstance(error, UsageError), error
            assert str(error) == (
                f"PREFECT_API_URL=http://{host}{path} is not the API of its Prefect server: did you mean "
                f"PREFECT_API_URL=http://{host}/api?"
            )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "text/html", b"<html>"), "answers with status 200 OK, text/html. Check host and port; the URL of a Pre"),
        ((404, "text/plain", b"no"), "answers with status 404 Not Found, text/plain"),
        ((500, "text/plain", b"no"), "answers with status 500 Internal Server Error"),
        ((200, "application/json", b'{"version": 3}'), "answers with status 200 OK, application/json"),
    ],
)
def test_another_program_on_the_port_is_a_wrong_url(answer: Answer, words: str) -> None:
    with serving(lambda path: answer) as host:
        error = refusal(f"http://{host}/api")
    assert isinstance(error, UsageError) and "is not the API of a Prefect server" in str(error) and words in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_password_that_is_missing_is_no_absent_server(status: int) -> None:
    with serving(lambda path: (status, "application/json", b'{"exception_message": "Unauthorized"}')) as host:
        error = refusal(f"http://user:hunter2@{host}/api")
    assert f"access to the Prefect server at PREFECT_API_URL=http://{host}/api is denied (status {status}" in str(error)
    assert "set PREFECT_API_AUTH_STRING" in str(error) and "hunter2" not in str(error)


def test_a_server_that_is_not_ready_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def starting(path: str) -> Answer:
        asked.append(path)
        return (503, "text/plain", b"") if len(asked) < 3 else prefect(path)

    with serving(starting) as host:
        check_server(f"http://{host}/api")
    assert len(asked) == 3
    monkeypatch.setattr(server_check, "FIRST_REQUEST_SECONDS", 0.1)
    with serving(lambda path: (503, "text/plain", b"")) as host:
        error = refusal(f"http://{host}/api")
    assert not isinstance(error, UsageError) and "was not ready" in str(error) and "503" in str(error)


def test_an_absent_server_is_named_with_the_reason() -> None:
    error = refusal(f"http://127.0.0.1:{free_port()}/api")
    assert not isinstance(error, UsageError)
    assert "no Prefect server answers at PREFECT_API_URL=" in str(error) and "nothing listens there" in str(error)
    error = refusal("http://prefect.invalid:4200/api")
    assert "the host name prefect.invalid is not known" in str(error)


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "localhost:4200/api", "http:/127.0.0.1:4200/api", "tcp://h/api"])
def test_a_value_that_is_no_url_is_refused(url: str) -> None:
    error = refusal(url)
    assert isinstance(error, UsageError) and "is no URL: it starts with http:// or https://" in str(error)


def test_tls_and_plain_http_are_told_apart(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(prefect) as host:
        assert "use http:// if this port is plain HTTP" in str(refusal(f"https://{host}/api"))
    with serving(prefect, certificate) as host:
        assert "use https:// if it is one of TLS" in str(refusal(f"http://{host}/api"))
        assert "its certificate is not trusted" in str(refusal(f"https://{host}/api"))
        from prefect.settings import PREFECT_API_SSL_CERT_FILE, temporary_settings

        with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(certificate)}):
            check_server(f"https://{host}/api")


def test_a_silent_server_is_given_up_within_the_time_of_a_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_check, "_READ_SECONDS", 0.5)
    silent = threading.Event()

    def wait(path: str) -> Answer:
        silent.wait(60)
        return prefect(path)

    with serving(wait) as host:
        error = refusal(f"http://{host}/api")
        silent.set()
    assert "nothing came back within 20 seconds" in str(error)


def test_a_proxy_that_refuses_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda path: (403, "text/plain", b"")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:hunter2@{proxy}")
        error = refusal("http://prefect.invalid:4200/api")
        assert f"The proxy http://{proxy} (http_proxy) may have sent this answer: see no_proxy" in str(error)
        assert "hunter2" not in str(error)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    error = refusal("http://prefect.invalid:4200/api")
    assert "(http_proxy) and failed" in str(error) and "add prefect.invalid to the variable no_proxy" in str(error)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("exempt", [None, "localhost", "corp.example,10.0.0.1"])
def test_loopback_is_reached_without_the_proxy(
    variable: str, exempt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda path: (403, "text/plain", b"")) as proxy, serving(prefect) as host:
        monkeypatch.setenv(variable, f"http://{proxy}")
        if exempt is not None:
            monkeypatch.setenv("NO_PROXY", exempt)
        assert "denied" in str(refusal(f"http://{host}/api"))
        exempt_loopback_from_proxies()
        check_server(f"http://{host}/api")
        check_server(f"http://{host}/api".replace("127.0.0.1", "localhost"))
        assert "The proxy" in str(refusal("http://prefect.invalid/api"))
