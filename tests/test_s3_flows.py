"""Flows and commands whose store is on S3, with a Prefect server."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import s3fs
from s3_jobs import configured, configured_on_s3, environment, on_disk, selected
from selections import selection_path

import tasks.plan
import tasks.score
from deployments.local_s3 import LocalS3
from nuggets.cells.blocks import read_block
from nuggets.cells.folders import list_blocks
from nuggets.errors import NuggetsError
from nuggets.store.store import Store

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
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
    printed = command(*curate)
    selection = selection_path(store, "r", "top-k-5")
    assert f"{store}/{selection}" in printed
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
