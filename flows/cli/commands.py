"""The nuggets command line."""

import gc
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import overridden, read_options_file, with_options
from flows.cli.output import AsJson, show_result
from flows.cli.store_commands import store_commands
from flows.execution.signals import interrupted_exit_code
from nuggets import __version__
from nuggets.config.configs import CurateConfig, ReselectConfig, ScoreShardsConfig
from nuggets.config.mapping import config_from_mapping
from nuggets.errors import Interrupted, NuggetsError, UsageError
from nuggets.progress import pluralize
from nuggets.scores.cuts import Cut, remark

if TYPE_CHECKING:
    from nuggets.steps.publish import Selection


app = typer.Typer(
    help="Choose instruction data by how much each example helps a frozen language model (arXiv 2312.10302).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@with_options(
    CurateConfig,
    argument="pool",
    required=False,  # a file can name it
    extra={
        "config": Annotated[
            str | None,
            typer.Option(
                "--config", help="YAML file with any of these options. Its relative paths are relative to the file."
            ),
        ],
        "as_json": AsJson,
    },
)
def curate(config: str | None = None, as_json: bool = False, **options: Any) -> None:
    """Score a pool and publish the examples that help most. Cells that are in the store are not computed again."""
    given = {name: value for name, value in options.items() if value not in (None, [])}
    in_file = read_options_file(config) if config else {}
    checked = config_from_mapping(overridden(in_file, given), source=str(config or "command line"))

    from flows.cli.runner import run_curate  # Prefect takes seconds to import, and --help must not

    _show_selection(run_curate(checked), checked.cut, as_json=as_json)


@app.command()
@with_options(ReselectConfig, argument="run", extra={"as_json": AsJson})
def reselect(as_json: bool = False, **options: Any) -> None:
    """Apply a new cut to a finished run. Takes seconds, unless the cut needs cells that a race has left out."""
    config = ReselectConfig(**{name: value for name, value in options.items() if value is not None})

    from flows.cli.runner import run_reselect

    _show_selection(run_reselect(config), config.cut, as_json=as_json)


@app.command("score-shards")
@with_options(ScoreShardsConfig, argument="run", extra={"as_json": AsJson})
def score_shards(as_json: bool = False, **options: Any) -> None:
    """Score a part of a run's shards on one more machine, after the run has begun to score. Publishes nothing."""
    config = ScoreShardsConfig(**{name: value for name, value in options.items() if value is not None})

    from flows.cli.runner import run_score_shards

    computed = run_score_shards(config)
    text = f"run {config.run}, part {config.part} of {config.parts}: {pluralize(computed, 'cell')} computed"
    facts = {"run": config.run, "part": config.part, "parts": config.parts, "cells_computed": computed}
    show_result(facts, text, as_json=as_json)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nuggets {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.", metavar="")
    ] = False,
) -> None:
    """Choose instruction data by how much each example helps a frozen language model (arXiv 2312.10302)."""


app.add_typer(store_commands)


def _show_selection(selection: "Selection", cut: Cut, *, as_json: bool) -> None:
    before = " (this cut was published before)" if selection.already_there else ""
    note = remark(cut, candidates=selection.candidates, kept=selection.kept, best=selection.quantiles["1"])
    facts = {
        "run": selection.run,
        "name": selection.name,
        "cut": selection.cut,
        "kept": selection.kept,
        "candidates": selection.candidates,
        "address": selection.folder,
        "was_published_before": selection.already_there,
        "note": note or None,
    }
    lines = (
        f"run {selection.run}, cut {selection.cut}: kept {selection.kept} of {selection.candidates}{before}",
        selection.folder,
    )
    show_result(facts, "\n".join(lines), as_json=as_json)
    if note:
        typer.echo(f"{'note' if selection.kept else 'warning'}: {note}", err=True)


def main() -> None:
    """Run the command line; exit 0 done, 1 failed run, 2 wrong usage, 128 and the signal's number if interrupted."""
    # Importing torch, transformers and Prefect creates millions of objects, and none of them is garbage. At the default
    # of 700 objects per collection, looking for garbage takes a fifth of the time that the imports take.
    gc.set_threshold(50_000)
    sys.exit(run_command(app))


def run_command(command: Callable[[], Any]) -> int:
    """Run a command, print its error if it has one, and return its exit code."""
    try:
        command()
    except UsageError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except (Interrupted, KeyboardInterrupt) as error:
        typer.echo(f"interrupted: {error or 'before anything was scored'}. Run the same command to continue.", err=True)
        return interrupted_exit_code()
    except (NuggetsError, FileNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    except SystemExit as stop:  # Typer ends with its own exit code, 2 for wrong usage
        return int(stop.code or 0)
    except Exception:
        traceback.print_exc()
        typer.echo("error: unexpected failure, see the traceback above. What was computed is stored", err=True)
        return 1
    return 0


if __name__ == "__main__":
    main()
