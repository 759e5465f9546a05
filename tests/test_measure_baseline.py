"""The baseline is measured and stored in batches, so that progress shows and a stop loses little."""

import json
import logging
from pathlib import Path

import pytest
from conftest import EXAMPLES

import nuggets.steps.measure_baseline
from nuggets.anchors.baseline import known_baseline
from nuggets.config.configs import CurateConfig
from nuggets.errors import Interrupted
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source
from nuggets.progress import phase_logger
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.choose_anchors import known_anchors
from nuggets.steps.measure_baseline import measure_missing
from nuggets.steps.prepare import prepare_run
from nuggets.stopping import clear_stop, request_stop
from nuggets.store.store import open_store

ANCHORS = 5


@pytest.fixture
def prepared(tmp_path: Path, pool_file: Path, tiny_model: Path) -> tuple[PreparedRun, str]:
    """A run of five anchors and the path of these."""
    anchors = tmp_path / "anchors.json"
    anchors.write_text(json.dumps(EXAMPLES[:ANCHORS]))
    config = CurateConfig(
        pool=str(pool_file), store=str(tmp_path / "store"), model=str(tiny_model), run="r", anchor_file=str(anchors)
    )
    prepared = prepare_run(config)
    pool = ingest_pool(
        open_store(config.store),
        find_source(config.pool),
        prepared.pool_digest,
        shard_size=8,
        max_row_bytes=10_000,
        max_rejected_share=0.5,
    )
    anchor_set = known_anchors(prepared, config, pool)
    assert anchor_set is not None
    return prepared, anchor_set.path


class AfterEachBatch(logging.Handler):
    """Counts reports of progress, and requests a stop at one of them."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        super().__init__()
        self.steps = 0
        self._stop_at = stop_at

    def emit(self, record: logging.LogRecord) -> None:
        self.steps += record.getMessage() == "step"
        if self.steps == self._stop_at:
            request_stop()


def measured(prepared: PreparedRun, path: str, listener: AfterEachBatch, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(nuggets.steps.measure_baseline, "BATCH", 2)
    level = phase_logger.level
    phase_logger.setLevel(logging.INFO)
    phase_logger.addHandler(listener)
    try:
        return measure_missing(prepared, path, 0, ANCHORS)
    finally:
        phase_logger.removeHandler(listener)
        phase_logger.setLevel(level)
        clear_stop()


def test_every_batch_reports_progress(prepared: tuple[PreparedRun, str], monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = prepared
    listener = AfterEachBatch()
    assert measured(run, path, listener, monkeypatch) == ANCHORS
    assert listener.steps == 3
    assert len(known_baseline(run.store, run.setup.key)) == ANCHORS
    assert measured(run, path, AfterEachBatch(), monkeypatch) == 0


def test_a_stop_keeps_the_batches_that_were_measured(
    prepared: tuple[PreparedRun, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = prepared
    with pytest.raises(Interrupted):
        measured(run, path, AfterEachBatch(stop_at=1), monkeypatch)
    assert len(known_baseline(run.store, run.setup.key)) == 2
    assert measured(run, path, AfterEachBatch(), monkeypatch) == ANCHORS - 2
