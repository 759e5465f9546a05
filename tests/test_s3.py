"""Everything on S3: a real server that stores durably, one that goes wrong now and then, one that dies."""

import gzip
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import job
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from fault_proxy import FAULTS, FaultProxy, fault_proxy
from s3_jobs import configured, configured_on_s3, environment, on_disk, selected

from deployments.local_s3 import LocalS3
from nuggets.config.configs import CurateConfig, ReselectConfig
from nuggets.errors import InputError, StoreError, UsageError
from nuggets.examples import PoolRow
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.readers.rows import read_pool
from nuggets.store.file_systems import locate
from nuggets.store.store import open_store

NUGGETS = str(Path(sys.executable).with_name("nuggets"))

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_two_stores_of_one_process_have_endpoints_independently(
    address: str, s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # no server listens there
    store = open_store(address, s3_server.endpoint)
    assert store.read("pool.jsonl").count(b"\n") == 20
    (file,) = find_source(f"{address}/pool.jsonl", s3_server.endpoint).files
    assert (file.address, file.format) == (f"{address}/pool.jsonl", "json")
    assert locate(address)[0].endpoint_url is None  # the environment decides


def test_folders_globs_and_splits_of_a_pool_on_s3(address: str, s3_server: LocalS3) -> None:
    client = s3fs.S3FileSystem(skip_instance_cache=True, endpoint_url=s3_server.endpoint)
    row = b'{"instruction": "Q", "output": "%d"}\n'
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        client.pipe_file(f"{address}/hub/data/{name}.jsonl", row % number)
    train, wild = ["0", "1"], f"{address}/hub/data/*.jsonl"
    for addresses, split, outputs in (
        (f"{address}/hub", None, train),
        (f"{address}/hub/", "all", ["2", *train]),
        (wild, None, train),
        (wild, "test", ["2"]),
        ([f"{address}/hub/data/train-00001-of-00002.jsonl", f"{address}/hub/data/train-00000*"], None, train),
    ):
        source = find_source(addresses, s3_server.endpoint, split=split)
        rows = [item for _, item in read_pool(source, max_row_bytes=1000)]
        assert [item.example.output for item in rows if isinstance(item, PoolRow)] == outputs
    with pytest.raises(UsageError, match=f"no file matches '{address}/none/\\*'"):
        find_source(f"{address}/none/*", s3_server.endpoint)


def test_a_store_is_a_value_that_reaches_another_process(address: str, s3_server: LocalS3) -> None:
    store = open_store(address, s3_server.endpoint)
    sent = pickle.dumps(store)
    assert s3_server.secret.encode() not in sent
    code = "import pickle, sys; print(len(pickle.load(sys.stdin.buffer).read('pool.jsonl').splitlines()))"
    environment = os.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, env=environment)
    assert (done.stdout, done.returncode) == (b"20\n", 0), done.stderr.decode()


@pytest.mark.parametrize("field", ["pool", "store", "s3_endpoint"])
def test_credentials_in_an_address_are_refused_and_not_repeated(field: str) -> None:
    given = {"pool": "pool.jsonl", field: f"{'https' if field == 's3_endpoint' else 's3'}://me:hunter2@bucket/x"}
    with pytest.raises(UsageError, match=f"^{field} holds credentials") as refused:
        CurateConfig(**given)
    assert "hunter2" not in str(refused.value)


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(UsageError, match="s3_endpoint='localhost:9000' has to be a URL"):
        ReselectConfig(run="r", top_k=1, s3_endpoint="localhost:9000")


