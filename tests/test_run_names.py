"""Names of runs: made from names of pools in any script, and what is shown where a name is taken."""

import unicodedata
from pathlib import Path

import pytest

from nuggets.config.configs import CurateConfig, ReselectConfig
from nuggets.errors import UsageError
from nuggets.runs.manifest import open_run
from nuggets.runs.names import MAX_BYTES, checked_name, name_from
from nuggets.store.store import Store


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("data/Prüfung größer.jsonl", "Prüfung-größer"),
        ("s3://lab/指令数据_v2.jsonl.gz", "指令数据_v2"),
        ("/srv/инструкции/", "инструкции"),
        ("हिन्दी निर्देश.csv", "हिन्दी-निर्देश"),
        ("a  (copy) & b.json", "a-copy-b"),
        ("été — 2026.json", "été-2026"),
        ("🙂.jsonl", "pool"),
        ("ж" * 300 + ".jsonl", "ж" * 60),
    ],
)
def test_a_pool_in_any_script_names_its_run_legibly(address: str, name: str) -> None:
    assert name_from(address) == name
    assert name_from(unicodedata.normalize("NFD", address)) == name  # as macOS spells file names
    assert checked_name("run", f"{name}-1f2e3d4c") == f"{name}-1f2e3d4c"


def test_the_longest_name_that_a_pool_gives_is_one_that_may_be_given() -> None:
    assert len(f"{name_from('語' * 100)}-1f2e3d4c".encode()) <= MAX_BYTES


def test_two_spellings_of_a_letter_are_one_name() -> None:
    composed, decomposed = "Größe", unicodedata.normalize("NFD", "Größe")
    assert composed != decomposed
    assert CurateConfig(pool="p", run=decomposed).run == composed
    assert ReselectConfig(run=decomposed, top_k=1).run == composed


def made(store: Store, **changes: object) -> None:
    """Open run 'r' with an identity and inputs as `prepare_run` makes them, some of them changed."""
    digests = {"pool": "a" * 64, "model": "b" * 32, "encoder": "c" * 32, "file": "d" * 64}
    names = {"pool": "/srv/alpaca.jsonl", "model": "lab/lm", "encoder": "lab/encoder", "anchor_file": None}
    anchors = changes.pop("anchors", None)
    digests |= {key: value for key, value in changes.items() if key in digests}
    names |= {key.removesuffix("_name"): value for key, value in changes.items() if key.endswith("_name")}
    identity = {
        "pool": digests["pool"],
        "model": digests["model"],
        "dtype": changes.get("dtype", "float32"),
        "anchor_tokens": changes.get("anchor_tokens", 512),
        "anchors": anchors or f"100 by k-means, encoder {digests['encoder']}, seed 0",
    }
    inputs = {
        "pool": {"source": names["pool"], "digest": digests["pool"]},
        "model": {"name": names["model"], "digest": digests["model"]},
        "encoder": {"name": names["encoder"], "digest": digests["encoder"]},
        "anchor_file": names["anchor_file"],
    }
    open_run(store, "r", config={}, identity=identity, inputs=inputs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"pool": "e" * 64, "pool_name": "/srv/dolly.jsonl", "dtype": "bfloat16"},
            "pool: /srv/dolly.jsonl, was /srv/alpaca.jsonl; dtype: bfloat16, was float32",
        ),
        ({"pool": "e" * 64}, "pool: /srv/alpaca.jsonl, with other content"),
        ({"model": "e" * 32, "model_name": "lab/lm-2"}, "model: lab/lm-2, was lab/lm"),
        ({"anchor_tokens": None}, "anchor tokens: not set, was 512"),
        (
            {"anchors": f"file {'d' * 64}", "anchor_file_name": "/srv/anchors.json"},
            "anchors: file /srv/anchors.json, was 100 by k-means, encoder lab/encoder, seed 0",
        ),
        ({"encoder": "e" * 32}, "anchors: 100 by k-means, encoder lab/encoder, seed 0, with other content"),
    ],
)
def test_a_name_that_is_taken_shows_in_words_what_it_was_made_from_and_what_differs(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    made(store)
    made(store)  # the same again continues the run
    with pytest.raises(UsageError) as refused:
        made(store, **changes)
    assert str(refused.value) == (
        f"run 'r' exists with other inputs: it was made from pool /srv/alpaca.jsonl and model lab/lm ({words}). Give "
        "another --run name, or the same inputs to continue this run"
    )
