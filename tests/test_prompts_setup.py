"""A scoring setup: what is in its key, and what is checked before a process scores with it."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_prompts import CHATML
from tiny_models import save_tiny_llama

from nuggets.errors import InputError
from nuggets.models.files import find_language_model
from nuggets.models.prompts import TokenLimits
from nuggets.models.scoring_setup import ScoringSetup, open_profile, with_rendering
from nuggets.store.store import Store


@pytest.fixture
def setup(tmp_path: Path) -> ScoringSetup:
    files = find_language_model(str(save_tiny_llama(tmp_path / "model", CHATML)))
    return ScoringSetup(files, "digest", "chat", TokenLimits(500, 500), "float32", 1, False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_everything_that_determines_a_cell_is_in_the_key(store: Store, setup: ScoringSetup) -> None:
    others = [
        replace(setup, model_digest="other"),
        replace(setup, profile="plain"),
        replace(setup, limits=TokenLimits(499, 500)),
        replace(setup, limits=TokenLimits(500, 499)),
        replace(setup, dtype="bfloat16"),
        replace(setup, kv_iter=2),
        replace(setup, kv_iter=3),
        with_rendering(store, setup),
    ]
    assert len({setup.key, *(other.key for other in others)}) == 9
    assert replace(setup, files=replace(setup.files, folder="elsewhere")).key == setup.key


def test_a_profile_is_opened_only_if_the_template_writes_what_the_run_was_prepared_with(
    store: Store, setup: ScoringSetup
) -> None:
    prepared = with_rendering(store, setup)
    assert open_profile(prepared).rendering == prepared.rendering != ""
    assert with_rendering(store, setup) == prepared
    assert with_rendering(store, replace(setup, profile="plain")).rendering == ""
    with pytest.raises(InputError, match="chat template of model .* writes other texts here .*same version"):
        open_profile(replace(prepared, rendering="other"))
