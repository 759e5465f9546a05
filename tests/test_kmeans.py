"""Anchors found among embeddings: one per cluster, the exact nearest, all distinct."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.exceptions import ConvergenceWarning

import nuggets.anchors.kmeans
from nuggets.anchors.anchor_checks import NEAR_DUPLICATE, NO_RESPONSE, TOLERATED, TRUNCATED
from nuggets.anchors.kmeans import Batches, Member, Vectors, cluster_centres, nearest_members
from nuggets.errors import InputError


def in_batches(vectors: Vectors, size: int = 1000) -> Batches:
    return lambda: (vectors[start : start + size] for start in range(0, len(vectors), size))


def everything(_: int) -> bool:
    return True


def nearest_rows(batches: Batches, centres: Vectors, *, scorable: Callable[[int], bool]) -> list[int]:
    """The rows that represent the clusters where only unscorable rows have a fault."""
    members = nearest_members(batches, centres, faults=lambda row, _: () if scorable(row) else ("no_response",))
    return [member.row for member in members]


def blobs(count: int, members: int, *, width: int = 3, seed: int = 1) -> tuple[Vectors, np.ndarray]:
    """Points within 0.1 of their blob's corner, shuffled, and which blob each belongs to; corners lie 10 apart."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(count), members))
    corners = np.zeros((count, width))
    corners[:, 0] = 10 * np.arange(count)
    return (corners[owner] + rng.uniform(-0.1, 0.1, (len(owner), width))).astype(np.float32), owner


def brute_force(vectors: Vectors, centres: Vectors, scorable=everything) -> list[int]:
    """What nearest_members promises, one pair at a time: own members by distance, then all others by distance."""
    distances = [[float(((vector - centre) ** 2).sum()) for centre in centres.astype(float)] for vector in vectors]
    own = [row.index(min(row)) for row in distances]
    chosen: list[int] = []
    for cluster in range(len(centres)):
        order = sorted(range(len(vectors)), key=lambda row: (own[row] != cluster, distances[row][cluster], row))
        chosen.append(next(row for row in order if row not in chosen and scorable(row)))
    return chosen


def anchors_of(vectors: Vectors, clusters: int, *, seed: int = 0, size: int = 1000, scorable=everything) -> list[int]:
    batches = in_batches(vectors, size)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # fewer distinct points than clusters, which some tests want
        centres = cluster_centres(batches, rows=len(vectors), clusters=clusters, seed=seed)
    return nearest_rows(batches, centres, scorable=scorable)


def test_separated_blobs_give_one_anchor_each_nearest_to_the_mean():
    vectors, owner = blobs(6, 20)
    found = anchors_of(vectors, 6)
    assert sorted(owner[found].tolist()) == [0, 1, 2, 3, 4, 5]
    means = np.stack([vectors[owner == blob].astype(np.float64).mean(axis=0) for blob in owner[found]])
    assert found == brute_force(vectors, means)


def test_centres_are_the_means_of_their_clusters():
    vectors, owner = blobs(4, 10)
    centres = cluster_centres(in_batches(vectors), rows=40, clusters=4, seed=0)
    expected = np.stack([vectors[owner == blob].astype(np.float64).mean(axis=0) for blob in range(4)])
    assert centres.dtype == np.float32
    np.testing.assert_allclose(centres[np.argsort(centres[:, 0])], expected, atol=1e-5)


def test_the_nearest_member_of_a_line_by_hand():
    vectors = np.array([[0.0], [1.0], [2.5], [9.0], [10.5], [12.0]], dtype=np.float32)
    centres = np.array([[1.2], [10.6]], dtype=np.float32)
    assert nearest_rows(in_batches(vectors), centres, scorable=everything) == [1, 4]
    assert nearest_rows(in_batches(vectors), centres[::-1], scorable=everything) == [4, 1]


def test_of_two_equally_near_the_lower_row_is_taken():
    vectors = np.array([[5.0], [-1.0], [1.0], [5.0], [-1.0]], dtype=np.float32)
    centres = np.array([[0.0], [5.0]], dtype=np.float32)
    assert nearest_rows(in_batches(vectors), centres, scorable=everything) == [1, 0]


def test_equal_embeddings_far_apart_in_the_pool_tie_in_favour_of_the_lower_row():
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((9000, 64)).astype(np.float32)
    twins = [7, 4095, 4096, 8999]
    vectors[twins] = 0.5
    assert nearest_rows(in_batches(vectors), vectors[[7]], scorable=everything) == [7]
    assert nearest_rows(in_batches(vectors), vectors[[7]], scorable=lambda row: row not in (7, 4095)) == [4096]


@pytest.mark.parametrize("clusters", [3, 5, 12])
def test_anchors_are_distinct_with_fewer_distinct_points_than_clusters(clusters):
    vectors = np.repeat(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], dtype=np.float32), 4, axis=0)
    found = anchors_of(vectors, clusters)
    assert len(set(found)) == clusters
    assert {tuple(vectors[row]) for row in found} == {(0.0, 0.0), (5.0, 0.0), (0.0, 5.0)}


def test_every_example_is_an_anchor_where_as_many_are_asked_for():
    vectors, _ = blobs(3, 4)
    assert sorted(anchors_of(vectors, 12)) == list(range(12))


def test_an_unscorable_example_is_passed_over_for_the_next_of_its_cluster():
    vectors = np.array([[0.0], [1.0], [2.5], [9.0], [10.5], [12.0]], dtype=np.float32)
    centres = np.array([[1.2], [10.6]], dtype=np.float32)
    assert nearest_rows(in_batches(vectors), centres, scorable=lambda row: row not in (1, 4)) == [0, 5]
    # Nothing is left in the second cluster: the member of the first that is nearest to it stands in.
    assert nearest_rows(in_batches(vectors), centres, scorable=lambda row: row < 3) == [1, 2]


