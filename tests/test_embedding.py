"""Embeddings in the store: read as they were written, computed once, and again where they were damaged."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_tiny_encoder

from nuggets.anchors.embeddings import read_embeddings, write_embeddings
from nuggets.errors import DamagedTable
from nuggets.models.files import files_digest, find_encoder
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.embed_shard import embed_shard
from nuggets.store.store import Store

VECTORS = np.arange(6, dtype=np.float16).reshape(3, 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def test_whatever_byte_is_damaged_the_vectors_are_those_written_or_the_file_is_named(store: Store) -> None:
    write_embeddings(store, "a.npz", ["x", "y", "z"], VECTORS)
    whole = store.read("a.npz")
    refused = 0
    for place in range(len(whole)):
        store.write("a.npz", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(read_embeddings(store, "a.npz"), VECTORS)
        except DamagedTable as error:
            refused += 1
            assert str(error).startswith(f"{store.url}/a.npz is damaged")
    assert refused > len(whole) // 4


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_embeddings_that_were_cut_off_are_named(store: Store, share: float) -> None:
    write_embeddings(store, "a.npz", ["x", "y", "z"], VECTORS)
    whole = store.read("a.npz")
    store.write("a.npz", whole[: int(share * len(whole))])
    with pytest.raises(DamagedTable, match=f"{store.url}/a.npz is damaged and can't be read as embeddings"):
        read_embeddings(store, "a.npz")


def test_damaged_embeddings_are_computed_again_and_others_are_not(
    store: Store, pool_file: Path, encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = find_source(str(pool_file))
    pool = ingest_pool(
        store, source, source_digest(source), shard_size=10, max_row_bytes=1 << 20, max_rejected_share=0.0
    )
    files = find_encoder(str(encoder))
    setup: Any = None  # of no use here
    prepared = PreparedRun("r", store, setup, files, files_digest(files), False, "")

    def said() -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="nuggets.progress"):
            assert [embed_shard(prepared, shard) for shard in pool.shards] == paths
        return [message.partition(" examples of")[0] for message in caplog.messages]

    paths = [embed_shard(prepared, shard) for shard in pool.shards]
    expected = [read_embeddings(store, path) for path in paths]
    assert said() == []
    data = bytearray(store.read(paths[1]))
    data[len(data) // 2] ^= 1
    store.write(paths[1], bytes(data))
    first, second = said()
    assert first.startswith(f"{store.url}/{paths[1]} is damaged and computed again (Bad CRC-32")
    assert second == "embedded 10"
    for path, vectors in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(read_embeddings(store, path), vectors)
    assert said() == []
