"""Make the prompts of all candidates once, before anything is planned, and note what is cut or must not be scored."""

from collections.abc import Sequence
from dataclasses import dataclass

from nuggets.anchors.anchor_set import read_anchors
from nuggets.cells.prompt_notes import (
    PromptNote,
    PromptNotes,
    anchor_notes_path,
    join_notes,
    notes_folder,
    pool_notes_path,
    read_notes,
    shard_notes_path,
    write_notes,
)
from nuggets.errors import InputError
from nuggets.models.prompt_tokens import FAULT_MEANINGS, PromptFault, PromptTokens
from nuggets.models.prompts import PromptProfile
from nuggets.models.scoring_setup import ScoringSetup, open_profile
from nuggets.pools.shards import Candidate, Pool, read_candidates
from nuggets.progress import pluralize, report_stage, report_step
from nuggets.runs.prepared import PreparedRun
from nuggets.stopping import check_stop

BATCH = 64  # candidates between two progress reports: without one, a slow tokenizer would look like a hang
NAMED = 5  # rows that a log line or a report names
_COUNTED = {
    "cut_prompt": "prompts_cut",
    "cut_response": "responses_cut",
    "special_tokens": "special_tokens_in_texts",
    "altered": "texts_altered",
}
_NAMES = (*_COUNTED.values(), "unscorable")
PROMPT_COUNTS = (*_NAMES, *(f"anchor_{name}" for name in _NAMES))


@dataclass(frozen=True, slots=True)
class UncheckedShard:
    """A shard whose candidates' prompts have not been checked: its position, its path, and the path of its notes."""

    index: int
    shard: str
    notes: str


@dataclass(frozen=True, slots=True)
class CheckedPrompts:
    """The path of a pool's notes, and their counts."""

    path: str
    counts: dict[str, int]


def unchecked_shards(prepared: PreparedRun, pool: Pool) -> list[UncheckedShard]:
    """The shards of a pool that no run of the same scoring key has checked."""
    key = prepared.setup.key
    stored = set(prepared.store.list(notes_folder(key, pool.id)))
    if pool_notes_path(key, pool.id) in stored:
        return []
    shards = [
        UncheckedShard(index, shard, shard_notes_path(key, pool.id, index)) for index, shard in enumerate(pool.shards)
    ]
    return [shard for shard in shards if shard.notes not in stored]


def check_shard(prepared: PreparedRun, unchecked: UncheckedShard) -> int:
    """Make the prompts of a shard's candidates and store the notes on them; returns how many candidates have a note."""
    profile = open_profile(prepared.setup)
    candidates = read_candidates(prepared.store, unchecked.shard)
    notes: list[PromptNote] = []
    for start in range(0, len(candidates), BATCH):
        check_stop()
        notes += _notes(profile, candidates[start : start + BATCH])
        report_step()
    write_notes(prepared.store, unchecked.notes, notes)
    return len(notes)


def _notes(profile: PromptProfile, candidates: Sequence[Candidate]) -> list[PromptNote]:
    made = [_note(item.id, item.row, profile.demonstration(item.example)) for item in candidates]
    return [note for note in made if note is not None]


def _note(example_id: str, row: int, made: PromptTokens) -> PromptNote | None:
    """The note on a prompt; None if there is nothing to count."""
    if not (made.cut_prompt or made.cut_response or made.special_tokens or made.is_altered or made.fault):
        return None
    return PromptNote(
        candidate_id=example_id,
        candidate_row=row,
        cut_prompt=made.cut_prompt,
        cut_response=made.cut_response,
        special_tokens=made.special_tokens,
        altered=int(made.is_altered),
        fault=made.fault and str(made.fault),
    )


