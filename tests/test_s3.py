"""Everything on S3: a real server that stores durably, one that goes wrong now and then, one that dies."""

import contextlib
import gzip
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import job
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from conftest import EXAMPLES
from fault_proxy import FAULTS, FaultProxy, fault_proxy
from selections import selection_path

import tasks.plan
import tasks.score
from deployments.local_s3 import LocalS3, free_port
from nuggets.cells.blocks import read_block
from nuggets.cells.folders import list_blocks
from nuggets.config.configs import CurateConfig, ReselectConfig
from nuggets.errors import InputError, NuggetsError, StoreError, UsageError
from nuggets.examples import PoolRow
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.readers.rows import read_pool
from nuggets.steps.publish import Selection
from nuggets.store.file_systems import S3_OPTIONS, locate
from nuggets.store.store import Store, open_store

NUGGETS = str(Path(sys.executable).with_name("nuggets"))

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def anchor_file(tmp_path: Path) -> Path:
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(EXAMPLES[:8]))
    return path


@pytest.fixture
def address(s3_server: LocalS3, pool_file: Path, anchor_file: Path) -> str:
    """A separate prefix with a pool and anchors."""
    prefix = f"pools/{uuid.uuid4()}"
    client = s3fs.S3FileSystem(skip_instance_cache=True, endpoint_url=s3_server.endpoint)
    client.pipe_file(f"{prefix}/pool.jsonl", pool_file.read_bytes())
    client.pipe_file(f"{prefix}/anchors.json", anchor_file.read_bytes())
    return f"s3://{prefix}"


def configured(pool: str, anchors: str, store: str, model: Path, **options: Any) -> CurateConfig:
    given = {"run": "r", "shard_size": 8, "top_k": 5, "racing": "off"} | options
    return CurateConfig(pool=pool, anchor_file=anchors, store=store, model=str(model), **given)


def configured_on_s3(address: str, model: Path, **options: Any) -> CurateConfig:
    return configured(f"{address}/pool.jsonl", f"{address}/anchors.json", f"{address}/store", model, **options)


def on_disk(pool: Path, anchors: Path, store: Path, model: Path) -> bytes:
    """What the same run chooses where nothing goes wrong."""
    selection = job.curate(configured(str(pool), str(anchors), str(store), model))
    return Path(selection.folder, "selected.jsonl").read_bytes()


def selected(selection: Selection) -> bytes:
    return Store(selection.folder).read("selected.jsonl")


