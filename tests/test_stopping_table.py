"""The table of docs/operations.md: every way to stop a run, wherever the run is. Minutes: `make slow`.

Cancel in the UI has no separate test: it is the request of "cancelled". The process of a flow run that a worker has
started has no terminal: a signal is for the worker.

All ways of a setup start at once. Setups for which two cores are too few are marked `stopping`: `make stopping`
runs them, one way after the other.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from conftest import EXAMPLES
from stoppable_setups import (
    REQUESTS,
    SIGNALS,
    Given,
    configured_server,
    on_dask,
    on_ray,
    own_server,
    part,
    process_worker,
    with_parts,
)
from stopped_runs import CANDIDATES, Outcome, StoppedRun, Way, stop_all

pytestmark = [pytest.mark.timeout(600)]
SETUPS = [
    *(
        pytest.param(setup, marks=pytest.mark.slow, id=setup.__name__)
        for setup in (own_server, configured_server, on_dask)
    ),
    *(
        pytest.param(setup, marks=pytest.mark.stopping, id=setup.__name__)
        for setup in (on_ray, process_worker, with_parts)
    ),
]
EXIT_CODES = {Way.CTRL_C: 130, Way.SIGTERM: 143, Way.CLOSED_TERMINAL: 129, Way.CANCELLED: 130, Way.DELETED: 130}
KILLED = (
    "a process worker that ends kills its runs with SIGKILL: Prefect leaves them no time to store the block in hand"
)
Setup = Callable[[Given], AbstractContextManager[list[StoppedRun]]]


@pytest.fixture(scope="module")
def setup(request: pytest.FixtureRequest) -> Setup:
    return request.param


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    setup: Setup,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    prefect_server: str,
) -> Iterator[dict[Way, Outcome]]:
    """What each run of a setup leaves behind, for the ways that are tested now."""
    selected = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    ways = tuple(each.params["way"] for each in selected if each is not None and each.params["setup"] is setup)
    folder = tmp_path_factory.mktemp(setup.__name__.replace("_", "-"))
    anchors = folder / "anchors.json"
    anchors.write_text(json.dumps(EXAMPLES))
    given = Given(folder, tiny_model, anchors, prefect_server, ways)
    with setup(given) as runs:
        yield stop_all(runs, ends_process=lambda run: setup is not process_worker or run.way in SIGNALS)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("setup", SETUPS, indirect=True)
def test_a_stopped_run_stores_what_it_has_and_ends_everywhere(
    request: pytest.FixtureRequest, outcomes: dict[Way, Outcome], setup: Setup, way: Way
) -> None:
    if setup is process_worker and way in (Way.CTRL_C, Way.SIGTERM):
        request.applymarker(pytest.mark.xfail(strict=True, reason=KILLED))
    outcome = outcomes[way]
    assert outcome.run == "interrupted", outcome
    assert outcome.flow_run in expected_states(setup, way), outcome
    assert outcome.stored == outcome.computed and 0 < len(outcome.computed) < CANDIDATES, outcome
    assert not outcome.still_computing and outcome.left_running == []
    assert outcome.parts == (["CANCELLED"] if setup is with_parts else [])
    if setup is not process_worker:  # there, the exit code is that of Prefect's worker
        assert outcome.exit_code == EXIT_CODES[way], outcome.output
        assert "Traceback" not in outcome.output


@pytest.mark.stopping
@pytest.mark.parametrize("way", REQUESTS)
@pytest.mark.parametrize("setup", [part], indirect=True, ids=["part"])
def test_a_stopped_part_stores_what_it_has_and_fails_its_run(outcomes: dict[Way, Outcome], way: Way) -> None:
    outcome = outcomes[way]
    assert (outcome.exit_code, outcome.run, outcome.flow_run) == (1, "failed", "FAILED"), outcome
    assert outcome.parts == (["CANCELLED"] if way is Way.CANCELLED else [])
    assert outcome.stored == outcome.computed and 0 < len(outcome.computed) < CANDIDATES, outcome
    assert not outcome.still_computing and outcome.left_running == []
    assert "1 of 1 flow runs of" in outcome.output and "run again to do the rest" in outcome.output


def expected_states(setup: Setup, way: Way) -> tuple[str | None, ...]:
    """The states in Prefect. A log line to a worker that has ended crashes the flow run before it notices."""
    if way is Way.DELETED:
        return (None,)
    has_lost_worker = setup is process_worker and way is Way.CLOSED_TERMINAL
    return ("CANCELLED", "CRASHED") if has_lost_worker else ("CANCELLED",)
