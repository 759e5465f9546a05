"""Count the candidates that a cut can't decide with the stored cells."""

from prefect import task

from nuggets.scores.cuts import Cut
from nuggets.steps.publish import undecided_candidates
from nuggets.store.store import Store
from tasks.retry_policy import RETRYING


@task(task_run_name="undecided candidates of {run}", **RETRYING)
def count_undecided(store: Store, run: str, cut: Cut) -> int:
    """Count the candidates of a run that lack cells which the cut needs."""
    return undecided_candidates(store, run, cut)
