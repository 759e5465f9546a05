"""Whether a Prefect server answers at the configured URL, and what to change if it does not."""

import re
import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from nuggets.errors import NuggetsError, UsageError

FIRST_REQUEST_SECONDS = 20.0
# Prefect's client tries to connect four times, with pauses of 1.5 seconds in all.
_CONNECT_SECONDS, _READ_SECONDS = 4.0, 15.0
_BUSY = (429, 502, 503, 504)  # a server that is starting, or a gateway in front of it
_DENIED = (401, 403)
_VERSION = re.compile(r"\d+\.\d+.*")


def check_server(url: str) -> None:
    """Raise an error with advice unless a Prefect server answers at PREFECT_API_URL, which is `url`, within 20 seconds.

    UsageError if the URL is wrong; NuggetsError if the server is absent, not ready, or denies access.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UsageError(
            f"{_shown(url)} is no URL: it starts with http:// or https:// and ends with /api, such as "
            "http://127.0.0.1:4200/api"
        )
    end = time.monotonic() + FIRST_REQUEST_SECONDS
    try:
        answer = _ask(url)
        while answer.status_code in _BUSY and time.monotonic() < end:
            time.sleep(1)
            answer = _ask(url)
    except httpx.HTTPError as error:
        raise NuggetsError(f"no Prefect server answers at {_shown(url)}: {_advice(url, error)}") from error
    if not _is_prefect(answer):
        raise _refusal(url, answer)


def _ask(url: str) -> httpx.Response:
    """The answer to a request that needs access, with the settings of Prefect's client: certificates, passwords."""
    from prefect.client.base import ServerType
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        with get_client(sync_client=True, httpx_settings={"timeout": timeout}) as client:
            try:
                if client.server_type == ServerType.CLOUD:
                    return client.request("GET", "/health")
                return client.request("GET", "/admin/version")
            except httpx.HTTPStatusError as error:
                return error.response


def _is_prefect(answer: httpx.Response) -> bool:
    if answer.status_code != httpx.codes.OK:
        return False
    try:
        content = answer.json()
    except ValueError:
        return False
    return content is True or (isinstance(content, str) and _VERSION.fullmatch(content) is not None)


def _advice(url: str, error: httpx.HTTPError) -> str:
    """What to change after a request without an answer."""
    causes = list(_causes(error))
    host = urlsplit(url).hostname
    if proxy := _proxy(url):
        return (
            f"the request went through the proxy {proxy} and failed ({error}): add {host} to the variable no_proxy if "
            "this server is reached without the proxy"
        )
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return f"its certificate is not trusted ({error}): set PREFECT_API_SSL_CERT_FILE to that of its authority"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return f"it does not answer in TLS ({error}): use http:// if this port is plain HTTP"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"the host name {host} is not known: check its spelling and the network"
    if isinstance(error, httpx.TimeoutException):
        return f"nothing came back within {FIRST_REQUEST_SECONDS:.0f} seconds: check host, port and firewall"
    if isinstance(error, httpx.ConnectError):
        return f"nothing listens there ({error}): start it, or unset the variable for a temporary one"
    return f"what listens there does not speak HTTP ({error}): check the port, or use https:// if it is one of TLS"


def _refusal(url: str, answer: httpx.Response) -> NuggetsError:
    """The error for an answer that is not that of a Prefect server that admits this client."""
    status = f"status {answer.status_code} {answer.reason_phrase}".rstrip()
    through = f". The proxy {proxy} may have sent this answer: see no_proxy" if (proxy := _proxy(url)) else ""
    if answer.status_code in _BUSY:
        return NuggetsError(
            f"the Prefect server at {_shown(url)} was not ready for {FIRST_REQUEST_SECONDS:.0f} seconds ({status}): "
            f"run again when it is{through}"
        )
    if answer.status_code in _DENIED:
        return NuggetsError(
            f"access to the Prefect server at {_shown(url)} is denied ({status}): set PREFECT_API_AUTH_STRING to the "
            f"server's user:password, or PREFECT_API_KEY for Prefect Cloud{through}"
        )
    if "HTTPS" in answer.text[:1000] and answer.status_code == httpx.codes.BAD_REQUEST:
        return UsageError(f"{_shown(url)} is a port of TLS ({status}): use https://")
    parts = urlsplit(url)
    other = urlunsplit((parts.scheme, parts.netloc, "/api", "", ""))
    if other != url.rstrip("/") and _answers_as_prefect(other):
        return UsageError(f"{_shown(url)} is not the API of its Prefect server: did you mean {_shown(other)}?")
    kind = answer.headers.get("content-type", "no content").partition(";")[0]
    return UsageError(
        f"{_shown(url)} is not the API of a Prefect server: it answers with {status}, {kind}. Check host and port; the "
        f"URL of a Prefect API ends with /api{through}"
    )


def _answers_as_prefect(url: str) -> bool:
    try:
        answer = _ask(url)
        return answer.status_code in _DENIED or _is_prefect(answer)
    except httpx.HTTPError:
        return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _proxy(url: str) -> str:
    """The proxy of requests to a URL with the variable that names it, empty if there is none."""
    parts = urlsplit(url)
    proxies = getproxies()
    name = next((name for name in (parts.scheme, "all") if proxies.get(name)), "")
    if not name or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return f"{_without_password(proxies[name])} ({name}_proxy)"


def _shown(url: str) -> str:
    return f"PREFECT_API_URL={_without_password(url)}"


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