def test_many_unscorable_examples_around_a_centre_are_passed_over():
    vectors = np.arange(500, dtype=np.float32)[:, None]
    centres = np.array([[0.0], [499.0]], dtype=np.float32)
    assert nearest_rows(in_batches(vectors), centres, scorable=lambda row: 200 <= row < 300) == [200, 299]


def faults_of(table: dict[int, tuple[str, ...]]) -> Callable[[int, Sequence[int]], tuple[str, ...]]:
    return lambda row, chosen: table.get(row, ())


LINE = np.array([[0.0], [1.0], [2.5], [9.0], [10.5], [12.0]], dtype=np.float32)
TWO_CENTRES = np.array([[1.2], [10.6]], dtype=np.float32)


def test_what_was_passed_over_is_counted_with_one_fault_each():
    faults = faults_of({1: (TRUNCATED, NEAR_DUPLICATE), 0: (NO_RESPONSE,), 4: (NEAR_DUPLICATE,)})
    members = nearest_members(in_batches(LINE), TWO_CENTRES, faults=faults, tolerated=TOLERATED)
    assert members == [Member(2, (), (TRUNCATED, NO_RESPONSE)), Member(5, (), (NEAR_DUPLICATE,))]


def test_a_near_duplicate_of_a_chosen_row_gives_way_to_the_next_row():
    def faults(row: int, chosen: Sequence[int]) -> tuple[str, ...]:
        return (NEAR_DUPLICATE,) if row == 4 and 1 in chosen else ()

    both = nearest_members(in_batches(LINE), TWO_CENTRES, faults=faults, tolerated=TOLERATED)
    assert both == [Member(1, (), ()), Member(5, (), (NEAR_DUPLICATE,))]
    reversed_centres = nearest_members(in_batches(LINE), TWO_CENTRES[::-1], faults=faults, tolerated=TOLERATED)
    assert reversed_centres == [Member(4, (), ()), Member(1, (), ())]


def test_with_too_few_rows_truncated_ones_come_before_near_duplicates():
    table = {row: (NO_RESPONSE,) for row in range(6)}
    table |= {2: (TRUNCATED,), 1: (NEAR_DUPLICATE,), 0: (TRUNCATED, NEAR_DUPLICATE)}
    one, two, three = (
        nearest_members(in_batches(LINE), LINE[:count], faults=faults_of(table), tolerated=TOLERATED)
        for count in (1, 2, 3)
    )
    assert [member.row for member in one] == [2]
    assert [(member.row, member.faults) for member in two] == [(2, (TRUNCATED,)), (1, (NEAR_DUPLICATE,))]
    assert {member.row for member in three} == {0, 1, 2}
    with pytest.raises(InputError, match="^only 3 examples of the pool can be scored as anchors"):
        nearest_members(in_batches(LINE), LINE[:4], faults=faults_of(table), tolerated=TOLERATED)


def test_fewer_scorable_examples_than_clusters_are_refused_with_both_numbers():
    vectors, _ = blobs(3, 4)
    with pytest.raises(InputError) as refused:
        anchors_of(vectors, 3, scorable=lambda row: row < 2)
    assert str(refused.value) == (
        "only 2 examples of the pool can be scored as anchors (the others have too little of their response within "
        "anchor_tokens, or the tokenizer can't reproduce them), 3 are needed: ask for fewer anchors or raise "
        "anchor_tokens"
    )


@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(-8, 8)),
    st.data(),
)
def test_the_nearest_members_are_those_of_comparing_every_pair(vectors, data):
    count = data.draw(st.integers(1, len(vectors)))
    centres = data.draw(arrays(np.float32, (count, vectors.shape[1]), elements=st.integers(-8, 8)))
    scorable = set(data.draw(st.permutations(range(len(vectors))))[: data.draw(st.integers(count, len(vectors)))])
    size = data.draw(st.integers(1, 30))
    found = nearest_rows(in_batches(vectors, size), centres, scorable=scorable.__contains__)
    assert found == brute_force(vectors, centres, scorable.__contains__)


def test_the_same_seed_gives_the_same_anchors_however_the_pool_is_cut_into_shards():
    vectors = np.random.default_rng(5).standard_normal((300, 8)).astype(np.float32)
    found = anchors_of(vectors, 12, seed=4, size=300)
    assert all(anchors_of(vectors, 12, seed=4, size=size) == found for size in (1, 7, 299, 300))
    assert anchors_of(vectors, 12, seed=5) != found


@pytest.fixture
def streamed(monkeypatch):
    """Pools of more than 50 rows count as too large for memory."""
    monkeypatch.setattr(nuggets.anchors.kmeans, "FULL_KMEANS_ROWS", 50)
    monkeypatch.setattr(nuggets.anchors.kmeans, "MINI_BATCH", 32)


def test_a_streamed_pool_gives_one_anchor_per_blob_too(streamed):
    vectors, owner = blobs(5, 60)
    found = anchors_of(vectors, 5)
    assert sorted(owner[found].tolist()) == [0, 1, 2, 3, 4]


def test_a_streamed_pool_gives_the_same_anchors_however_it_is_cut_into_shards(streamed):
    vectors = np.random.default_rng(5).standard_normal((300, 8)).astype(np.float32)
    found = anchors_of(vectors, 12, seed=4, size=300)
    assert len(set(found)) == 12
    assert all(anchors_of(vectors, 12, seed=4, size=size) == found for size in (1, 7, 32, 299))
    assert anchors_of(vectors, 12, seed=5) != found
