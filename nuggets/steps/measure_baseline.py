"""Measure the zero-shot baseline of the anchors that have none."""

from nuggets.anchors.anchor_set import read_anchors
from nuggets.anchors.baseline import known_baseline, measure_baseline, write_baseline
from nuggets.models.scoring_setup import open_model, open_profile
from nuggets.progress import report_step
from nuggets.runs.prepared import PreparedRun
from nuggets.stopping import check_stop

# Anchors that are measured and stored at a time: between two batches progress is reported, or the watch for hangs
# would end a slow model's process, and a request to stop is honoured.
BATCH = 32


def measure_missing(prepared: PreparedRun, anchors_path: str, start: int, stop: int) -> int:
    """Measure and store the baseline of anchors `start` to `stop` where none is stored yet; returns how many."""
    store = prepared.store
    known = known_baseline(store, prepared.setup.key)
    missing = {anchor.id: anchor for anchor in read_anchors(store, anchors_path)[start:stop] if anchor.id not in known}
    if not missing:
        return 0
    anchors = list(missing.values())
    profile, model = open_profile(prepared.setup), open_model(prepared.setup)
    for first in range(0, len(anchors), BATCH):
        check_stop()
        batch = anchors[first : first + BATCH]
        write_baseline(
            store, prepared.setup.key, [anchor.id for anchor in batch], measure_baseline(batch, profile, model)
        )
        report_step()
    return len(anchors)
