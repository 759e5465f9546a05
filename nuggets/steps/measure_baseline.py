"""Measure the zero-shot baseline of the anchors that have none."""

from nuggets.anchors.anchor_set import read_anchors
from nuggets.anchors.baseline import known_baseline, measure_baseline, write_baseline
from nuggets.models.scoring_setup import open_model, open_profile
from nuggets.runs.prepared import PreparedRun
from nuggets.store.store import open_store


def measure_missing(prepared: PreparedRun, anchors_path: str, start: int, stop: int) -> int:
    """Measure and store the baseline of anchors `start` to `stop` where it is not stored yet; returns how many."""
    store = open_store(prepared.store)
    known = known_baseline(store, prepared.setup.key)
    wanted = {anchor.id: anchor for anchor in read_anchors(store, anchors_path)[start:stop] if anchor.id not in known}
    if wanted:
        anchors = list(wanted.values())
        baseline = measure_baseline(anchors, open_profile(prepared.setup), open_model(prepared.setup))
        write_baseline(store, prepared.setup.key, list(wanted), baseline)
    return len(wanted)
