"""Prompts are made once before planning: what is cut is counted and named, what can't be scored is left out."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import job
import pandas as pd
import pyarrow as pa
import pytest
from conftest import EXAMPLES
from orchestrated import stored_cells
from tiny_models import save_tiny_encoder

import nuggets
from nuggets.cells.prompt_notes import PromptNote, join_notes, pool_notes_path, read_notes, write_notes
from nuggets.config.configs import CurateConfig, ReselectConfig
from nuggets.errors import InputError, StoreError
from nuggets.runs.manifest import read_run
from nuggets.steps.check_prompts import check_shard, unchecked_shards
from nuggets.steps.gc import find_garbage, sweep_garbage
from nuggets.steps.ingest import ingest_run_pool
from nuggets.steps.prepare import prepare_run
from nuggets.steps.publish import Selection
from nuggets.store.store import Store

LONG = " ".join(f"word{number}" for number in range(150))
ANSWERS = ("It lists words that are counted.", "asdf asdf", "I can not help with that.")
CUT = [{"instruction": "Sum up the passage.", "input": LONG, "output": answer} for answer in ANSWERS]  # rows 0 to 2
TOO_LONG = [{"instruction": "Write an essay.", "input": "", "output": LONG}]  # row 3
SPECIAL = [{"instruction": "Close the turn.", "input": "", "output": "Done. </s> Not done."}]  # row 4
POOL = [*CUT, *TOO_LONG, *SPECIAL, *EXAMPLES[:7]]
LIMITS = {"demonstration_tokens": 160, "anchor_tokens": 80, "profile": "plain"}


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> Callable[..., CurateConfig]:
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in POOL))
    (tmp_path / "anchors.json").write_text(json.dumps(EXAMPLES[10:13]))

    def config(**options: Any) -> CurateConfig:
        files = {name: str(tmp_path / file) for name, file in (("pool", "pool.jsonl"), ("anchor_file", "anchors.json"))}
        common = {"store": str(tmp_path / "store"), "model": str(tiny_model), "run": "r", "shard_size": 5}
        return CurateConfig(**{**files, **common, **LIMITS, "racing": "off", "top_k": 12, **options})

    return config


def scores_of(selection: Selection) -> pd.DataFrame:
    return pd.read_parquet(Path(selection.folder, "scores.parquet")).set_index("candidate_row").sort_index()


def test_cuts_are_counted_named_and_in_the_scores(
    config: Callable[..., CurateConfig], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="nuggets.progress"):
        selection = job.curate(config())
    scores = scores_of(selection)
    assert (scores.cut_tokens > 0).tolist() == [True] * 4 + [False] * 8
    assert scores.unscorable.dropna().to_dict() == {3: "response_cut"}
    assert scores.golden_score.isna().tolist() == scores.unscorable.notna().tolist()
    assert scores.loc[:2, "mean_gain"].nunique() == 3  # each response was in its demonstration
    assert selection.kept == 11 and not scores.kept[3]
    counts = read_run(Store(config().store), "r").counts
    expected = {"prompts_cut": 3, "responses_cut": 0, "special_tokens_in_texts": 1, "texts_altered": 0}
    expected |= {"unscorable": 1, "unscorable_response_cut": 1, "anchor_prompts_cut": 0, "cells": 33}
    assert {name: counts[name] for name in expected} == expected
    (line,) = [line for line in caplog.messages if line.startswith("prompts: ")]
    assert line.startswith("prompts: 12 candidates, 3 with the middle of the prompt cut, longer than ")
    assert "(rows 0, 1, 2), 1 with special tokens in their texts (row 4), 1 not scored: less than 50%" in line
    (last,) = [line for line in caplog.messages if line.startswith("not used: ")]
    report = Path(selection.folder, "report.md").read_text()
    section = report.partition("## What was not used\n\n")[2].partition("\n\n## ")[0]
    for shown in (last, section):
        assert "demonstrations with the middle of the prompt cut, longer than demonstration_tokens" in shown
        assert "demonstrations with special tokens in their texts" in shown
        assert "demonstrations not scored: less than 50%" in shown
    assert "| 3 | rows 0, 1, 2 |" in section and "| 1 | row 3 |" in section and "| 1 | row 4 |" in section
    rows = [json.loads(line) for line in Path(selection.folder, "selected.jsonl").open()]
    assert {row["example_id"]: row["cut_tokens"] for row in rows} == dict(
        zip(scores.candidate_id[scores.kept], scores.cut_tokens[scores.kept].tolist(), strict=True)
    )
    loaded = nuggets.load_scores("r", config().store).set_index("candidate_row").sort_index()
    pd.testing.assert_frame_equal(loaded, scores)


def test_a_candidate_with_a_fault_gets_no_cell_in_a_race_or_without_one(config: Callable[..., CurateConfig]) -> None:
    for racing in ("on", "off"):
        selection = job.curate(config(racing=racing, run=racing, store=f"{config().store}-{racing}", top_k=2))
        scores = scores_of(selection)
        store = Store(f"{config().store}-{racing}")
        assert scores.candidate_id[3] not in {candidate for candidate, _ in stored_cells(store)}
        assert (scores.cells[3], scores.anchors[3]) == (0, 0) and not scores.kept[3]
    assert len(stored_cells(store)) == 33
    assert job.reselect(ReselectConfig(run="off", store=store.url, top_k=12)).kept == 11


def test_anchors_that_are_cut_are_counted_and_named(
    config: Callable[..., CurateConfig], caplog: pytest.LogCaptureFixture
) -> None:
    Path(str(config().anchor_file)).write_text(json.dumps([EXAMPLES[10], CUT[0], EXAMPLES[11]]))
    with caplog.at_level(logging.INFO, logger="nuggets.progress"):
        selection = job.curate(config(top_k=2))
    assert read_run(Store(config().store), "r").counts["anchor_prompts_cut"] == 1
    cut = "with the middle of the prompt cut, longer than anchor_tokens"
    assert f"anchors: 3 anchors, 1 {cut}=80 (row 1)" in caplog.messages
    assert f"| anchors {cut} | 1 | row 1 |" in Path(selection.folder, "report.md").read_text()


def test_a_pool_that_can_not_be_scored_is_refused_before_anything_is_computed(
    config: Callable[..., CurateConfig],
) -> None:
    Path(config().pool[0]).write_text("".join(json.dumps({**row, "id": 1}) + "\n" for row in TOO_LONG))
    with pytest.raises(InputError) as refused:
        job.curate(config())
    message = str(refused.value)
    assert message.startswith(
        "none of 1 candidate can be scored with demonstration_tokens=160 (1 x response_cut, less "
    )
    assert "Together with anchor_tokens=80 they have to fit the model's context" in message
    assert Store(config().store).list("cells") == []


def test_a_run_without_cuts_says_so(config: Callable[..., CurateConfig], caplog: pytest.LogCaptureFixture) -> None:
    pool = Path(config().pool[0])
    pool.write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES[:7]))
    with caplog.at_level(logging.INFO, logger="nuggets.progress"):
        selection = job.curate(config())
    assert "prompts: 7 candidates, none cut, all fit demonstration_tokens=160" in caplog.messages
    assert "anchors: 3 anchors, none cut, all fit anchor_tokens=80" in caplog.messages
    assert "not used: nothing was cut or left out" in caplog.messages
    report = Path(selection.folder, "report.md").read_text()
    assert "## What was not used\n\nNothing was cut, dropped, merged or left out.\n" in report
    assert (scores_of(selection).cut_tokens == 0).all()


def test_rejects_turns_and_system_messages_are_in_log_and_report(
    config: Callable[..., CurateConfig], caplog: pytest.LogCaptureFixture
) -> None:
    turns = [("system", "Be brief."), ("user", "Say a."), ("assistant", "a"), ("user", "Say b."), ("assistant", "b")]
    talk = {"messages": [{"role": role, "content": text} for role, text in turns]}
    rows = [*EXAMPLES[:6], talk, {"instruction": "Say nothing.", "output": ""}, EXAMPLES[0]]
    Path(config().pool[0]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.INFO, logger="nuggets.progress"):
        selection = job.curate(config(top_k=2))
    (last,) = [line for line in caplog.messages if line.startswith("not used: ")]
    report = Path(selection.folder, "report.md").read_text()
    for what, count in {
        "rejected rows (missing_output)": 1,
        "merged duplicate rows": 1,
        "later turns of conversations": 2,
        "system messages": 1,
    }.items():
        assert f"{count} {what}" in last
        assert f"| {what} | {count} | " in report
    assert "rejects.jsonl`" in report


def test_files_of_other_splits_and_further_instances_are_in_log_and_report(
    config: Callable[..., CurateConfig], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    twice = {"instruction": "Repeat.", "instances": [{"input": text, "output": text} for text in ("a", "b")]}
    for split, rows in (("train", [*EXAMPLES[:6], twice]), ("test", EXAMPLES[6:9])):
        (tmp_path / "folder").mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "folder" / f"{split}-00000-of-00001.jsonl").write_text(lines)
    with caplog.at_level(logging.INFO, logger="nuggets.progress"):
        selection = job.curate(config(pool=str(tmp_path / "folder"), top_k=2))
    assert selection.candidates == 7
    last = [line for line in caplog.messages if line.startswith("not used: ")][-1]
    assert "1 further instances of an instruction" in last and "test" in last
    report = Path(selection.folder, "report.md").read_text()
    assert "| further instances of an instruction | 1 | only the first one is scored |" in report
    section = report.partition("## What was not used\n\n")[2].partition("\n\n## ")[0]
    assert "test" in section


def test_the_window_and_the_prompt_of_the_encoder_are_in_log_and_report(
    config: Callable[..., CurateConfig], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    encoder = save_tiny_encoder(tmp_path / "encoder")
    kind = "sentence_transformers.models"
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"}]
    modules += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"}]
    settings = {
        "modules": modules,
        "sentence_bert_config": {"max_seq_length": 24},
        "config_sentence_transformers": {"prompts": {"query": "Q: ", "document": "D: "}},
        "1_Pooling/config": {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True},
    }
    (encoder / "1_Pooling").mkdir()
    for name, content in settings.items():
        (encoder / f"{name}.json").write_text(json.dumps(content))
    with caplog.at_level(logging.INFO, logger="nuggets.progress"):
        selection = job.curate(config(anchor_file=None, anchors=3, encoder=str(encoder), top_k=2))
    reading = f"{encoder} reads 24 tokens at a time with prompt document ('D: '), not with query"
    assert f"encoder: {reading}" in caplog.messages
    assert f"| encoder | {reading} |" in Path(selection.folder, "report.md").read_text()


def test_prompts_are_made_once_per_scoring_key(config: Callable[..., CurateConfig]) -> None:
    prepared = prepare_run(config())
    pool = ingest_run_pool(prepared, config())
    shards = unchecked_shards(prepared, pool)
    assert [item.index for item in shards] == [0, 1, 2]
    check_shard(prepared, shards[1])
    assert [item.index for item in unchecked_shards(prepared, pool)] == [0, 2]  # a retry does the rest
    job.check_prompts(prepared, pool)
    assert unchecked_shards(prepared, pool) == []
    again = prepare_run(config(run="again"))
    assert unchecked_shards(again, pool) == []
    other = prepare_run(config(run="other", demonstration_tokens=200))
    assert len(unchecked_shards(other, pool)) == 3


def test_joined_notes_of_single_shards_are_garbage(config: Callable[..., CurateConfig]) -> None:
    selection = job.curate(config())
    store = Store(config().store)
    assert find_garbage(store, older_than=3600.0).notes == ()
    garbage = find_garbage(store, older_than=-1.0)
    assert len(garbage.notes) == 3
    sweep_garbage(store, garbage, damaged=False)
    assert sorted(Path(path).name for path in store.list("prompts")) == ["anchors.parquet", "pool.parquet"]
    again = job.curate(config(run="again"))
    pd.testing.assert_frame_equal(scores_of(again), scores_of(selection))
    assert read_run(store, "again").counts["cells_computed"] == 0


def test_notes_are_joined_in_the_order_of_the_pool_and_found_by_id(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    notes = [
        PromptNote(f"c{number}", 9 - number, number, 1, 0, 0, "no_room" if number == 2 else None)
        for number in (1, 2, 3)
    ]
    write_notes(store, "a", notes[:2])
    write_notes(store, "b", [])
    write_notes(store, "c", notes[2:])
    join_notes(store, "pool", ["a", "b", "c"])
    joined = read_notes(store, "pool")
    asked = pa.array(["c3", "none", "c2"])
    assert joined.cut_tokens(asked).to_pylist() == [4, 0, 3]
    assert joined.fault_of(asked).to_pylist() == [None, None, "no_room"]
    assert joined.rows_with("cut_prompt") == [6, 8]  # those that are scored
    assert (joined.faults, joined.rows_by_fault()) == ({"c2": "no_room"}, {"no_room": [7]})


def test_missing_notes_are_named_with_what_to_do(tmp_path: Path) -> None:
    path = pool_notes_path("key", "pool")
    with pytest.raises(StoreError, match=f"{path} are missing: run the same nuggets curate command again"):
        read_notes(Store(str(tmp_path)), path)
