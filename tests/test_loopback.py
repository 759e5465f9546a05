"""Servers on loopback are reached directly, whatever proxies the environment names."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import pytest
from conftest import EXAMPLES
from test_server_check import no_proxies, serving  # noqa: F401

from deployments.local_s3 import LocalS3
from flows.loopback import exempt_loopback_from_proxies
from nuggets.scores.cuts import TopK
from nuggets.steps.import_released import import_scores
from nuggets.steps.publish import publish_selection
from nuggets.store.store import Store

NUGGETS = str(Path(sys.executable).with_name("nuggets"))
EXEMPT = "localhost,127.0.0.1,::1,0.0.0.0"


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ({"http_proxy": "http://p:1"}, EXEMPT),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "localhost"}, EXEMPT),
        ({"all_proxy": "socks5://p:1", "no_proxy": "corp.example, 10.0.0.1"}, f"corp.example,10.0.0.1,{EXEMPT}"),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "*"),
        ({"no_proxy": "corp.example"}, "corp.example"),  # no proxy, nothing to do
        ({}, None),
    ],
)
def test_loopback_is_added_to_the_hosts_without_proxy(
    given: dict[str, str], result: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in ("no_proxy", "NO_PROXY"):  # so that monkeypatch restores them
        if name not in given:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
    exempt_loopback_from_proxies()
    exempt_loopback_from_proxies()
    assert getproxies().get("no") == result
    if any("proxy" in name.lower() and "no_" not in name.lower() for name in given):
        assert proxy_bypass("127.0.0.1:4200") and proxy_bypass("localhost:9000")
        assert proxy_bypass("hub.example.org") == (result == "*")


@pytest.fixture
def proxied() -> Iterator[dict[str, str]]:
    """An environment whose proxy refuses every request, and exempts one spelling of loopback only."""
    with serving(lambda path: (403, "text/plain", b"")) as proxy:
        names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        yield {**os.environ, **dict.fromkeys(names, f"http://{proxy}"), "no_proxy": "localhost"}


def run(environment: dict[str, str], *arguments: object) -> str:
    command = [NUGGETS, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def released_run(store: Store, folder: Path) -> None:
    """A finished run 'r' in the store."""
    (folder / "theirs").mkdir()
    (folder / "theirs" / "0_20_score.json").write_text(json.dumps({str(row): [row % 3 / 2] for row in range(20)}))
    for name, rows in (("pool.json", EXAMPLES), ("anchors.json", EXAMPLES[:2])):
        (folder / name).write_text(json.dumps(rows))
    files = {"pool": str(folder / "pool.json"), "anchor_file": str(folder / "anchors.json")}
    import_scores(store, folder / "theirs", run="r", **files)


def test_s3_on_loopback_is_reached(proxied: dict[str, str], s3_server: LocalS3, tmp_path: Path) -> None:
    store = Store("s3://pools/proxied")
    released_run(store, tmp_path)
    assert run(proxied, "runs", "--store", store.url).splitlines()[1].startswith("r ")
    without = {name: value for name, value in proxied.items() if name != "AWS_ENDPOINT_URL"}
    listed = run(without, "runs", "--store", store.url, "--s3-endpoint", s3_server.endpoint)
    assert listed.splitlines()[1].startswith("r ")


def test_a_configured_server_on_loopback_is_reached(
    proxied: dict[str, str], prefect_server: str, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    released_run(store, tmp_path)
    publish_selection(store, "r", TopK(1))
    assert "PREFECT_API_URL" in proxied
    assert "kept 3 of 20" in run(proxied, "reselect", "r", "--top-k", "3", "--store", store.url)


@pytest.mark.slow
def test_a_temporary_server_and_scoring_processes_are_reached(
    proxied: dict[str, str], s3_server: LocalS3, tmp_path: Path, tiny_model: Path, pool_file: Path
) -> None:
    environment = {**proxied, "PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    (tmp_path / "anchors.json").write_text(json.dumps(EXAMPLES[:2]))
    files = ("--model", tiny_model, "--anchor-file", tmp_path / "anchors.json", "--store", "s3://pools/proxied-run")
    assert "kept 2 of 20" in run(environment, "curate", pool_file, *files, "--top-k", "2", "--workers", "1")
