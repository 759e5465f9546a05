"""Scoring shared out among flow runs of a deployment, each with a part of the shards, on whatever machines they get."""

import time
from dataclasses import asdict
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.rounds import Scored, Scoring, score_in_rounds
from nuggets.cuts import Cut, Threshold, TopK
from nuggets.errors import NuggetsError, UsageError
from nuggets.progress import report_stage
from nuggets.scoring_plan import Round
from nuggets.stopping import check_stop

_LOOK_SECONDS = 2.0


def score_everywhere(scoring: Scoring, first: Round) -> Scored:
    """Score until the cut is certain: by flow runs of the engine's deployment, if it has one, and then in rounds here.

    Each of them races alone against what the others have stored, so that some cells may be left for the rounds here.
    """
    if scoring.engine.deployment is None or not first.units:
        return score_in_rounds(scoring, first)
    _score_in_parts(scoring)
    rest = scoring.plan(0)
    scored = score_in_rounds(scoring, rest)
    return Scored(scored.rounds, rest.found - first.found + scored.computed)


def _score_in_parts(scoring: Scoring) -> None:
    deployment, count = scoring.engine.deployment, min(scoring.engine.flow_runs, len(scoring.pool.shards))
    assert deployment is not None
    report_stage(f"{len(scoring.pool.shards)} shards go to {count} flow runs of {deployment}")
    with get_client(sync_client=True) as client:
        runs = [_start(deployment, scoring, part, count) for part in range(count)]
        waiting = {run.id: run for run in runs}
        ended: list[tuple[FlowRun, State[Any]]] = []
        try:
            while waiting:
                time.sleep(_LOOK_SECONDS)
                check_stop()
                for run in list(waiting.values()):
                    state = client.read_flow_run(run.id).state
                    if state is not None and state.is_final():
                        ended.append((waiting.pop(run.id), state))
                        report_stage(f"{run.name}: {state.name}; {len(waiting)} of {count} still score")
        except BaseException:
            _cancel(client, list(waiting.values()))
            raise
    if failed := [(run, state) for run, state in ended if not state.is_completed()]:
        run, state = failed[0]
        raise NuggetsError(
            f"{len(failed)} of {count} flow runs of {deployment} did not complete, first: {run.name}: "
            f"{state.name}: {state.message}. What they computed is stored; run again to do the rest"
        )


def _start(deployment: str, scoring: Scoring, part: int, parts: int) -> FlowRun:
    prepared = scoring.prepared
    config = {"run": prepared.name, "store": prepared.store, "part": part, "parts": parts, **_option(scoring.cut)}
    if prepared.s3_endpoint is not None:
        config["s3_endpoint"] = prepared.s3_endpoint
    name = f"score part {part} of {parts} of {prepared.name}"
    try:
        return run_deployment(deployment, parameters={"config": config}, flow_run_name=name, timeout=0)  # type: ignore[return-value]
    except ObjectNotFound as error:
        raise UsageError(
            f"engine_address={deployment}: there is no such deployment on this Prefect server: deploy it with "
            "'prefect --no-prompt deploy --all', or name another"
        ) from error


def _option(cut: Cut | None) -> dict[str, float]:
    if cut is None:
        return {}
    name = "threshold" if isinstance(cut, Threshold) else "top_k" if isinstance(cut, TopK) else "top_fraction"
    (value,) = asdict(cut).values()
    return {name: value}


def _cancel(client: SyncPrefectClient, runs: list[FlowRun]) -> None:
    """Nobody else would: to Prefect they are runs of their own."""
    for run in runs:
        client.set_flow_run_state(run.id, Cancelling())
