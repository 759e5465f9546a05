"""Scoring by flow runs of a deployment: each scores a part of the shards, where its work pool runs it."""

import time
from collections.abc import Mapping, Sequence
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
from prefect.states import Cancelled, Cancelling

from flows.execution.rounds import Scored, Scoring, score_in_rounds
from nuggets.errors import NuggetsError, UsageError
from nuggets.progress import report_stage
from nuggets.scores.cuts import cut_options
from nuggets.steps.plan_round import Round
from nuggets.stopping import check_stop

_POLL_SECONDS = 2.0
_LONG_PAUSE_SECONDS = 20.0  # after a poll without an answer
_WARN_SECONDS = 300.0  # without a started flow run; the warning is repeated
_PAGE = 200  # flow runs in one answer of the API


def score_everywhere(scoring: Scoring, first: Round) -> Scored:
    """Score until the cut is decided: by flow runs of the executor's deployment, if it has one, then in rounds here.

    Each flow run plans with the cells that are stored when it plans, so a few cells may be left for the rounds here.
    """
    if scoring.executor.deployment is None or not first.undecided:
        return score_in_rounds(scoring, first)
    _score_in_parts(scoring)
    rest = scoring.plan(0)
    scored = score_in_rounds(scoring, rest)
    return Scored(scored.rounds, rest.stored - first.stored + scored.computed)


def _score_in_parts(scoring: Scoring) -> None:
    deployment, count = scoring.executor.deployment, min(scoring.executor.flow_runs, len(scoring.pool.shards))
    assert deployment is not None
    scoring.executor.release()  # the flow runs may run on this machine
    report_stage(f"{len(scoring.pool.shards)} shards go to {count} flow runs of {deployment}")
    configs = [_config(scoring, part, count) for part in range(count)]
    unfinished: dict[UUID, FlowRun] = {}
    with get_client(sync_client=True) as client:
        try:
            existing = _existing(client, deployment, configs)
            for config in configs:
                run = existing.get(config["part"]) or _start(deployment, config)
                unfinished[run.id] = run
            ended = _await(client, deployment, unfinished)
        except BaseException:
            _cancel(client, list(unfinished.values()))
            raise
    if failed := [(run, state) for run, state in ended if not state.is_completed()]:
        run, state = failed[0]
        # The message of a run that failed has its own advice; one that was lost or cancelled has none.
        was_lost = any(not state.is_failed() for _, state in failed)
        raise NuggetsError(
            f"{len(failed)} of {count} flow runs of {deployment} did not complete, first: {run.name}: "
            f"{state.name}: {state.message}. What they computed is stored"
            + ("; run again to do the rest" if was_lost else "")
        )


def _await(
    client: SyncPrefectClient, deployment: str, unfinished: dict[UUID, FlowRun]
) -> list[tuple[FlowRun, State[Any]]]:
    """The flow runs with their final states; removes each from `unfinished`. Raises Interrupted on a stop request."""
    count, ended = len(unfinished), list[tuple[FlowRun, State[Any]]]()
    warned = time.monotonic()
    while unfinished:
        _pause(_POLL_SECONDS)
        polled = _poll(client, list(unfinished))
        if polled is None:
            _pause(_LONG_PAUSE_SECONDS)
            continue
        for run in [*polled, *_deleted(unfinished, polled)]:
            if run.state is not None and run.state.is_final():
                del unfinished[run.id]
                ended.append((run, run.state))
                report_stage(f"{run.name}: {run.state.name}; {len(unfinished)} of {count} flow runs are not finished")
        if ended or any(run.start_time is not None for run in polled):
            warned = time.monotonic()
        elif time.monotonic() > warned + _WARN_SECONDS:
            warned = time.monotonic()
            report_stage(
                f"none of the {count} flow runs of {deployment} has started for {_WARN_SECONDS / 60:.0f} minutes: "
                "check that their work pool has a worker with a free slot. This run may hold the last slot itself"
            )
    return ended


def _pause(seconds: float) -> None:
    """Wait between two polls. Raises Interrupted on a stop request."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        time.sleep(min(rest, _POLL_SECONDS))
        check_stop()


def _poll(client: SyncPrefectClient, runs: Sequence[UUID]) -> list[FlowRun] | None:
    """The flow runs with their current states; None if the server does not answer, because it may answer next time."""
    polled: list[FlowRun] = []
    try:
        for start in range(0, len(runs), _PAGE):
            page = FlowRunFilter(id=FlowRunFilterId(any_=list(runs[start : start + _PAGE])))
            polled += client.read_flow_runs(flow_run_filter=page, limit=_PAGE)
    except Exception as error:
        report_stage(f"the Prefect server did not return the states of the flow runs and is polled again: {error}")
        return None
    return polled


def _deleted(unfinished: Mapping[UUID, FlowRun], polled: Sequence[FlowRun]) -> list[FlowRun]:
    """The flow runs that the server does not have any more, as cancelled ones: nothing else would end the wait."""
    deleted = [unfinished[gone] for gone in unfinished.keys() - {run.id for run in polled}]
    return [run.model_copy(update={"state": Cancelled(name="Deleted", message="it was deleted")}) for run in deleted]


def _existing(client: SyncPrefectClient, deployment: str, configs: Sequence[dict[str, Any]]) -> dict[int, FlowRun]:
    """Unfinished flow runs of the same parts, by part number: an attempt that was killed leaves them behind."""
    try:
        known = client.read_deployment_by_name(deployment)
    except ObjectNotFound as error:
        raise UsageError(
            f"executor_address={deployment}: there is no such deployment on this Prefect server: deploy it with "
            "'prefect --no-prompt deploy --all', or name another"
        ) from error
    states = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    candidates = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[known.id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
        ),
        limit=_PAGE,
    )
    existing = {run.parameters["config"]["part"]: run for run in candidates if run.parameters.get("config") in configs}
    if existing:
        report_stage(f"{len(existing)} of {len(configs)} flow runs of {deployment} were started by an earlier attempt")
    return existing


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
    """Cancel flow runs: Prefect does not cancel them with this one."""
    for run in runs:
        try:
            client.set_flow_run_state(run.id, Cancelling())
        except Exception as error:  # cancel the others all the same
            report_stage(f"{run.name} could not be cancelled and may continue to score: {error}")
