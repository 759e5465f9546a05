"""What people read while cells are computed."""

import pytest

import flows.execution.cells_meter
from flows.execution.cells_meter import CellsMeter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(flows.execution.cells_meter.time, "monotonic", lambda: now[0])
    return now


def test_nothing_to_do_is_all_done() -> None:
    assert CellsMeter().percent == 100


def test_the_rate_leaves_out_what_came_before_the_first_cell(clock: list[float]) -> None:
    meter = CellsMeter()
    meter.count(400, 0)
    clock[0] += 60  # the model is loaded
    assert meter.line() == "scored 0 of 400 cells (0 %)"
    meter.count(0, 100)
    clock[0] += 0.01
    assert meter.line() == "scored 100 of 400 cells (25 %)"  # whatever the second commit took, it is no rate yet
    clock[0] -= 0.01
    clock[0] += 10
    meter.count(0, 100)
    assert meter.line() == "scored 200 of 400 cells (50 %), 10.0 cells/s, 20 s left"


def test_another_round_adds_to_what_is_to_be_done(clock: list[float]) -> None:
    meter = CellsMeter(100)
    meter.count(0, 50)
    clock[0] += 1
    meter.count(0, 50)
    assert meter.line() == "scored 100 of 100 cells (100 %), 50.0 cells/s"
    meter.count(400_000, 0)
    assert meter.line().endswith("50.0 cells/s, 2 h 13 min left") and meter.percent < 1


def test_a_race_is_never_done_before_its_last_round(clock: list[float]) -> None:
    meter = CellsMeter()
    meter.count(100, 0)
    meter.expect(400)
    meter.count(0, 50)
    clock[0] += 5
    meter.count(0, 50)
    assert meter.line() == "scored 100 of at most 400 cells (25 %), 10.0 cells/s, at most 30 s left"
    meter.count(20, 0)
    meter.expect(100)  # candidates are out
    assert meter.count_line() == "100 of at most 200 cells, 10.0 cells/s, at most 10 s left"
    meter.expect(300)  # a plan may not yet find what is computed
    assert meter.goal == 200
    meter.count(0, 20)
    meter.expect(0)
    assert meter.line() == "scored 120 of 120 cells (100 %), 14.0 cells/s"
    meter.count(0, 5)  # of a task that was on its way
    assert meter.percent == 100 and meter.goal == 125