def test_a_secret_that_is_wrong_is_named_as_the_reason(s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    with environment({"AWS_SECRET_ACCESS_KEY": "wrong"}, monkeypatch):
        store = open_store("s3://pools/x")
        for action in (store.check_writable, lambda: store.read("a"), lambda: store.list("a")):
            with pytest.raises(StoreError, match="access denied: check the AWS environment") as refused:
                action()
            assert s3_server.endpoint in str(refused.value)


def test_missing_credentials_are_not_called_denied(
    s3_server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    nowhere = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    with environment(nowhere, monkeypatch):
        with pytest.raises(StoreError) as refused:
            open_store("s3://pools/x").write("a", b"")
    assert str(refused.value).startswith(f"could not write s3://pools/x/a (endpoint {s3_server.endpoint}")
    assert str(refused.value).endswith(f"): no AWS credentials were found: {advice} (Unable to locate credentials)")
    with environment(nowhere | {"AWS_ACCESS_KEY_ID": "half"}, monkeypatch):
        with pytest.raises(StoreError, match=f": AWS credentials are incomplete: {advice} ") as refused:
            open_store("s3://pools/x").read("a")


def test_what_another_writer_adds_or_deletes_is_seen_at_once(address: str) -> None:
    store = open_store(f"{address}/shared")
    assert store.list("a") == [] and not store.exists("a/one")
    program = f"""
from nuggets.store.store import open_store
store = open_store({store.url!r})
store.write("a/one", b"1")
store.write("a/two", b"22")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert store.list("a") == ["a/one", "a/two"] and store.read("a/two") == b"22"
    program = program.replace('store.write("a/one", b"1")', 'store.remove("a/one")').replace('b"22"', 'b"333"')
    subprocess.run([sys.executable, "-c", program], check=True)
    assert store.list("a") == ["a/two"] and store.read("a/two") == b"333" and not store.exists("a/one")


@pytest.fixture
def proxy(s3_server: LocalS3, quick_timeouts: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.endpoint, share=0.1, stall_seconds=1.0) as proxy:
        with environment({"AWS_ENDPOINT_URL": proxy.endpoint}, monkeypatch):
            yield proxy


@pytest.mark.slow
def test_a_server_that_fails_one_request_in_ten_changes_nothing(
    tmp_path: Path, proxy: FaultProxy, address: str, pool_file: Path, anchor_file: Path, tiny_model: Path
) -> None:
    kept = on_disk(pool_file, anchor_file, tmp_path / "store", tiny_model)
    assert selected(job.curate(configured_on_s3(address, tiny_model, racing="on"))) == kept
    assert proxy.passed > 50 and set(proxy.faults) == set(FAULTS)


def test_objects_are_whole_behind_a_server_that_fails_one_request_in_ten(
    proxy: FaultProxy, address: str, tmp_path: Path
) -> None:
    store = open_store(f"{address}/whole")
    contents = {f"{number % 3}/{number}": bytes([number]) * (1 << number) for number in range(21)}
    for path, content in contents.items():
        if len(content) % 3:
            store.write(path, content)
        else:
            file = tmp_path / "file"
            file.write_bytes(content)
            store.write_file(path, file)
    for _ in range(3):
        assert store.list("") == sorted(contents)
        assert {path: store.read(path) for path in store.list("")} == contents
    for path in contents:
        store.remove(path)
    assert store.list("") == []
    assert proxy.faults.total() >= 10


def test_requests_are_retried_until_a_killed_server_is_back(
    tmp_path: Path,
    mortal_s3: LocalS3,
    quick_timeouts: None,
    pool_file: Path,
    anchor_file: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = on_disk(pool_file, anchor_file, tmp_path / "store", tiny_model)
    starters: list[threading.Timer] = []
    score_unit = job.score_unit

    def killing_first(*arguments: Any) -> int:
        if not starters:
            mortal_s3.kill()
            starters.append(threading.Timer(3.0, mortal_s3.start))
            starters[0].start()
        return score_unit(*arguments)

    monkeypatch.setattr(job, "score_unit", killing_first)
    with caplog.at_level(logging.WARNING, "nuggets.store.retries"):
        selection = job.curate(configured(str(pool_file), str(anchor_file), "s3://pools/store", tiny_model))
    starters[0].join()
    assert selected(selection) == kept
    waited = [record.getMessage() for record in caplog.records if record.name == "nuggets.store.retries"]
    assert waited and "s3://pools/store/" in waited[0] and "Retry" in waited[0]


SLOW = pytest.mark.slow  # other forms of a pool in a test that one form runs in make test


def large_pool(folder: Path, form: str) -> Path:
    """A pool of a dozen requests."""
    rows = [{"instruction": f"Say {number}.", "output": os.urandom(4000).hex()} for number in range(2000)]
    path = folder / form
    if form == "pool.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=200, compression="none")
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines, 1) if form.endswith(".gz") else lines)
    return path


def rows_of(address: str) -> list[object]:
    return list(read_pool(find_source(address), max_row_bytes=100_000))


@pytest.mark.parametrize(
    "form", [pytest.param("pool.jsonl", marks=SLOW), pytest.param("pool.jsonl.gz", marks=SLOW), "pool.parquet"]
)
def test_a_pool_is_read_whole_behind_a_server_that_fails_often(
    form: str, address: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    file = large_pool(tmp_path, form)
    s3fs.S3FileSystem().put_file(str(file), f"{address}/{form}")
    proxy.share = 0.4
    assert source_digest(find_source(f"{address}/{form}")) == source_digest(find_source(str(file)))
    assert rows_of(f"{address}/{form}") == rows_of(str(file))
    assert proxy.faults.total() >= 5


@pytest.mark.parametrize("form", ["pool.jsonl.gz", pytest.param("pool.parquet", marks=SLOW)])
def test_reading_a_pool_resumes_after_the_server_was_away(
    form: str, mortal_s3: LocalS3, quick_timeouts: None, tmp_path: Path
) -> None:
    file = large_pool(tmp_path, form)
    s3fs.S3FileSystem(skip_instance_cache=True).put_file(str(file), f"pools/{form}")
    found = read_pool(find_source(f"s3://pools/{form}"), max_row_bytes=100_000)
    rows = [next(found)]
    mortal_s3.kill()
    starter = threading.Timer(2.0, mortal_s3.start)
    starter.start()
    rows += found
    starter.join()
    assert rows == rows_of(str(file)) and all(isinstance(row, PoolRow) for _, row in rows)


@pytest.mark.parametrize("form", [pytest.param("pool.jsonl.gz", marks=SLOW), "pool.parquet"])
def test_a_server_that_stays_away_is_a_transient_error_and_no_damage(
    form: str, mortal_s3: LocalS3, quick_timeouts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuggets.store.retries.RETRY_SECONDS", 1.0)
    address = f"s3://pools/{form}"
    s3fs.S3FileSystem(skip_instance_cache=True).put_file(str(large_pool(tmp_path, form)), address)
    source = find_source(address)
    rows = read_pool(source, max_row_bytes=100_000)
    assert isinstance(next(rows)[1], PoolRow)
    mortal_s3.kill()
    for act in (lambda: list(rows), lambda: source_digest(source), lambda: find_source(address)):
        with pytest.raises(StoreError, match=rf"could not read {address} \(endpoint {mortal_s3.endpoint}\)") as refused:
            act()
        assert refused.value.retry_can_help
    mortal_s3.start()
    assert find_source(address) == source


def test_a_pool_that_is_replaced_while_it_is_read_is_refused(s3_server: LocalS3, address: str, tmp_path: Path) -> None:
    client = s3fs.S3FileSystem(skip_instance_cache=True, endpoint_url=s3_server.endpoint)
    client.put_file(str(large_pool(tmp_path, "pool.jsonl")), f"{address}/pool.jsonl")
    rows = read_pool(find_source(f"{address}/pool.jsonl"), max_row_bytes=100_000)
    next(rows)
    client.put_file(str(large_pool(tmp_path, "pool.jsonl")), f"{address}/pool.jsonl")
    with pytest.raises(
        InputError, match="/pool.jsonl' was changed while it was read: stop other programs from writing"
    ):
        list(rows)
