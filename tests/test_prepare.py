"""The inputs of a run: recorded when it is prepared, and read again when it is continued."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES
from tiny_models import save_tiny_encoder

from nuggets.config.configs import CurateConfig
from nuggets.errors import InputError
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source
from nuggets.pools.shards import Pool
from nuggets.runs.manifest import RunState, read_run, record_state
from nuggets.steps.choose_anchors import anchor_set_address, known_anchors
from nuggets.steps.prepare import prepare_run, resume_run
from nuggets.store.store import open_store


@pytest.fixture
def config(tmp_path: Path, pool_file: Path, tiny_model: Path) -> CurateConfig:
    anchors = tmp_path / "anchors.json"
    anchors.write_text(json.dumps(EXAMPLES[:8]))
    given: dict[str, Any] = {"anchor_file": str(anchors), "store": str(tmp_path / "store"), "model": str(tiny_model)}
    return CurateConfig(pool=str(pool_file), run="r", dtype="float32", **given)


def test_an_anchor_file_that_changes_before_it_is_read_is_refused(config):
    prepared = prepare_run(config)
    store = open_store(config.store)
    pool = ingest_pool(
        store,
        find_source(config.pool),
        prepared.pool_digest,
        shard_size=8,
        max_row_bytes=10_000,
        max_rejected_share=0.0,
    )
    Path(config.anchor_file).write_text(json.dumps(EXAMPLES[:7]))
    with pytest.raises(InputError, match=f"^'{config.anchor_file}' was changed while it was read "):
        known_anchors(prepared, config, pool)
    assert store.list("anchors") == []
    Path(config.anchor_file).write_text(json.dumps(EXAMPLES[:8]))
    assert known_anchors(prepared, config, pool).anchors == 8


def test_a_run_with_a_relative_model_is_reopened_from_another_folder(config, tmp_path, monkeypatch):
    model = save_tiny_encoder(tmp_path / "models/both")  # a language model that can embed as well
    for given in (model.name, f"./{model.name}"):
        config = replace(config, run=None, model=given, encoder=given, anchor_file=None, trust_remote_code=given)
        monkeypatch.chdir(model.parent)
        prepared = prepare_run(config)
        store = open_store(config.store)
        kept = read_run(store, prepared.name).config
        assert {kept[name] for name in ("model", "encoder", "trust_remote_code")} == {str(model)}
        record_state(store, prepared.name, RunState.INTERRUPTED, references={"scoring_key": prepared.setup.key})
        monkeypatch.chdir(tmp_path)
        reopened = resume_run(store, prepared.name).setup
        assert (reopened.files.folder, reopened.key) == (str(model), prepared.setup.key)
        assert reopened.trust_remote_code


def test_named_fields_make_another_run_and_none_leave_it_as_it_was(config):
    config = replace(config, run=None, anchor_file=None)
    runs = [prepare_run(each).name for each in (config, replace(config, output_field="best"))]
    assert runs[0] != runs[1]
    store = open_store(config.store)
    identities = [read_run(store, run).identity for run in runs]
    assert "fields" not in identities[0]
    assert identities[1] == {**identities[0], "fields": {"output": "best"}}
    prepared = prepare_run(config)
    pool = Pool("p", "", 20, 20, 0, 0, {}, "", (), ())
    addresses = {anchor_set_address(prepared, each, pool)[0] for each in (config, replace(config, output_field="best"))}
    assert len(addresses) == 2
