"""Commands that read, clean up, or import into a store. They run no flow and load no model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import AsJson, described_out, opened_out, show_exported, show_result
from nuggets.config.configs import DEFAULT_STORE
from nuggets.config.rules import check_endpoint
from nuggets.errors import NuggetsError, UsageError
from nuggets.progress import pluralize
from nuggets.store.retries import first_requests
from nuggets.store.user_address import Accepts, resolve_address

if TYPE_CHECKING:
    from nuggets.store.store import Store


store_commands = typer.Typer()
RunName = Annotated[
    str, typer.Argument(help="Name of the run, as `nuggets runs` shows it.", show_default=False, metavar="RUN")
]
StoreUrl = Annotated[str, typer.Option("--store", help="Where runs live: a local folder or s3://bucket/prefix.")]
S3Endpoint = Annotated[
    str | None, typer.Option("--s3-endpoint", help="URL of the server that s3:// addresses mean.", show_default=False)
]
Out = Annotated[
    str,
    typer.Option(
        "--out",
        help="The file to write: .parquet, .csv or .jsonl. - or a pipe: CSV, with --json JSON lines.",
        show_default=False,
        metavar="FILE",
    ),
]


@store_commands.command()
def cells(
    run: RunName, out: Out, store: StoreUrl = DEFAULT_STORE, endpoint: S3Endpoint = None, as_json: AsJson = False
) -> None:
    """Write a run's cells: candidate_id, candidate_row, anchor_id, anchor_row, zero_shot, one_shot (nats).

    Exit code 1 if cells that the run has computed are not in the store any more.
    """
    from nuggets.runs.manifest import RunState, read_run
    from nuggets.steps.export import export_cells

    with _given_store(store, endpoint) as opened, opened_out(out, as_json=as_json) as file:
        exported = export_cells(opened, run, file)
        is_complete = read_run(opened, run).state is RunState.COMPLETE
    text = f"{pluralize(exported.written, 'cell')} {described_out(out)}"
    if rest := exported.left_out - exported.lost:
        needed = "did not need" if is_complete else "has not computed, or did not need,"
        text += f"; the run {needed} {rest} of its full table"
    facts = {"run": run, "cells": exported.written, "left_out": exported.left_out, "lost": exported.lost}
    show_exported(facts, text, out=out, as_json=as_json)
    if exported.lost:
        raise NuggetsError(
            f"{pluralize(exported.lost, 'cell')} that run '{run}' had computed are not in its store any more, and so "
            f"not {described_out(out)}: a block was damaged or deleted. The nuggets curate command of this run "
            "computes them again"
        )


@store_commands.command()
def anchors(
    run: RunName, out: Out, store: StoreUrl = DEFAULT_STORE, endpoint: S3Endpoint = None, as_json: AsJson = False
) -> None:
    """Write a run's anchors as a file that `curate --anchor-file` takes, for runs that use the same anchors."""
    from nuggets.steps.export import export_anchors

    with _given_store(store, endpoint) as opened, opened_out(out, as_json=as_json) as file:
        written = export_anchors(opened, run, file)
    text = f"{pluralize(written, 'anchor')} {described_out(out)}"
    show_exported({"run": run, "anchors": written}, text, out=out, as_json=as_json)


