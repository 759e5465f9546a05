"""A prepared run: what the tasks of a run need to know about it."""

from dataclasses import dataclass

from nuggets.models.files import ModelFiles
from nuggets.models.scoring_setup import ScoringSetup
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is open in its store, and what its tasks need to know."""

    name: str
    store: Store
    setup: ScoringSetup
    encoder: ModelFiles | None  # None where an anchor file makes it unnecessary
    encoder_digest: str
    trust_encoder_code: bool
    pool_digest: str
    max_bad_candidates: int = 0
    anchor_file_digest: str | None = None  # of the anchor file
