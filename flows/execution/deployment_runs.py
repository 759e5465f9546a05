"""Scoring shared out among flow runs of a deployment, each with a part of the shards, on whatever machines they get."""

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.execution.rounds import Scored, Scoring, score_in_rounds
from nuggets.errors import NuggetsError, UsageError
from nuggets.progress import report_stage
from nuggets.scores.cuts import cut_options
from nuggets.steps.plan_round import Round
from nuggets.stopping import check_stop

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 300.0  # until somebody has to be told that nothing starts, and told again
_PAGE = 200  # flow runs that the API names at once


def score_everywhere(scoring: Scoring, first: Round) -> Scored:
    """Score until the cut is certain: by flow runs of the executor's deployment, if it has one, then in rounds here.

    Each of them races alone against what the others have stored, so that some cells may be left for the rounds here.
    """
    if scoring.executor.deployment is None or not first.undecided:
        return score_in_rounds(scoring, first)
    _score_in_parts(scoring)
    rest = scoring.plan(0)
    scored = score_in_rounds(scoring, rest)
    return Scored(scored.rounds, rest.found - first.found + scored.computed)


def _score_in_parts(scoring: Scoring) -> None:
    deployment, count = scoring.executor.deployment, min(scoring.executor.flow_runs, len(scoring.pool.shards))
    assert deployment is not None
    scoring.executor.release()  # the flow runs may come to this machine
    report_stage(f"{len(scoring.pool.shards)} shards go to {count} flow runs of {deployment}")
    configs = [_config(scoring, part, count) for part in range(count)]
    waiting: dict[UUID, FlowRun] = {}
    with get_client(sync_client=True) as client:
        try:
            begun = _begun(client, deployment, configs)
            for config in configs:
                run = begun.get(config["part"]) or _start(deployment, config)
                waiting[run.id] = run
            ended = _await(client, deployment, waiting)
        except BaseException:
            _cancel(client, list(waiting.values()))
            raise
    if failed := [(run, state) for run, state in ended if not state.is_completed()]:
        run, state = failed[0]
        raise NuggetsError(
            f"{len(failed)} of {count} flow runs of {deployment} did not complete, first: {run.name}: "
            f"{state.name}: {state.message}. What they computed is stored; run again to do the rest"
        )


def _await(
    client: SyncPrefectClient, deployment: str, waiting: dict[UUID, FlowRun]
) -> list[tuple[FlowRun, State[Any]]]:
    """The flow runs and how they ended; each leaves `waiting` then. Raises Interrupted if someone asked to stop."""
    count, ended = len(waiting), list[tuple[FlowRun, State[Any]]]()
    told = time.monotonic()
    while waiting:
        time.sleep(_LOOK_SECONDS)
        check_stop()
        found = _look(client, list(waiting))
        for run in found:
            if run.state is not None and run.state.is_final():
                del waiting[run.id]
                ended.append((run, run.state))
                report_stage(f"{run.name}: {run.state.name}; {len(waiting)} of {count} still score")
        if not found or ended or any(run.start_time is not None for run in found):
            told = time.monotonic()
        elif time.monotonic() > told + _PATIENCE_SECONDS:
            told = time.monotonic()
            report_stage(
                f"none of the {count} flow runs of {deployment} has started for {_PATIENCE_SECONDS / 60:.0f} minutes: "
                "is there a worker for their work pool, and has it a free slot? This run may hold one itself"
            )
    return ended


def _look(client: SyncPrefectClient, runs: Sequence[UUID]) -> list[FlowRun]:
    """How flow runs stand; none if the server does not answer, which is no reason to give up what they compute."""
    found: list[FlowRun] = []
    try:
        for start in range(0, len(runs), _PAGE):
            some = FlowRunFilter(id=FlowRunFilterId(any_=list(runs[start : start + _PAGE])))
            found += client.read_flow_runs(flow_run_filter=some, limit=_PAGE)
    except Exception as error:
        report_stage(f"the Prefect server does not say how the parts stand, and is asked again: {error}")
        time.sleep(10 * _LOOK_SECONDS)
    return found


def _begun(client: SyncPrefectClient, deployment: str, configs: Sequence[dict[str, Any]]) -> dict[int, FlowRun]:
    """Parts that somebody has begun already, by their numbers: a run that was killed leaves its own behind."""
    try:
        known = client.read_deployment_by_name(deployment)
    except ObjectNotFound as error:
        raise UsageError(
            f"executor_address={deployment}: there is no such deployment on this Prefect server: deploy it with "
            "'prefect --no-prompt deploy --all', or name another"
        ) from error
    unfinished = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[known.id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished)),
        ),
        limit=_PAGE,
    )
    begun = {run.parameters["config"]["part"]: run for run in found if run.parameters.get("config") in configs}
    if begun:
        report_stage(f"{len(begun)} of {len(configs)} flow runs of {deployment} are there from before")
    return begun


def _config(scoring: Scoring, part: int, parts: int) -> dict[str, Any]:
    prepared = scoring.prepared
    config = {
        "run": prepared.name,
        "store": prepared.store.url,
        "part": part,
        "parts": parts,
        **cut_options(scoring.cut),
    }
    if prepared.store.endpoint is not None:
        config["s3_endpoint"] = prepared.store.endpoint
    return {**config, "stalled_after": scoring.executor.stalled_after}


def _start(deployment: str, config: dict[str, Any]) -> FlowRun:
    name = f"score part {config['part']} of {config['parts']} of {config['run']}"
    return run_deployment(deployment, parameters={"config": config}, flow_run_name=name, timeout=0)  # type: ignore[return-value]


def _cancel(client: SyncPrefectClient, runs: list[FlowRun]) -> None:
    """Nobody else would: to Prefect they are runs of their own."""
    for run in runs:
        try:
            client.set_flow_run_state(run.id, Cancelling())
        except Exception as error:  # the others are to hear of it
            report_stage(f"{run.name} could not be cancelled, and may go on scoring: {error}")