@pytest.mark.usefixtures("prefect_server")
def test_every_command_works_on_s3_and_stores_no_secret(
    tmp_path: Path,
    address: str,
    s3_server: LocalS3,
    pool_file: Path,
    anchor_file: Path,
    tiny_model: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = on_disk(pool_file, anchor_file, tmp_path / "store", tiny_model)
    store = f"{address}/store"
    place = Store(store)
    outputs: list[str] = []

    def command(*arguments: str) -> str:
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr
        outputs.extend([done.stdout, done.stderr])
        return done.stdout

    options = ["--store", store, "--anchor-file", f"{address}/anchors.json", "--run", "r", "--shard-size", "8"]
    curate = ["curate", f"{address}/pool.jsonl", "--model", str(tiny_model), "--top-k", "5", *options]
    done = subprocess.run([NUGGETS, *curate], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs += [done.stdout, done.stderr]
    selection = selection_path(store, "r", "top-k-5")
    assert f"{store}/{selection}" in done.stdout
    assert place.read(f"{selection}/selected.jsonl") == kept
    assert "kept 3 of 20" in command("reselect", "r", "--store", store, "--top-k", "3")
    assert "complete" in command("runs", "--store", store)
    command("cells", "r", "--store", store, "--out", str(tmp_path / "cells.parquet"))
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    assert 0 < len(cells) <= 20 * 8 and cells["one_shot"].notna().all()
    command("scores", "r", "--store", store, "--out", str(tmp_path / "scores.parquet"))
    assert len(pd.read_parquet(tmp_path / "scores.parquet")) == 20
    assert command("gc", "--store", store).startswith("0 files of killed writers")

    # Not in the store, nor with Prefect (parameters, artifacts, logs), nor in what commands say, of errors too.
    with environment({"AWS_SECRET_ACCESS_KEY": "wrong-" + s3_server.secret}, monkeypatch):
        refused = cli(*curate)
    assert refused.returncode == 2 and "Check address, credentials and permissions" in refused.stderr
    texts = [place.read(path) for path in place.list("")]
    texts += [path.read_bytes() for path in Path(os.environ["PREFECT_HOME"]).rglob("*") if path.is_file()]
    texts += [text.encode() for text in (*outputs, refused.stdout, refused.stderr)]
    assert b"top_k" in b"".join(texts)
    assert not [text for text in texts if s3_server.secret.encode() in text]


@pytest.mark.usefixtures("prefect_server")
def test_an_endpoint_can_be_given_where_the_environment_names_none(
    address: str, s3_server: LocalS3, tiny_model: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.curate import curate

    monkeypatch.delenv("AWS_ENDPOINT_URL")
    s3fs.S3FileSystem.clear_instance_cache()
    endpoint = s3_server.endpoint
    first = curate(configured_on_s3(address, tiny_model, s3_endpoint=endpoint))
    store = f"{address}/store"
    assert "AWS_ENDPOINT_URL_S3" not in os.environ
    given = ["--store", store, "--s3-endpoint", endpoint]
    assert "kept 2 of 20" in cli("reselect", "r", "--top-k", 2, *given).stdout
    assert "best 5: 5; best 2: 2" in cli("runs", *given).stdout
    assert first.kept == 5
    s3fs.S3FileSystem.clear_instance_cache()


def test_two_stores_of_one_process_have_endpoints_independently(
    address: str, s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # no server listens there
    store = open_store(address, s3_server.endpoint)
    assert store.read("pool.jsonl").count(b"\n") == 20
    assert find_source(f"{address}/pool.jsonl", s3_server.endpoint).files == (f"{address}/pool.jsonl",)
    assert locate(address)[0].endpoint_url is None  # the environment decides


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


@contextlib.contextmanager
def environment(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that are made anew, with these variables."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def quick_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stalls are noticed after half a second, so that a test can afford some."""
    config = S3_OPTIONS["config_kwargs"] | {"connect_timeout": 0.5, "read_timeout": 0.5}
    monkeypatch.setattr("nuggets.store.file_systems.S3_OPTIONS", S3_OPTIONS | {"config_kwargs": config})


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


@pytest.fixture
def mortal_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalS3]:
    """A separate server, to be killed."""
    server = LocalS3(tmp_path / "s3", free_port())
    server.start()
    with environment(server.environment(), monkeypatch):
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("pools")
        yield server
    server.kill()


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


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_server_that_stays_away_fails_the_run_by_name_and_a_later_run_continues(
    tmp_path: Path,
    mortal_s3: LocalS3,
    quick_timeouts: None,
    pool_file: Path,
    anchor_file: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import nuggets.steps.block_writer
    from flows.curate import curate

    wanted = configured(str(pool_file), str(anchor_file), "s3://pools/store", tiny_model)
    kept = on_disk(pool_file, anchor_file, tmp_path / "store", tiny_model)
    scored: list[str] = []
    died: list[str] = []
    add = nuggets.steps.block_writer.BlockWriter.add

    def die_at_the_tenth(blocks: Any, candidate: str, values: Any) -> None:
        scored.append(candidate)
        add(blocks, candidate, values)
        if len(scored) == 10 and not died:
            died.append(candidate)
            mortal_s3.kill()

    monkeypatch.setattr(nuggets.steps.block_writer.BlockWriter, "add", die_at_the_tenth)
    monkeypatch.setattr("nuggets.store.retries.RETRY_SECONDS", 1.0)
    monkeypatch.setattr(tasks.score.score, "retry_delay_seconds", [0.1])
    monkeypatch.setattr(tasks.plan.plan, "retry_delay_seconds", [0.1])
    with pytest.raises(NuggetsError, match=rf"could not \w+ s3://pools/store/.*\(endpoint {mortal_s3.endpoint}\)"):
        curate(wanted)
    mortal_s3.start()
    first = set(scored)
    scored.clear()
    store = Store("s3://pools/store")
    blocks = [read_block(store, path) for path in list_blocks(store, "cells")]
    stored = {candidate for block in blocks if block is not None for candidate in block.candidate_ids}
    assert selected(curate(wanted)) == kept
    # What was stored when the server died is not computed again: the shard that was done by then.
    assert 0 < len(stored) < len(first) < 20 and len(scored) == 20 - len(stored)


FORMS = ("pool.jsonl", "pool.jsonl.gz", "pool.parquet")


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


@pytest.mark.parametrize("form", FORMS)
def test_a_pool_is_read_whole_behind_a_server_that_fails_often(
    form: str, address: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    file = large_pool(tmp_path, form)
    s3fs.S3FileSystem().put_file(str(file), f"{address}/{form}")
    proxy.share = 0.4
    assert source_digest(find_source(f"{address}/{form}")) == source_digest(find_source(str(file)))
    assert rows_of(f"{address}/{form}") == rows_of(str(file))
    assert proxy.faults.total() >= 5


@pytest.mark.parametrize("form", FORMS[1:])
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


@pytest.mark.parametrize("form", FORMS[1:])
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
