"""Runs as tables and pages on the command line."""

import json
from collections.abc import Mapping, Sequence

from nuggets.runs.manifest import Run, RunState
from nuggets.runs.overview import RunOverview, SelectionOverview

_COLUMNS = ("run", "state", "updated (UTC)", "model", "pool", "examples x anchors", "cells", "selections (cut: kept)")


def runs_table(runs: Sequence[RunOverview]) -> str:
    """A line for each run, and a second line with the reason if it has failed or was interrupted."""
    rows = [_COLUMNS, *map(_row, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    reasons = ["", *(f"\n    {' '.join(run.message.split())}" if run.message else "" for run in runs)]
    return "\n".join(line + reason for line, reason in zip(lines, reasons, strict=True))


def run_page(run: Run, overview: RunOverview, files: Mapping[str, str]) -> str:
    """The manifest of a run, its selections, and the addresses of its files."""
    parts: dict[str, Mapping[str, object]] = {
        "": {
            "run": run.name,
            "state": overview.state,
            "message": run.message or None,
            "created (UTC)": _time(run.created_at),
            "updated (UTC)": _time(run.updated_at),
            "cells": _cells(overview),
        },
        "made from": {name: _words(value) for name, value in run.inputs.items()},
        "identity": run.identity,
        "settings": {name: value for name, value in run.config.items() if value is not None},
        "counts": run.counts,
        "seconds": run.seconds,
        "versions": run.versions,
        "selections": {
            item.cut: f"kept {item.kept} of {item.candidates}, {_time(item.created_at)}, {item.address}"
            for item in _newest(overview)
        },
        "earlier selections": {
            item.address: f"{item.cut}, kept {item.kept} of {item.candidates}, {_time(item.created_at)}"
            for item in overview.selections
            if not item.is_newest
        },
        "files": files,
    }
    return "\n\n".join(_part(title, facts) for title, facts in parts.items() if facts)


def _row(run: RunOverview) -> tuple[str, ...]:
    selections = "; ".join(f"{item.cut}: {item.kept}" for item in _newest(run))
    table = f"{run.examples} x {run.anchors}" if run.examples and run.anchors else "-"
    names = (_short(run.model), _short(run.pool))
    return (run.name, run.state, _time(run.updated_at), *names, table, _cells(run), selections or "-")


def _newest(run: RunOverview) -> list[SelectionOverview]:
    return [item for item in run.selections if item.is_newest]


def _cells(run: RunOverview) -> str:
    if run.table is None:
        return "-"
    # The cells that an attempt computes are counted when it ends.
    least = "" if run.state == RunState.COMPLETE else "at least "
    return f"{least}{run.cells} of {run.table}"


def _short(address: str | None) -> str:
    """The last part of an address, so that the table fits a terminal."""
    return (address or "-").rstrip("/").rpartition("/")[2]


def _time(moment: str) -> str:
    return moment[:19].replace("T", " ")


def _part(title: str, facts: Mapping[str, object]) -> str:
    shown = {name: value for name, value in facts.items() if value is not None}
    width = max(map(len, shown), default=0)
    indent = "  " if title else ""
    lines = [f"{indent}{name.ljust(width)}  {value}" for name, value in shown.items()]
    return "\n".join([title, *lines] if title else lines)


def _words(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
