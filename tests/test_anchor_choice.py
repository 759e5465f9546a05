"""Anchors found in a pool: sound examples, one per cluster, under a name that means one set for good."""

import json
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EXAMPLES
from tiny_models import save_tiny_encoder
from transformers import AutoTokenizer

from nuggets.anchors.anchor_checks import NEAR_DUPLICATE, NO_RESPONSE, TRUNCATED, is_near_duplicate, token_faults
from nuggets.anchors.anchor_set import AnchorSetRef, read_anchor_set, read_anchors, read_named
from nuggets.anchors.embeddings import write_embeddings
from nuggets.anchors.pool_vectors import PoolVectors
from nuggets.config.configs import CurateConfig
from nuggets.errors import UsageError
from nuggets.examples import Example
from nuggets.models.encoder import Embeddings
from nuggets.models.prompts import TokenLimits, bind_profile
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source
from nuggets.pools.shards import Pool, read_candidates
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.choose_anchors import find_anchors, known_anchors
from nuggets.steps.embed_shard import embed_shard
from nuggets.steps.prepare import prepare_run
from nuggets.store.store import Store, open_store


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def configured(tmp_path: Path, pool_file: Path, tiny_model: Path, encoder: Path) -> Callable[..., CurateConfig]:
    def config(**options: Any) -> CurateConfig:
        given: dict[str, Any] = {"store": str(tmp_path / "store"), "anchors": 4, "shard_size": 8} | options
        return CurateConfig(pool=str(pool_file), model=str(tiny_model), encoder=str(encoder), dtype="float32", **given)

    return config


def prepared_pool(config: CurateConfig) -> tuple[PreparedRun, Pool]:
    prepared = prepare_run(config)
    pool = ingest_pool(
        open_store(config.store),
        find_source(config.pool),
        prepared.pool_digest,
        shard_size=config.shard_size,
        max_row_bytes=10_000,
        max_rejected_share=0.0,
    )
    return prepared, pool


def written_vectors(store: Store, pool: Pool, vector_of: Callable[[Example], Any], *, windows: int = 1) -> list[str]:
    """Embeddings that a test makes up, so that it knows which examples are near to each other."""
    paths = []
    for index, shard in enumerate(pool.shards):
        candidates = read_candidates(store, shard)
        vectors = np.stack([vector_of(item.example) for item in candidates]).astype(np.float16)
        counts = np.full(len(candidates), windows, dtype=np.int32)
        write_embeddings(store, f"embeddings/made-up/{index}.npz", [item.id for item in candidates],
                         Embeddings(vectors, counts, "reads 24 tokens at a time"))  # fmt: skip
        paths.append(f"embeddings/made-up/{index}.npz")
    return paths


def spread(example: Example) -> np.ndarray:
    """A direction for each example of EXAMPLES, none near another."""
    vector = np.zeros(len(EXAMPLES))
    vector[[row["instruction"] for row in EXAMPLES].index(example.instruction)] = 1
    return vector


