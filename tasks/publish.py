"""Publish a selection, and show it in the UI."""

import math

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from nuggets.progress import report_stage
from nuggets.scores.cuts import Cut
from nuggets.steps.publish import Selection, publish_selection, selection_page
from nuggets.store.store import Store
from tasks.retry_policy import RETRYING


@task(task_run_name="publish {run}", **RETRYING)
def publish(store: Store, run: str, cut: Cut, memory_mib: int) -> Selection:
    """Apply the cut, publish the selection, and show its report and its best and worst candidates as artifacts."""
    selection = publish_selection(store, run, cut, memory=memory_mib << 20)
    try:
        _show(store, run, selection)
    except Exception as error:  # the selection is published: a page of the UI must not fail the run
        report_stage(f"the selection is published, but its artifacts could not be created: {error}")
    return selection


def _show(store: Store, run: str, selection: Selection) -> None:
    create_markdown_artifact(
        key="selection",
        description=f"{run}: {selection.cut}",
        markdown=selection_page(store, selection),
    )
    if "://" in selection.folder:  # a browser can't open a path of another machine
        create_link_artifact(
            key="selected",
            description=f"{run}: {selection.cut}, {selection.kept} of {selection.candidates} candidates",
            link=f"{selection.folder}/selected.jsonl",
            link_text=f"{selection.folder}/selected.jsonl",
        )
    create_table_artifact(
        key="best-and-worst",
        description=f"{run}: the best and the worst ten candidates",
        table=[
            {
                "rank": row.rank,
                "golden score": example.score,
                "wins": row.wins,
                "cells": f"{row.cells}/{row.anchors}",
                "mean gain": None if math.isnan(row.mean_gain) else round(row.mean_gain, 4),
                "kept": row.kept,
                "row": row.row,
                "instruction": example.instruction[:200],
                "output": example.output[:200],
            }
            for example in selection.shown
            for row in [example.candidate]
        ],
    )
