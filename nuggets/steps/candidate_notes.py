"""What a run knows of its candidates beside their scores: cut tokens, and why a candidate has no score."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nuggets.anchors.anchor_set import read_anchors
from nuggets.cells.prompt_notes import PromptNotes, read_notes
from nuggets.cells.unscorable import NO_FINITE_NUMBER, read_unscorable
from nuggets.runs.manifest import Run
from nuggets.scores.golden import ScoreTable
from nuggets.store.store import Store

IS_THE_ONLY_ANCHOR = "is_the_only_anchor"  # and a candidate is not scored on itself


@dataclass(frozen=True, slots=True)
class CandidateNotes:
    """The notes on a run's prompts, and the candidates for which the model has returned no finite number."""

    prompts: PromptNotes
    without_number: frozenset[str]

    def cut_tokens(self, table: ScoreTable) -> Any:
        """How many tokens of each candidate's demonstration were cut."""
        return self.prompts.cut_tokens(table.candidate_ids)

    def unscorable(self, table: ScoreTable) -> Any:
        """Why each candidate has no score; null for one that has."""
        known = pa.array(sorted(self.without_number), pa.string())
        number = pc.if_else(pc.is_in(table.candidate_ids, value_set=known), NO_FINITE_NUMBER, IS_THE_ONLY_ANCHOR)
        reasons = pc.coalesce(self.prompts.fault_of(table.candidate_ids), number)
        return pc.if_else(pa.array(table.anchors == 0), reasons, pa.scalar(None, pa.string()))


def read_candidate_notes(store: Store, run: Run) -> CandidateNotes | None:
    """The notes on a run's candidates; None for a run that was not scored here."""
    references = run.references
    if "prompts" not in references:
        return None
    anchor_ids = [anchor.id for anchor in read_anchors(store, references["anchors"])]
    without_number = read_unscorable(store, references["scoring_key"], anchor_ids)
    return CandidateNotes(read_notes(store, references["prompts"]), without_number)