def test_faults_of_an_examples_tokens(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    example = Example("Count.", "", "one two three")
    whole = bind_profile("plain", tokenizer, TokenLimits(100, 100)).anchor(example)

    def faults(limit: int) -> tuple[str, ...]:
        return token_faults(example, bind_profile("plain", tokenizer, TokenLimits(100, limit)))

    assert faults(100) == faults(len(whole.ids)) == ()
    assert faults(len(whole.ids) - 1) == (TRUNCATED,)
    assert faults(whole.response_start + 1) == faults(whole.response_start) == faults(2) == (NO_RESPONSE,)


def test_near_duplicates_are_recognized_by_the_angle_between_unit_vectors() -> None:
    north, east = np.array([0, 1], dtype=np.float32), np.array([1, 0], dtype=np.float32)
    close, apart = (np.array([np.sin(angle), np.cos(angle)], dtype=np.float32) for angle in (0.3, 0.4))
    assert is_near_duplicate(close, [east, north])
    assert not is_near_duplicate(apart, [east, north])
    assert not is_near_duplicate(north, [])


def test_an_example_and_its_vector_are_found_by_their_position_in_the_pool(configured) -> None:
    config = configured(shard_size=7)
    _, pool = prepared_pool(config)
    store = open_store(config.store)
    vectors = PoolVectors(store, pool, written_vectors(store, pool, spread))
    whole = [item for shard in pool.shards for item in read_candidates(store, shard)]
    assert [vectors.candidate(position) for position in range(20)] == whole
    batches = np.concatenate(list(vectors.batches()))
    for position, item in enumerate(whole):
        np.testing.assert_array_equal(vectors.vector(position), spread(item.example))
        np.testing.assert_array_equal(vectors.vector(position), batches[position])


def test_a_response_that_is_cut_is_passed_over_and_what_was_passed_over_is_counted(
    configured, pool_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    angles = {"Name the sky.": 0.3, "Describe the sky.": 0.0, "Paint the sky.": 0.64, "Name the sea.": 2.0}
    rows = [{"instruction": text, "output": "blue"} for text in angles]
    rows[0]["output"] = "blue " * 20  # the nearest one to the centre of its cluster
    pool_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configured(anchors=2, anchor_tokens=60)
    prepared, pool = prepared_pool(config)
    store = open_store(config.store)

    def vector_of(example: Example) -> np.ndarray:
        angle = angles[example.instruction]
        return np.array([np.cos(angle), np.sin(angle)])

    with caplog.at_level(logging.INFO, logger="nuggets.progress"):
        found = find_anchors(prepared, config, pool, written_vectors(store, pool, vector_of, windows=2))
    anchor_set = read_anchor_set(store, found.path)
    passed_over = {anchor.example.instruction: anchor.passed_over for anchor in anchor_set.anchors}
    assert passed_over == {"Describe the sky.": 1, "Name the sea.": 0}
    assert found.counts == anchor_set.counts == {"long_examples": 4, "anchors_passed_over_truncated": 1}
    assert known_anchors(prepared, config, pool) == found
    assert found.encoder == f"{prepared.encoder.name} reads 24 tokens at a time"
    assert caplog.messages[-3:] == [
        f"encoder: {found.encoder}",
        "anchors: examples longer than the encoder's window, embedded as the mean of several windows: 4",
        "anchors: nearer examples passed over, longer than anchor_tokens: 1",
    ]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_twins_are_anchors_only_where_nothing_else_is_left(configured) -> None:
    config = configured(anchors=4)
    prepared, pool = prepared_pool(config)
    store = open_store(config.store)
    twins = written_vectors(store, pool, lambda _: np.array([1.0, 0.0]))
    found = find_anchors(prepared, config, pool, twins)
    anchors = read_anchors(store, found.path)
    assert len({anchor.id for anchor in anchors}) == 4
    assert found.counts[f"anchors_{NEAR_DUPLICATE}"] == 3
    assert TRUNCATED not in str(found.counts)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_two_concurrent_first_runs_use_the_same_named_set(
    configured, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "s3":
        request.getfixturevalue("s3_server")
    url = str(tmp_path / "store") if kind == "folder" else f"s3://pools/{uuid.uuid4()}"
    configs = [
        configured(store=url, anchor_set="nightly", run=f"r{number}", anchors=None, seed=number) for number in range(4)
    ]
    prepared, pool = prepared_pool(configs[0])
    store = open_store(url)
    paths = written_vectors(store, pool, spread)
    assert all(known_anchors(prepared, config, pool) is None for config in configs)
    barrier = threading.Barrier(len(configs))

    def find(config: CurateConfig) -> AnchorSetRef:
        barrier.wait()
        return find_anchors(prepared, config, pool, paths)

    with ThreadPoolExecutor(len(configs)) as threads:
        found = list(threads.map(find, configs))
    assert len(store.list("anchors")) == len(configs)  # each run has found a different set
    assert {reference.path for reference in found} == {read_named(store, "nightly").path}
    assert {known_anchors(prepared, config, pool).path for config in configs} == {found[0].path}


def test_a_set_named_meanwhile_with_another_anchor_count_is_refused(configured) -> None:
    config = configured(anchor_set="nightly", anchors=4)
    prepared, pool = prepared_pool(config)
    store = open_store(config.store)
    paths = written_vectors(store, pool, spread)
    find_anchors(prepared, config, pool, paths)
    with pytest.raises(UsageError, match="^anchors=5, but anchor_set='nightly' has 4 in this store"):
        find_anchors(prepared, replace(config, anchors=5), pool, paths)
    assert find_anchors(prepared, replace(config, anchors=None), pool, paths).anchors == 4


def test_anchors_are_found_among_real_embeddings(configured) -> None:
    config = configured()
    prepared, pool = prepared_pool(config)
    paths = [embed_shard(prepared, shard) for shard in pool.shards]
    found = find_anchors(prepared, config, pool, paths)
    assert len({anchor.id for anchor in read_anchors(open_store(config.store), found.path)}) == found.anchors == 4
