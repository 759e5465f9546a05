"""Collect what a run did not use: rejected rows, dropped turns, cut prompts and anchors, candidates without a score."""

from collections.abc import Iterator

from nuggets.cells.prompt_notes import PromptNotes, read_notes
from nuggets.pools.shards import Pool
from nuggets.report.not_used import NotUsed
from nuggets.runs.manifest import Run
from nuggets.scores.selection import SelectionSummary
from nuggets.steps.candidate_notes import CandidateNotes
from nuggets.steps.check_prompts import PROMPT_COUNTS, named_rows, noted_rows
from nuggets.steps.choose_anchors import COUNT_MEANINGS
from nuggets.store.store import Store

# The other counts of an anchor set concern examples that are used.
_OF_ANCHOR_CHOICE = {
    name: what for name, what in COUNT_MEANINGS.items() if name.startswith(("long_", "anchors_passed"))
}


def described_elsewhere(count: str) -> bool:
    """Whether a count of the manifest is not a fact of the report, because another line or section shows it."""
    return count in ("rows", "examples", *_OF_ANCHOR_CHOICE) or count.startswith(PROMPT_COUNTS)


def what_was_not_used(
    store: Store, run: Run, pool: Pool, summary: SelectionSummary, notes: CandidateNotes | None
) -> tuple[NotUsed, ...]:
    """All that a run has cut, dropped, merged or left out, in the order of its stages."""
    items = [NotUsed(item["what"], item["count"], item["why"]) for item in run.inputs["pool"].get("not_used", ())]
    items += _of_pool(pool)
    if notes is not None:
        items += _of_prompts(notes.prompts, of="demonstrations", limit="demonstration_tokens")
    items.append(_without_score(run, summary, notes))
    items += [NotUsed(meaning, run.counts.get(name, 0)) for name, meaning in _OF_ANCHOR_CHOICE.items()]
    if "anchor_prompts" in run.references:
        anchors = read_notes(store, run.references["anchor_prompts"])
        items += _of_prompts(anchors, of="anchors", limit="anchor_tokens")
    return tuple(item for item in items if item.count)


def _of_pool(pool: Pool) -> Iterator[NotUsed]:
    for reason, count in pool.rejects.items():
        yield NotUsed(f"rejected rows ({reason})", count, f"first: {pool.first_rejects.get(reason, 'not recorded')}")
    yield NotUsed("merged duplicate rows", pool.duplicates, "equal to an earlier row")
    yield NotUsed("later turns of conversations", pool.dropped_turns, "only the first exchange is scored")
    yield NotUsed("further instances of an instruction", pool.dropped_instances, "only the first one is scored")
    yield NotUsed("system messages", pool.system_messages, "no prompt profile has a place for them")


def _of_prompts(notes: PromptNotes, *, of: str, limit: str) -> Iterator[NotUsed]:
    for what, rows in noted_rows(notes, limit):
        yield NotUsed(f"{of} {what}", len(rows), named_rows(rows))


def _without_score(run: Run, summary: SelectionSummary, notes: CandidateNotes | None) -> NotUsed:
    """Candidates without a score whose prompts have no fault."""
    faults = {} if notes is None else notes.prompts.faults
    count = summary.counts.candidates - summary.counts.eligible.candidates - len(faults)
    named = [key for key in summary.unscorable if key not in faults]
    # A run that leaves no candidate out for its numbers fails if there is one.
    may_lack_numbers = bool(run.config.get("max_bad_candidates"))
    why = "for which the model gives no finite number" if may_lack_numbers else "that are the only anchor"
    which = f"{', '.join(named)}{', ...' if len(named) < count else ''}; column unscorable of scores.parquet"
    return NotUsed(f"candidates {why}, never kept", count, which)
