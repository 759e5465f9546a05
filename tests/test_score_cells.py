"""Scoring a task's cells with a model whose sums are known by hand, and stopping at any point."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nuggets.steps.block_writer
from nuggets.anchors.anchor_set import Anchor
from nuggets.cells.blocks import CellBlock, write_block
from nuggets.cells.folders import list_blocks, read_cells
from nuggets.cells.unscorable import read_unscorable
from nuggets.engine.interface import Continuation
from nuggets.errors import InputError, Interrupted, StoreError
from nuggets.examples import Example
from nuggets.models.prompt_tokens import AnchorPrompt, PromptTokens
from nuggets.models.prompts import PromptProfile
from nuggets.pools.shards import Candidate, read_candidates
from nuggets.racing.work_list import ShardWork, Worklist
from nuggets.steps.block_writer import BLOCK_CANDIDATES
from nuggets.steps.score_cells import Scorer, score_worklist
from nuggets.store.parquet import table_bytes
from nuggets.store.store import Store

FOLDER = "cells/key/c1-c5"
SHARDS = {"pools/p/shard-0.parquet": ("c1", "c2", "c3"), "pools/p/shard-1.parquet": ("c4", "c5")}
CANDIDATES = ("c1", "c2", "c3", "c4", "c5")
ANCHORS = ("a1", "a2", "a3")
# A candidate's demonstration is its number, an anchor's text too: the cell of c2 and a3 is -203.
EXPECTED = [[-(100.0 * row + column) for column in (1, 2, 3)] for row in (1, 2, 3, 4, 5)]
PAIRS = [(100 * row, column) for row in (1, 2, 3, 4, 5) for column in (1, 2, 3)]
PROFILE = PromptProfile(
    "plain",
    (0,),
    demonstration=lambda example: PromptTokens((100 * int(example.output),)),
    anchor=lambda example: AnchorPrompt((0, int(example.output)), response_start=1),
)


class SummingModel:
    """A language model whose sum is minus all token ids, and which remembers each pair that it computed."""

    def __init__(self, *, broken: Mapping[tuple[int, int], float] | None = None) -> None:
        self.computed: list[tuple[int, int]] = []
        self.broken = broken or {}

    def log_prob_sums(
        self,
        prefixes: Iterable[Sequence[int]],
        continuations: Sequence[Continuation],
        *,
        wanted: Iterable[Sequence[int]] | None = None,
    ) -> Iterator[np.ndarray]:
        assert wanted is not None
        for prefix, places in zip(prefixes, wanted, strict=True):
            assert len(set(places)) == len(places) > 0
            sums = np.full(len(continuations), np.nan)
            for place in places:
                pair = (sum(prefix), sum(continuations[place].ids))
                self.computed.append(pair)
                sums[place] = self.broken.get(pair, -float(sum(pair)))
            yield sums


def put_shards(store: Store, shards: Mapping[str, Sequence[str]] = SHARDS) -> None:
    for path, names in shards.items():
        texts = {"instruction": names, "input": [""] * len(names), "output": [name[1:] for name in names]}
        columns = {"example_id": names, "row": range(len(names)), **texts, "original": ["{}"] * len(names)}
        store.write(path, table_bytes({name: list(column) for name, column in columns.items()}))


def worklist(cells: Mapping[str, Sequence[int]] | None = None) -> Worklist:
    """All cells, or the named ones: candidate -> anchors."""
    asked = dict.fromkeys(CANDIDATES, (0, 1, 2)) if cells is None else cells
    return {
        shard: ShardWork(
            np.array([position for position, name in enumerate(names) if name in asked]),
            np.array([[anchor in asked[name] for anchor in range(3)] for name in names if name in asked]),
        )
        for shard, names in SHARDS.items()
        if not asked.keys().isdisjoint(names)
    }


def first_anchor_of_all(shard: str, candidates: int) -> Worklist:
    """The cells of all candidates of a shard and the first anchor."""
    cells = np.zeros((candidates, 3), dtype=bool)
    cells[:, 0] = True
    return {shard: ShardWork(np.arange(candidates), cells)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    put_shards(store)
    return store


def anchor(name: str) -> Anchor:
    return Anchor(name, None, Example(name, "", name[1:]))


def score(
    store: Store,
    model: SummingModel,
    work: Worklist | None = None,
    *,
    anchors: Sequence[str] = ANCHORS,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    scorer = Scorer(store, FOLDER, PROFILE, model, should_stop)
    return score_worklist(scorer, worklist() if work is None else work, anchors=[anchor(name) for name in anchors])


def stored(store: Store, candidates: Sequence[str] = CANDIDATES, anchors: Sequence[str] = ANCHORS) -> list[list]:
    cells = read_cells(store, FOLDER, candidates, anchors)
    return [[None if np.isnan(value) else float(value) for value in row] for row in cells]


def objects(store: Store) -> list[str]:
    return list_blocks(store, "cells")


def stop_after(candidates: int) -> Callable[[], bool]:
    """Requests a stop at the given check: there is one per candidate."""
    looks = iter(range(1, 1000))
    return lambda: next(looks) >= candidates


def test_every_cell_is_computed_once_and_stored_as_one_object(store):
    model = SummingModel()
    assert score(store, model) == 15
    assert stored(store) == EXPECTED
    assert model.computed == PAIRS
    assert [path.rpartition("/")[0] for path in objects(store)] == [FOLDER]


def test_what_is_stored_is_not_computed_again(store):
    score(store, SummingModel())
    before = {path: store.read(path) for path in store.list("")}
    again = SummingModel()
    assert score(store, again) == 0
    assert again.computed == []
    assert {path: store.read(path) for path in store.list("")} == before


def test_every_candidate_is_measured_on_its_own_anchors_and_no_others(store):
    model = SummingModel()
    assert score(store, model, worklist({"c1": (2, 0), "c2": (1,), "c4": (0, 1, 2)})) == 6
    assert model.computed == [(100, 1), (100, 3), (200, 2), (400, 1), (400, 2), (400, 3)]
    assert stored(store) == [[-101.0, None, -103.0], [None, -202.0, None], [None] * 3, EXPECTED[3], [None] * 3]


def test_a_shard_is_read_once_and_only_if_a_candidate_of_it_is_computed(store, monkeypatch):
    read: list[str] = []

    def counted(store: Store, shard: str) -> list[Candidate]:
        read.append(shard)
        return read_candidates(store, shard)

    monkeypatch.setattr(nuggets.steps.score_cells, "read_candidates", counted)
    score(store, SummingModel(), worklist({"c1": (0,), "c3": (1,)}))
    assert read == ["pools/p/shard-0.parquet"]
    score(store, SummingModel(), worklist({"c1": (0,), "c5": (1,)}))
    assert read == ["pools/p/shard-0.parquet", "pools/p/shard-1.parquet"]
    score(store, SummingModel())
    assert read == ["pools/p/shard-0.parquet", "pools/p/shard-1.parquet", *SHARDS]


@given(data=st.data())
def test_whatever_is_asked_and_whatever_is_there_only_what_lacks_is_computed(tmp_path_factory, data):
    store = Store(str(tmp_path_factory.mktemp("store")))
    put_shards(store)
    tables = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=5, max_size=5).map(np.array)
    known, asked = data.draw(tables), data.draw(tables)
    for row in np.flatnonzero(known.any(axis=1)):
        values = np.where(known[row : row + 1], EXPECTED[row], np.nan).astype(np.float32)
        write_block(store, FOLDER, CellBlock((CANDIDATES[row],), ANCHORS, values))
    model = SummingModel()
    work = worklist({CANDIDATES[row]: np.flatnonzero(asked[row]).tolist() for row in np.flatnonzero(asked.any(axis=1))})
    assert score(store, model, work) == len(model.computed)
    assert model.computed == [PAIRS[cell] for cell in np.flatnonzero((asked & ~known).ravel())]
    there = asked | known
    assert stored(store) == [
        [value if there[row, column] else None for column, value in enumerate(values)]
        for row, values in enumerate(EXPECTED)
    ]
    assert len(objects(store)) == there.any()


@pytest.mark.parametrize("candidates", [1, 3, 4])
def test_a_stop_stores_what_was_computed_and_the_next_attempt_computes_only_the_rest(store, candidates):
    first = SummingModel()
    with pytest.raises(Interrupted) as stopped:
        score(store, first, should_stop=stop_after(candidates))
    assert str(stopped.value) == f"stopped on request; {candidates} of 5 candidates of this task are stored"
    assert len(first.computed) == 3 * candidates
    assert stored(store) == EXPECTED[:candidates] + [[None] * 3] * (5 - candidates)
    second = SummingModel()
    assert score(store, second) == 15 - 3 * candidates
    assert second.computed == PAIRS[3 * candidates :]
    assert stored(store) == EXPECTED
    assert len(objects(store)) == 1


def test_a_stop_after_the_last_candidate_has_nothing_left_to_stop(store):
    assert score(store, SummingModel(), should_stop=stop_after(5)) == 15
    assert stored(store) == EXPECTED


@pytest.mark.parametrize("failure", [MemoryError("CUDA out of memory"), KeyboardInterrupt("CUDA out of memory")])
def test_what_was_computed_before_the_model_failed_is_stored(store, failure):
    class FailingModel(SummingModel):
        def log_prob_sums(self, prefixes, continuations, *, wanted=None):
            for row, sums in enumerate(super().log_prob_sums(prefixes, continuations, wanted=wanted)):
                if row == 3:
                    raise failure
                yield sums

    with pytest.raises(type(failure), match="CUDA out of memory"):
        score(store, FailingModel())
    assert stored(store) == EXPECTED[:3] + [[None] * 3] * 2
    assert score(store, SummingModel()) == 6
    assert (stored(store), len(objects(store))) == (EXPECTED, 1)


@given(st.lists(st.integers(1, 5), max_size=6))
def test_however_often_it_is_stopped_no_cell_is_computed_twice(tmp_path_factory, stops):
    store = Store(str(tmp_path_factory.mktemp("store")))
    put_shards(store)
    model = SummingModel()
    for candidates in stops:
        try:
            score(store, model, should_stop=stop_after(candidates))
        except Interrupted:
            continue
    score(store, model)
    assert sorted(model.computed) == PAIRS
    assert (stored(store), len(objects(store))) == (EXPECTED, 1)


def test_sums_that_are_no_numbers_are_counted_and_all_others_are_stored(store):
    broken = {(300, 2): np.nan, (500, 1): np.inf, (500, 3): -np.inf}
    with pytest.raises(InputError) as refused:
        score(store, SummingModel(broken=broken))
    assert str(refused.value) == (
        "the model returned no finite log-probability for 3 of the cells, which are not stored: candidate c3 with "
        "anchor a2; candidate c5 with anchor a1 and 1 more. All other computed cells are stored. Try dtype=float32, "
        "remove these examples from the pool, or raise max_bad_candidates to record such candidates as unscorable"
    )
    assert stored(store) == [
        EXPECTED[0],
        EXPECTED[1],
        [EXPECTED[2][0], None, EXPECTED[2][2]],
        EXPECTED[3],
        [None, EXPECTED[4][1], None],
    ]
    assert read_unscorable(store, "key", ANCHORS) == frozenset()
    repaired = SummingModel()
    assert score(store, repaired) == 3
    assert repaired.computed == [(300, 2), (500, 1), (500, 3)]
    assert stored(store) == EXPECTED


def test_the_allowed_number_of_candidates_is_recorded_as_unscorable_and_the_task_continues(store):
    broken = {(300, 2): np.nan, (500, 1): np.inf, (500, 3): -np.inf}
    scorer = Scorer(store, FOLDER, PROFILE, SummingModel(broken=broken), lambda: False, "key", max_bad_candidates=2)
    assert score_worklist(scorer, worklist(), anchors=[anchor(name) for name in ANCHORS]) == 15
    assert [read_unscorable(store, "key", [name]) for name in ANCHORS] == [{"c5"}, {"c3"}, {"c5"}]
    assert read_unscorable(store, "other", ANCHORS) == frozenset()
    assert stored(store)[:2] == EXPECTED[:2] and stored(store)[2] == [EXPECTED[2][0], None, EXPECTED[2][2]]
    with pytest.raises(InputError, match="3 of the cells, which are not stored: candidate c3 with"):
        score_worklist(replace(scorer, max_bad_candidates=1), worklist(), anchors=[anchor(name) for name in ANCHORS])


def test_cells_that_were_not_requested_do_not_count_as_broken(store):
    assert score(store, SummingModel(broken={(100, 1): np.nan}), worklist({"c1": (1, 2)})) == 2
    assert stored(store, ("c1",)) == [[None, -102.0, -103.0]]


def test_a_sum_beyond_what_a_cell_can_hold_is_no_number(store):
    with pytest.raises(InputError, match="for 1 of the cells"):
        score(store, SummingModel(broken={(100, 1): -1e39}))
    assert stored(store)[0] == [None, -102.0, -103.0]


def test_a_model_without_any_numbers_is_given_up_before_it_has_cost_the_whole_task(store, monkeypatch):
    monkeypatch.setattr(nuggets.steps.score_cells, "BROKEN_AT_MOST", 2)
    model = SummingModel(broken=dict.fromkeys(PAIRS, np.nan))
    with pytest.raises(InputError, match="for 9 of the cells.* candidate c3 with anchor a1 and 2 more"):
        score(store, model)
    assert len(model.computed) == 9
    assert store.list("cells") == []


def test_an_anchor_that_occurs_twice_is_computed_once(store):
    model = SummingModel()
    twice = ("a1", "a2", "a1")
    assert score(store, model, worklist({"c1": (0, 1, 2), "c2": (0, 1, 2)}), anchors=twice) == 4
    assert model.computed == [(100, 1), (100, 2), (200, 1), (200, 2)]
    assert stored(store, ("c1", "c2"), twice) == [[-101.0, -102.0, -101.0], [-201.0, -202.0, -201.0]]
    assert score(store, model, worklist({"c3": (2,)}), anchors=twice) == 1
    assert stored(store, ("c3",), twice) == [[-301.0, None, -301.0]]


def test_what_lies_in_other_folders_is_not_looked_at_because_the_plan_has_done_so(store):
    values = np.full((5, 3), -1.0, dtype=np.float32)
    other = write_block(store, "cells/key/c0-c9", CellBlock(CANDIDATES, ANCHORS, values))
    assert score(store, SummingModel()) == 15
    assert stored(store) == EXPECTED
    assert other in objects(store)


def test_a_damaged_block_of_an_earlier_attempt_is_computed_again(store, caplog):
    with pytest.raises(Interrupted):
        score(store, SummingModel(), should_stop=stop_after(3))
    (path,) = objects(store)
    Path(store.url, path).write_bytes(b"damaged")
    assert score(store, SummingModel()) == 15
    assert stored(store) == EXPECTED
    assert store.list("damaged") == [f"damaged/{path}"]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_cells_are_committed_every_so_many_candidates_and_joined_in_the_end(store):
    names = tuple(f"c{number}" for number in range(1, 151))
    put_shards(store, {"pools/p/shard-9.parquet": names})
    work = first_anchor_of_all("pools/p/shard-9.parquet", len(names))
    seen: list[int] = []

    def look() -> bool:
        seen.append(len(objects(store)))
        return False

    assert score(store, SummingModel(), work, should_stop=look) == 150
    # A block is written while the next one is computed, and stored before that one is written in its turn.
    assert all(
        done // BLOCK_CANDIDATES - 1 <= blocks <= done // BLOCK_CANDIDATES for done, blocks in enumerate(seen)
    ), seen
    assert len(objects(store)) == 1
    assert stored(store, names, ("a1",)) == [[-(100.0 * number + 1)] for number in range(1, 151)]


def test_cells_are_committed_every_so_many_seconds(store, monkeypatch):
    monkeypatch.setattr(nuggets.steps.block_writer, "BLOCK_SECONDS", -1)
    seen: list[int] = []

    def look() -> bool:
        seen.append(len(objects(store)))
        return False

    assert score(store, SummingModel(), should_stop=look) == 15
    assert all(place - 1 <= blocks <= place for place, blocks in enumerate(seen)), seen
    assert (stored(store), len(objects(store))) == (EXPECTED, 1)


def test_no_work_asks_the_model_nothing(store):
    model = SummingModel()
    before = store.list("")
    assert score(store, model, {}) == 0
    assert (model.computed, store.list("")) == ([], before)


def test_commits_of_a_killed_task_are_joined_if_nothing_is_left_to_compute(store):
    for row, name in enumerate(CANDIDATES):
        write_block(store, FOLDER, CellBlock((name,), ANCHORS, np.array([EXPECTED[row]], dtype=np.float32)))
    model = SummingModel()
    assert score(store, model) == 0
    assert (model.computed, stored(store), len(objects(store))) == ([], EXPECTED, 1)


def test_a_store_that_takes_nothing_more_ends_scoring_with_its_address(store):
    Path(store.url, "cells").write_text("not a folder")
    model = SummingModel()
    with pytest.raises(StoreError) as refused:
        score(store, model)
    assert str(refused.value).startswith(f"could not write {store.url}/{FOLDER}/")


def test_a_disk_that_fills_up_keeps_what_was_stored(store, monkeypatch):
    monkeypatch.setattr(nuggets.steps.block_writer, "BLOCK_CANDIDATES", 1)
    names = tuple(f"c{number}" for number in range(1, 41))
    put_shards(store, {"pools/p/shard-9.parquet": names})
    work = first_anchor_of_all("pools/p/shard-9.parquet", len(names))
    disk = Path(store.url, "cells")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets us mount no small disk")
    try:
        first, second = SummingModel(), SummingModel()
        with pytest.raises(StoreError, match=f"^could not write {store.url}/{FOLDER}/.* the disk or quota is full: "):
            score(store, first, work)
        kept = sum(row != [None] for row in stored(store, names, ("a1",)))
        assert 5 < kept < 30
        assert len(first.computed) - kept <= 2  # the one that could not be written, and the one computed meanwhile
        right = [[-(100.0 * number + 1)] for number in range(1, 41)]
        assert stored(store, names, ("a1",)) == right[:kept] + [[None]] * (40 - kept)
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        assert score(store, second, work) == 40 - kept
        assert second.computed == [(100 * number, 1) for number in range(kept + 1, 41)]
        assert (stored(store, names, ("a1",)), len(objects(store))) == (right, 1)
        assert store.leftovers() == {}
    finally:
        subprocess.run(["umount", str(disk)], check=True)
