"""Run a flow from the command line: its settings, its signals, its Prefect server, and what it shows."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module

from flows.cli.console import hide_progress, show_progress
from flows.cli.local_server import prefect_api
from flows.cli.server_settings import is_server_configured
from flows.execution.signals import signals_stop
from nuggets.config.configs import CurateConfig, ReselectConfig, ScoreShardsConfig
from nuggets.devices.devices import find_devices
from nuggets.models.libraries import model_libraries
from nuggets.steps.prepare import check_config, check_models, check_run
from nuggets.steps.publish import Selection, publish_selection, undecided_candidates
from nuggets.stopping import check_stop, clear_stop
from nuggets.store.store import open_store

# Prefect reads these when it is imported. Variables that are set already are kept.
_SETTINGS = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command shows its own lines; the UI still gets these
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # the lines of its event worker when the server does not answer
    "PREFECT_LOGGING_EXTRA_LOGGERS": "nuggets",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Task runs reach the database in batches; never an interval below 1, which makes the server spin.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # the bars of libraries
}


def run_curate(config: CurateConfig) -> Selection:
    """Run the curate flow here, with the configured Prefect server or a temporary one."""
    check_config(config)
    if config.executor == "local" and config.devices not in ("auto", "cpu"):  # torch is slow to import
        find_devices(config.devices, config.workers, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))

    def check() -> None:
        for name in model_libraries(encoder=config.anchor_file is None):
            import_module(name)
            check_stop()
        check_models(open_store(config.store, config.s3_endpoint), config)

    with _surroundings("flows.curate", first=check):
        from flows.curate import curate

        return curate(config)


def run_reselect(config: ReselectConfig) -> Selection:
    """Run the reselect flow here, with the configured Prefect server or a temporary one.

    Without a configured server, a cut that needs no further cells is published without the flow: a temporary server
    takes many seconds to start, and the artifacts of the flow run are lost when that server ends with the command.
    """
    store = open_store(config.store, config.s3_endpoint)
    check_run(store, config.run)
    _set_defaults()
    if not is_server_configured() and not undecided_candidates(store, config.run, config.cut):
        return publish_selection(store, config.run, config.cut, memory=config.memory_mib << 20)
    with _surroundings("flows.reselect"):
        from flows.reselect import reselect

        return reselect(config)


def run_score_shards(config: ScoreShardsConfig) -> int:
    """Run the score-shards flow here; returns how many cells it computed."""
    check_run(open_store(config.store, config.s3_endpoint), config.run)
    with _surroundings("flows.score_shards"):
        from flows.score_shards import score_shards

        return score_shards(config)


@contextmanager
def _surroundings(flow: str, *, first: Callable[[], None] | None = None) -> Iterator[None]:
    """Settings, progress, signals and a Prefect server for as long as the flow of a module runs.

    While a server starts, `first` is called, by default to import what loads models, and the module is imported.
    """
    modules = (flow,) if first else (*model_libraries(encoder=False), flow)
    meanwhile: list[Callable[[], object]] = [partial(import_module, name) for name in modules]
    if first:
        meanwhile.insert(0, first)
    _set_defaults()
    display = show_progress()
    clear_stop()
    try:
        with signals_stop():
            with prefect_api(meanwhile), _stops_interrupt():
                yield
    finally:
        hide_progress(display)


@contextmanager
def _stops_interrupt() -> Iterator[None]:
    """Raise Interrupted where Prefect reports in its own way that a flow was stopped: cancelled, or deleted."""
    from prefect.exceptions import CancelledRun, ObjectNotFound

    try:
        yield
    except (CancelledRun, ObjectNotFound):
        check_stop()
        raise


def _set_defaults() -> None:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.raiseExceptions = False  # Prefect's log handler writes to stderr where the server does not answer
