"""The prepared run: the record that each task of a run takes."""

from dataclasses import dataclass

from nuggets.models.files import ModelFiles
from nuggets.models.scoring_setup import ScoringSetup
from nuggets.pools.left_out import LeftOut
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is open in its store."""

    name: str
    store: Store
    setup: ScoringSetup
    pool_digest: str
    encoder: ModelFiles | None = None  # None if the anchors come from a file, or are known
    encoder_digest: str = ""
    trust_encoder_code: bool = False
    anchor_file_digest: str | None = None
    max_bad_candidates: int = 0
    attempt: str = ""  # the attempt that owns the run; empty for a flow that does not
    not_used: tuple[LeftOut, ...] = ()  # files and splits of the pool and the anchor file that are not read
