"""Scoring batches with a model whose sums can be told by hand, and stopping at any point."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nuggets.shard_scoring
from nuggets.anchors import Anchor
from nuggets.cells import CellBlock, group_of, read_cells, write_block
from nuggets.errors import InputError, Interrupted, StoreError
from nuggets.examples import Example
from nuggets.prompts import PromptProfile
from nuggets.scoring.door import Continuation
from nuggets.shard_scoring import Scorer, score_batches
from nuggets.store import Store
from nuggets.worklist import Batch

KEY = "key"
CANDIDATES = ("c1", "c2", "c3", "c4", "c5")
ANCHORS = ("a1", "a2", "a3")
# A candidate's demonstration is its number, an anchor's text too: the cell of c2 and a3 is -203.
EXAMPLES = {name: Example(name, "", name[1:]) for name in CANDIDATES}
EXPECTED = [[-(100.0 * row + column) for column in (1, 2, 3)] for row in (1, 2, 3, 4, 5)]
PROFILE = PromptProfile(
    "plain",
    (0,),
    demonstration=lambda example: (100 * int(example.output),),
    anchor=lambda example: Continuation((0, int(example.output)), 1),
)


class SummingModel:
    """A language model whose sum is minus all token ids, and which remembers each pair it was asked for."""

    def __init__(self, *, broken: Mapping[tuple[int, int], float] | None = None) -> None:
        self.computed: list[tuple[int, int]] = []
        self.broken = broken or {}

    def log_prob_sums(
        self, prefixes: Iterable[Sequence[int]], continuations: Sequence[Continuation]
    ) -> Iterator[np.ndarray]:
        for prefix in prefixes:
            pairs = [(sum(prefix), sum(item.ids)) for item in continuations]
            self.computed += pairs
            yield np.array([self.broken.get(pair, -float(sum(pair))) for pair in pairs])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def anchor(name: str) -> Anchor:
    return Anchor(name, None, Example(name, "", name[1:]))


def score(
    store: Store,
    model: SummingModel,
    *,
    batches: Sequence[Batch] = (Batch(CANDIDATES, (0, 1, 2)),),
    anchors: Sequence[str] = ANCHORS,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    scorer = Scorer(store, KEY, PROFILE, model, should_stop)
    return score_batches(scorer, batches, examples=EXAMPLES, anchors=[anchor(name) for name in anchors])


def stored(store: Store, candidates: Sequence[str] = CANDIDATES, anchors: Sequence[str] = ANCHORS) -> list[list]:
    cells = read_cells(store, KEY, candidates, anchors)
    return [[None if np.isnan(value) else float(value) for value in row] for row in cells]


def stop_after(candidates: int) -> Callable[[], bool]:
    """Asks to stop when it was looked at so many times: once per candidate."""
    looks = iter(range(1, 1000))
    return lambda: next(looks) >= candidates


def test_every_cell_is_computed_once_and_stored(store):
    model = SummingModel()
    assert score(store, model) == 15
    assert stored(store) == EXPECTED
    assert model.computed == [(100 * row, column) for row in (1, 2, 3, 4, 5) for column in (1, 2, 3)]
    assert len(store.list("cells")) == 1


def test_what_is_stored_is_not_computed_again(store):
    score(store, SummingModel())
    before = {path: store.read(path) for path in store.list("")}
    again = SummingModel()
    assert score(store, again) == 0
    assert again.computed == []
    assert {path: store.read(path) for path in store.list("")} == before


def test_batches_are_scored_with_their_own_candidates_and_anchors(store):
    model = SummingModel()
    assert score(store, model, batches=[Batch(("c4", "c1"), (2, 0)), Batch(("c2",), (1,))]) == 5
    assert model.computed == [(400, 3), (400, 1), (100, 3), (100, 1), (200, 2)]
    assert stored(store) == [
        [-101.0, None, -103.0],
        [None, -202.0, None],
        [None, None, None],
        [-401.0, None, -403.0],
        [None, None, None],
    ]


@pytest.mark.parametrize("candidates", [1, 3, 4])
def test_a_stop_stores_what_was_computed_and_the_next_attempt_computes_only_the_rest(store, candidates):
    first = SummingModel()
    with pytest.raises(Interrupted) as stopped:
        score(store, first, should_stop=stop_after(candidates))
    assert str(stopped.value) == f"stopped on request; {candidates} of 5 candidates of this shard are stored"
    assert len(first.computed) == 3 * candidates
    assert stored(store) == EXPECTED[:candidates] + [[None] * 3] * (5 - candidates)
    second = SummingModel()
    assert score(store, second) == 15 - 3 * candidates
    assert second.computed == [(100 * row, column) for row in range(candidates + 1, 6) for column in (1, 2, 3)]
    assert stored(store) == EXPECTED


def test_a_stop_after_the_last_candidate_has_nothing_left_to_stop(store):
    assert score(store, SummingModel(), should_stop=stop_after(5)) == 15
    assert stored(store) == EXPECTED


def test_what_was_computed_before_the_model_failed_is_stored(store):
    class FailingModel(SummingModel):
        def log_prob_sums(self, prefixes, continuations):
            for row, sums in enumerate(super().log_prob_sums(prefixes, continuations)):
                if row == 3:
                    raise MemoryError("CUDA out of memory")
                yield sums

    with pytest.raises(MemoryError, match="CUDA out of memory"):
        score(store, FailingModel())
    assert stored(store) == EXPECTED[:3] + [[None] * 3] * 2
    assert score(store, SummingModel()) == 6


@given(st.lists(st.integers(1, 5), max_size=6))
@settings(deadline=None, max_examples=25)
def test_however_often_it_is_stopped_no_cell_is_computed_twice(tmp_path_factory, stops):
    store = Store(str(tmp_path_factory.mktemp("store")))
    model = SummingModel()
    for candidates in stops:
        try:
            score(store, model, should_stop=stop_after(candidates))
        except Interrupted:
            continue
    score(store, model)
    assert sorted(model.computed) == [(100 * row, column) for row in (1, 2, 3, 4, 5) for column in (1, 2, 3)]
    assert stored(store) == EXPECTED


def test_sums_that_are_no_numbers_are_counted_and_named_and_everything_else_is_stored(store):
    broken = {(300, 2): np.nan, (500, 1): np.inf, (500, 3): -np.inf}
    with pytest.raises(InputError) as refused:
        score(store, SummingModel(broken=broken))
    assert str(refused.value) == (
        "the model returned no finite log-probability for 3 of the cells, which are not stored: candidate c3 with "
        "anchor a2; candidate c5 with anchor a1 and 1 more. Everything else that was computed is. Try dtype=float32, "
        "or remove these examples from the pool"
    )
    assert stored(store) == [
        EXPECTED[0],
        EXPECTED[1],
        [EXPECTED[2][0], None, EXPECTED[2][2]],
        EXPECTED[3],
        [None, EXPECTED[4][1], None],
    ]
    mended = SummingModel()
    assert score(store, mended) == 3
    assert mended.computed == [(300, 2), (500, 1), (500, 3)]
    assert stored(store) == EXPECTED


def test_a_sum_beyond_what_a_cell_can_hold_is_no_number(store):
    with pytest.raises(InputError, match="for 1 of the cells"):
        score(store, SummingModel(broken={(100, 1): -1e39}))
    assert stored(store)[0] == [None, -102.0, -103.0]


def test_a_model_without_any_numbers_is_given_up_before_it_has_cost_the_whole_shard(store, monkeypatch):
    monkeypatch.setattr(nuggets.shard_scoring, "_BROKEN_AT_MOST", 2)
    model = SummingModel(broken={(100 * row, column): np.nan for row in range(1, 6) for column in (1, 2, 3)})
    with pytest.raises(InputError, match="for 9 of the cells.* candidate c3 with anchor a1 and 2 more"):
        score(store, model)
    assert len(model.computed) == 9
    assert store.list("") == []


def test_an_anchor_that_stands_twice_is_computed_once(store):
    model = SummingModel()
    twice = ("a1", "a2", "a1")
    assert score(store, model, batches=[Batch(("c1", "c2"), (0, 1, 2))], anchors=twice) == 6
    assert model.computed == [(100, 1), (100, 2), (200, 1), (200, 2)]
    assert stored(store, ("c1", "c2"), twice) == [[-101.0, -102.0, -101.0], [-201.0, -202.0, -201.0]]


def test_only_the_anchors_that_an_earlier_block_of_the_group_lacks_are_computed(store):
    earlier = CellBlock(CANDIDATES, ("a2",), np.full((5, 1), -1.0, dtype=np.float32))
    write_block(store, KEY, group_of(CANDIDATES), earlier)
    model = SummingModel()
    assert score(store, model) == 10
    assert model.computed == [(100 * row, column) for row in (1, 2, 3, 4, 5) for column in (1, 3)]
    assert stored(store) == [[row[0], -1.0, row[2]] for row in EXPECTED]


def test_blocks_are_committed_while_the_model_goes_on(store, monkeypatch):
    monkeypatch.setattr(nuggets.shard_scoring, "COMMIT_SECONDS", 0)
    seen: list[int] = []

    def look() -> bool:
        seen.append(len(store.list("cells")))
        return False

    assert score(store, SummingModel(), should_stop=look) == 15
    assert seen == [0, 1, 2, 3, 4]  # looked at before each commit
    assert len(store.list("cells")) == 5
    assert stored(store) == EXPECTED
    again = SummingModel()
    assert score(store, again) == 0
    assert again.computed == []


def test_a_long_commit_interval_makes_one_block(store):
    score(store, SummingModel())
    assert len(store.list("cells")) == 1


def test_no_batches_ask_the_model_nothing(store):
    model = SummingModel()
    assert score(store, model, batches=[]) == 0
    assert (model.computed, store.list("")) == ([], [])


def test_a_store_that_takes_nothing_more_ends_scoring_with_its_address(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError) as refused:
        score(Store(str(tmp_path / "file")), SummingModel())
    assert str(refused.value).startswith(f"could not write {tmp_path}/file/cells/key/")
