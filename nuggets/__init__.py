"""NUGGETS: choose instruction data by how much each example helps a frozen language model (arXiv 2312.10302).

In a notebook, a run's scores and cells are one line away:

>>> import nuggets
>>> scores = nuggets.load_scores("alpaca", "./nuggets-store")
>>> scores[scores.kept].sort_values("golden_score", ascending=False).head()
>>> cells = nuggets.load_cells("alpaca", "s3://bucket/nuggets", wide=True)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

    from nuggets.store.store import Store

__version__ = "0.1.0"
__all__ = ["__version__", "load_cells", "load_scores"]


def load_scores(
    run: str, store: str = "./nuggets-store", *, selection: str | None = None, s3_endpoint: str | None = None
) -> "DataFrame":
    """A run's scores, one row per candidate, in the order of example ids.

    Columns: candidate_id, candidate_row (row in the pool file, from 0), golden_score, score_low, score_high, wins,
    cells, anchors, mean_gain (nats per response token), kept, cut_tokens (of the demonstration), unscorable (why the
    candidate has no score). golden_score and mean_gain are NaN where a race left cells out: the score then lies between
    score_low and score_high. `kept` belongs to the named selection, by default to the newest one; it is None if the run
    has no selection. cut_tokens is unknown in an imported run.

    >>> scores = nuggets.load_scores("alpaca", selection="threshold-0.85")
    >>> scores.golden_score.describe()
    """
    from nuggets.steps.frames import scores_frame  # here, because `import nuggets` is to stay cheap

    return scores_frame(_opened(store, s3_endpoint), run, selection)


def load_cells(
    run: str, store: str = "./nuggets-store", *, wide: bool = False, s3_endpoint: str | None = None
) -> "DataFrame":
    """A run's cells: summed log-probabilities of the anchors' responses, in nats.

    Long by default, one row per computed cell: candidate_id, candidate_row, anchor_id, anchor_row, zero_shot, one_shot.
    A cell is a win if one_shot > zero_shot. With `wide`, one row per candidate (index candidate_id) and one column per
    anchor_row holding one_shot, NaN where the cell was not computed; this takes a tenth of the memory.

    >>> cells = nuggets.load_cells("alpaca")
    >>> (cells.one_shot > cells.zero_shot).groupby(cells.anchor_row).mean()
    """
    from nuggets.steps.frames import cells_frame

    return cells_frame(_opened(store, s3_endpoint), run, wide=wide)


def _opened(address: str, endpoint: str | None) -> "Store":
    from nuggets.store.store import open_store
    from nuggets.store.user_address import Accepts, resolve_address

    return open_store(resolve_address("store", address, Accepts.STORED), endpoint)