@store_commands.command()
def scores(
    run: RunName,
    out: Out,
    store: StoreUrl = DEFAULT_STORE,
    endpoint: S3Endpoint = None,
    selection: Annotated[
        str | None, typer.Option(help="Selection that `kept` refers to. Default: the newest selection.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's scores, one row per candidate.

    Columns: candidate_id, candidate_row, golden_score, score_low, score_high, wins, cells, anchors, mean_gain, kept,
    cut_tokens, unscorable. golden_score is empty where a race left cells out; mean_gain is in nats per token;
    cut_tokens is how many tokens of the demonstration were cut; unscorable is why a candidate has no score.
    """
    from nuggets.steps.export import export_scores

    with _given_store(store, endpoint) as opened, opened_out(out, as_json=as_json) as file:
        exported = export_scores(opened, run, file, selection)
    text = (
        f"scores of {pluralize(exported.written, 'candidate')} {described_out(out)}; "
        f"kept is that of {exported.selection} ({exported.cut})"
    )
    facts = {"run": run, "candidates": exported.written, "selection": exported.selection, "cut": exported.cut}
    show_exported(facts, text, out=out, as_json=as_json)


@store_commands.command()
def runs(store: StoreUrl = DEFAULT_STORE, endpoint: S3Endpoint = None, as_json: AsJson = False) -> None:
    """List the runs of a store: state, inputs, cells, selections, and the cause of a failure."""
    from flows.cli.tables import runs_table
    from nuggets.runs.manifest import list_runs
    from nuggets.runs.overview import run_overview

    with _given_store(store, endpoint, must_exist=True) as opened:
        overviews = [run_overview(opened, run) for run in list_runs(opened)]
    text = runs_table(overviews) if overviews else f"no runs in {opened.url}"
    show_result([asdict(run) for run in overviews], text, as_json=as_json)


@store_commands.command()
def show(run: RunName, store: StoreUrl = DEFAULT_STORE, endpoint: S3Endpoint = None, as_json: AsJson = False) -> None:
    """Show a run: its inputs, counts, seconds, selections, and the addresses of its files."""
    from flows.cli.tables import run_page
    from nuggets.runs.manifest import read_run
    from nuggets.runs.overview import run_files, run_overview

    with _given_store(store, endpoint, must_exist=True) as opened:
        manifest = read_run(opened, run)
        overview, files = run_overview(opened, manifest), run_files(opened, manifest)
    shown = asdict(overview)
    facts = asdict(manifest) | {"state": shown["state"], "selections": shown["selections"], "files": files}
    show_result(facts, run_page(manifest, overview, files), as_json=as_json)


@store_commands.command()
def gc(
    store: StoreUrl = DEFAULT_STORE,
    endpoint: S3Endpoint = None,
    hours: Annotated[float, typer.Option(min=0, help="Age from which a writer's file counts as left behind.")] = 1.0,
    damaged: Annotated[bool, typer.Option("--damaged", help="Also delete damaged blocks.", metavar="")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the garbage without deleting it.", metavar="")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sweep a store: files that killed writers left, week-old work lists of ended runs, joined notes, scattered blocks.

    Loses no cell.
    """
    from nuggets.steps.gc import find_garbage, sweep_garbage

    with _given_store(store, endpoint, must_exist=True) as opened:
        garbage = find_garbage(opened, older_than=hours * 3600)
        kept = "" if damaged or not garbage.damaged else " (kept; --damaged deletes them)"
        text = (
            f"{pluralize(len(garbage.leftovers), 'file')} of killed writers, "
            f"{pluralize(len(garbage.worklists), 'work list')} of ended runs, "
            f"{pluralize(len(garbage.notes), 'joined file')} of notes on prompts, "
            f"{pluralize(len(garbage.scattered), 'folder')} with several blocks, "
            f"{pluralize(len(garbage.damaged), 'damaged block')}{kept}"
        )
        show_result({name: len(paths) for name, paths in asdict(garbage).items()}, text, as_json=as_json)
        if not dry_run:
            sweep_garbage(opened, garbage, damaged=damaged)


@store_commands.command("import-scores")
def import_scores(
    folder: Annotated[
        str,
        typer.Argument(help="The --save_path of the authors' program, with its *_score.json files.", metavar="FOLDER"),
    ],
    pool: Annotated[str, typer.Option(help="The pool that was its --prompt_path.", show_default=False)],
    anchor_file: Annotated[str, typer.Option(help="The anchors that were its --test_path.", show_default=False)],
    store: StoreUrl = DEFAULT_STORE,
    endpoint: S3Endpoint = None,
    run: Annotated[str | None, typer.Option(help="Name of the new run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn the score files of the authors' released program into a run that `reselect` works on."""
    from nuggets.steps.import_released import import_scores as make_run

    scores_folder = Path(resolve_address("folder", folder, Accepts.FILE))
    pool = resolve_address("pool", pool, Accepts.STORED)
    anchor_file = resolve_address("anchor_file", anchor_file, Accepts.STORED)
    with _given_store(store, endpoint) as opened:
        made = make_run(opened, scores_folder, pool=pool, anchor_file=anchor_file, run=run)
    counts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in made.counts.items())
    show_result({"run": made.name, "counts": made.counts}, f"run {made.name}: {counts}", as_json=as_json)


@contextmanager
def _given_store(url: str, endpoint: str | None, *, must_exist: bool = False) -> "Iterator[Store]":
    """The store at an address; shows warnings while it is open. `must_exist`: raise UsageError if there is none."""
    from flows.cli.console import warnings_shown
    from nuggets.store.store import open_store

    url = resolve_address("store", url, Accepts.STORED)
    if endpoint is not None:
        check_endpoint("s3_endpoint", endpoint)
    with warnings_shown():
        store = open_store(url, endpoint)
        with first_requests():
            is_there = not must_exist or any(map(store.exists, ("runs", "cells", "pools", "models")))
        if not is_there:
            raise UsageError(f"there is no store at {store.url}: give --store the folder or s3:// address of one")
        yield store
