"""Which anchors a candidate will probably lose, and that no sample, however odd, gives anything but a probability."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nuggets.racing.gain_model import fit_gains, loss_probabilities

NAN = float("nan")

pytestmark = pytest.mark.filterwarnings("error")


def losses(sample: object, candidates: object) -> NDArray[np.float64]:
    with np.errstate(all="raise", under="ignore"):
        model = fit_gains(np.array(sample, dtype=np.float32))
        return loss_probabilities(model, np.array(candidates, dtype=np.float32))


def clusters(rows: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Gains on two clusters of ten anchors; each candidate is good or bad at either, by itself."""
    rng = np.random.default_rng(seed)
    good = rng.choice([-1.0, 1.0], size=(rows, 2)).repeat(10, axis=1)
    return (good + rng.normal(0, 0.7, (rows, 20))).astype(np.float32)


def test_without_a_sample_every_loss_is_as_probable_as_a_win():
    expected = [[0.5, 0.5, 0.5]] * 2
    assert losses(np.empty((0, 3)), [[NAN] * 3] * 2).tolist() == expected
    assert losses([[NAN] * 3], [[NAN] * 3] * 2).tolist() == expected


def test_no_candidates_have_no_probabilities():
    assert losses([[1.0, -1.0]], np.empty((0, 2))).shape == (0, 2)


def test_the_more_candidates_won_an_anchor_the_less_likely_is_a_loss():
    rng = np.random.default_rng(1)
    sizes = rng.gamma(2, 1, (40, 3))
    signs = np.stack([-np.ones(40), np.tile([1.0, -1.0], 20), np.ones(40)], axis=1)
    lost, even, won = losses(sizes * signs, [[NAN] * 3])[0]
    assert lost > 0.8 > 0.6 > even > 0.4 > 0.2 > won


def test_losses_make_losses_likelier_within_their_cluster_only():
    sample = clusters(200)
    unknown = np.full(20, NAN)
    loser, winner = unknown.copy(), unknown.copy()
    loser[:4], winner[:4] = -1.0, 1.0
    nothing, bad, good = losses(sample, [unknown, loser, winner])
    assert (bad[4:10] > nothing[4:10] + 0.2).all()
    assert (good[4:10] < nothing[4:10] - 0.2).all()
    assert (np.abs(bad[10:] - nothing[10:]) < 0.12).all()


def test_more_losses_of_a_cluster_never_make_the_rest_of_it_less_likely_to_be_lost():
    candidates = np.full((9, 20), NAN)
    for met in range(9):
        candidates[met, :met] = -1.0
    found = losses(clusters(200), candidates)
    assert (np.diff(found[:, 9]) > 0).all()


def test_a_sample_that_is_mostly_unknown_still_separates_the_clusters():
    sample = clusters(400)
    sample[np.random.default_rng(2).random(sample.shape) < 0.6] = NAN
    loser = np.full(20, NAN)
    loser[:4] = -1.0
    found = losses(sample, [loser])[0]
    assert found[4:10].min() > found[10:].max()


def test_probabilities_do_not_depend_on_the_unit_of_gains():
    sample, candidates = clusters(50), clusters(5, seed=1)
    candidates[:, 5:] = NAN
    found = losses(sample, candidates)
    np.testing.assert_allclose(losses(sample * 1024, candidates * 1024), found, rtol=1e-6)


def test_candidates_do_not_move_each_others_probabilities():
    sample, candidates = clusters(50), clusters(5, seed=1)
    candidates[:, 5:] = NAN
    together = losses(sample, candidates)
    for alone, row in zip(candidates, together, strict=True):
        np.testing.assert_allclose(losses(sample, [alone])[0], row, rtol=1e-9)


ODD_SAMPLES = {
    "all gains 0": np.zeros((30, 4)),
    "all gains -0.0": -np.zeros((30, 4)),
    "all alike": np.full((30, 4), -3.5),
    "all alike per anchor": np.tile([-1.0, 0.0, 1.0, 2.0], (30, 1)),
    "a single row": [[-1.0, 0.0, 1.0, NAN]],
    "a single cell": [[NAN, 2.0, NAN, NAN]],
    "a single zero": [[NAN, 0.0, NAN, NAN]],
    "half of them 0": [[0.0, 0.0, 0.0, 5.0]] * 3,
    "denormal": np.full((3, 4), 1e-45),
    "denormal and huge": [[1e-45, -1e-45, 1e-45, 3e38]] * 3,
    "huge": [[3e38, -3e38, 3e38, -3e38], [-3e38, 3e38, 3e38, -3e38]],
    "infinite": [[np.inf, -np.inf, 1.0, -1.0]] * 3,
    "an anchor without cells": [[1.0, -1.0, 2.0, NAN]] * 9,
}


@pytest.mark.parametrize("sample", ODD_SAMPLES.values(), ids=ODD_SAMPLES)
def test_an_odd_sample_gives_probabilities_and_no_warning(sample: object):
    candidates = [[NAN] * 4, [0.0] * 4, [-1.0, NAN, 1.0, NAN], [3e38, -3e38, 1e-45, NAN]]
    found = losses(sample, candidates)
    assert found.shape == (4, 4)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("rows", [0, 1, 2, 50])
def test_one_anchor_is_enough(rows: int):
    found = losses(np.linspace(-1, 3, rows).reshape(rows, 1), [[NAN], [1.0], [-1.0]])
    assert ((found > 0) & (found < 1)).all()


GAINS = st.sampled_from([NAN, NAN, -100.0, -1.0, -0.25, -0.0, 0.0, 0.25, 1.0, 1e-40]) | st.floats(-1000, 1000, width=32)


@given(st.data(), st.integers(0, 12), st.integers(1, 16))
def test_any_sample_gives_probabilities_and_no_warning(data, rows, anchors):
    sample = data.draw(arrays(np.float32, (rows, anchors), elements=GAINS))
    candidates = data.draw(arrays(np.float32, (3, anchors), elements=GAINS))
    found = losses(sample, candidates)
    assert ((found > 0) & (found < 1)).all()