def join_checks(prepared: PreparedRun, pool: Pool) -> CheckedPrompts:
    """Join the notes of all shards into one table, and log what they hold.

    Raises InputError if no candidate can be scored.
    """
    store, key = prepared.store, prepared.setup.key
    path = pool_notes_path(key, pool.id)
    if not store.exists(path):
        join_notes(store, path, (shard_notes_path(key, pool.id, index) for index in range(len(pool.shards))))
    notes = read_notes(store, path)
    limit = f"demonstration_tokens={prepared.setup.limits.demonstration}"
    report_stage(f"prompts: {pluralize(pool.examples, 'candidate')}, {described_notes(notes, limit)}")
    if len(notes.faults) == pool.examples:
        raise _nothing_to_score(notes, prepared.setup, examples=pool.examples)
    return CheckedPrompts(path, prompt_counts(notes))


def check_anchors(prepared: PreparedRun, anchors_path: str) -> CheckedPrompts:
    """Make the prompts of an anchor set, store the notes on them, and log what they hold."""
    store, key = prepared.store, prepared.setup.key
    path = anchor_notes_path(key, anchors_path)
    anchors = read_anchors(store, anchors_path)
    if not store.exists(path):
        profile = open_profile(prepared.setup)
        made = [_note(anchor.id, row, profile.anchor(anchor.example)) for row, anchor in enumerate(anchors)]
        write_notes(store, path, [note for note in made if note is not None])
    notes = read_notes(store, path)
    limit = f"anchor_tokens={prepared.setup.limits.anchor}"
    report_stage(f"anchors: {pluralize(len(anchors), 'anchor')}, {described_notes(notes, limit)}")
    return CheckedPrompts(path, {f"anchor_{name}": count for name, count in prompt_counts(notes).items()})


def prompt_counts(notes: PromptNotes) -> dict[str, int]:
    """The counts of some notes, as the manifest has them. PROMPT_COUNTS are the beginnings of their names."""
    return {
        **{name: len(notes.rows_with(column)) for column, name in _COUNTED.items()},
        "unscorable": len(notes.faults),
        **{f"unscorable_{fault}": len(rows) for fault, rows in notes.rows_by_fault().items()},
    }


def noted_rows(notes: PromptNotes, limit: str) -> list[tuple[str, list[int]]]:
    """What some notes say, in words, each with the rows that it concerns. `limit` is the name of the token limit."""
    kinds = {
        "cut_prompt": f"with the middle of the prompt cut, longer than {limit}",
        "cut_response": f"with the end of the response cut, longer than {limit}",
        "special_tokens": "with special tokens in their texts",
        "altered": "with case, accents or white space altered by the tokenizer",
    }
    faults = {fault: f"not scored: {FAULT_MEANINGS[PromptFault(fault)]}" for fault in notes.rows_by_fault()}
    listed = [(what, notes.rows_with(column)) for column, what in kinds.items()]
    listed += [(faults[fault], rows) for fault, rows in notes.rows_by_fault().items()]
    return [(what, rows) for what, rows in listed if rows]


def described_notes(notes: PromptNotes, limit: str) -> str:
    """Text for the log: what was cut or must not be scored, with the first rows of each kind."""
    noted = [f"{len(rows)} {what} ({named_rows(rows)})" for what, rows in noted_rows(notes, limit)]
    return ", ".join(noted) or f"none cut, all fit {limit}"


def named_rows(rows: Sequence[int]) -> str:
    """The first rows of a kind by their numbers in the pool or in the anchor set."""
    more = ", ..." if len(rows) > NAMED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows[:NAMED]))}{more}"


def _nothing_to_score(notes: PromptNotes, setup: ScoringSetup, *, examples: int) -> InputError:
    limits = setup.limits
    reasons = "; ".join(
        f"{len(rows)} x {fault}, {FAULT_MEANINGS[PromptFault(fault)]}" for fault, rows in notes.rows_by_fault().items()
    )
    return InputError(
        f"none of {pluralize(examples, 'candidate')} can be scored with demonstration_tokens={limits.demonstration} "
        f"({reasons}). Together with anchor_tokens={limits.anchor} they have to fit the model's context: "
        "lower anchor_tokens, or use a model with a larger context, to make room"
    )
