"""Embeddings in the store: read as they were written, computed once, and again where they were damaged."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_tiny_encoder

from nuggets.anchors.embeddings import read_embeddings, write_embeddings
from nuggets.errors import DamagedTable
from nuggets.examples import Example
from nuggets.models.encoder import BATCH, Embeddings, embed_examples, load_encoder
from nuggets.models.files import files_digest, find_encoder
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.progress import phase_logger
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.embed_shard import embed_shard
from nuggets.store.store import Store

VECTORS = np.arange(6, dtype=np.float16).reshape(3, 2)
EMBEDDINGS = Embeddings(VECTORS, np.array([1, 3, 1], dtype=np.int32), "reads 24 tokens at a time")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def test_whatever_byte_is_damaged_the_vectors_are_those_written_or_the_file_is_named(store: Store) -> None:
    write_embeddings(store, "a.npz", ["x", "y", "z"], EMBEDDINGS)
    whole = store.read("a.npz")
    refused = 0
    for place in range(len(whole)):
        store.write("a.npz", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            stored = read_embeddings(store, "a.npz")
            np.testing.assert_array_equal(stored.vectors, VECTORS)
            np.testing.assert_array_equal(stored.windows, [1, 3, 1])
            assert stored.reading == EMBEDDINGS.reading
        except DamagedTable as error:
            refused += 1
            assert str(error).startswith(f"{store.url}/a.npz is damaged")
    assert refused > len(whole) // 4


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_embeddings_that_were_cut_off_are_named(store: Store, share: float) -> None:
    write_embeddings(store, "a.npz", ["x", "y", "z"], EMBEDDINGS)
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
    prepared = PreparedRun(
        name="r", store=store, setup=setup, pool_digest="", encoder=files, encoder_digest=files_digest(files)
    )

    def said() -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="nuggets.progress"):
            assert [embed_shard(prepared, shard) for shard in pool.shards] == paths
        lines = [record.getMessage() for record in caplog.records if record.name == "nuggets.progress"]
        return [line.partition(" examples of")[0] for line in lines]

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
        np.testing.assert_array_equal(read_embeddings(store, path).vectors, vectors.vectors)
    assert said() == []


def configured(folder: Path, **files: Any) -> Any:
    """A tiny encoder with some of the files by which sentence-transformers configures one."""
    save_tiny_encoder(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return load_encoder(find_encoder(str(folder)))


def words(count: int, *, first: int = 0) -> str:
    return " ".join(f"w{number}" for number in range(first, first + count))


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
           {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]  # fmt: skip


def short_window(folder: Path, **files: Any) -> Any:
    """A tiny encoder that reads 24 tokens."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling/config.json").write_text('{"word_embedding_dimension": 48, "pooling_mode_mean_tokens": true}')
    return configured(folder, modules=MODULES, sentence_bert_config={"max_seq_length": 24}, **files)


def test_the_end_of_a_long_example_counts(tmp_path: Path) -> None:
    encoder = short_window(tmp_path / "encoder")
    assert encoder.max_seq_length == 24
    same_start = [Example("Say.", "", words(40) + end) for end in (" red", " green")]
    short = Example("Say.", "", "red")
    found = embed_examples(encoder, [*same_start, short])
    assert found.windows[2] == 1 and (found.windows[:2] > 1).all()
    assert not np.array_equal(found.vectors[0], found.vectors[1])
    np.testing.assert_allclose(np.linalg.norm(found.vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    alone = encoder.encode(["Say.\nred"], normalize_embeddings=True)
    np.testing.assert_allclose(found.vectors[2], alone[0], atol=2e-3)


def spied(encoder: Any) -> tuple[Any, list[str]]:
    """The encoder's own `encode`, and the texts that it will be given from now on."""
    seen: list[str] = []
    encode = encoder.encode

    def spy(texts: list[str], **options: Any) -> Any:
        seen.extend(texts)
        return encode(texts, **options)

    encoder.encode = spy
    return encode, seen


def test_a_long_example_is_the_token_weighted_mean_of_its_windows(tmp_path: Path) -> None:
    encoder = short_window(tmp_path / "encoder")
    encode, seen = spied(encoder)
    text = words(30)
    found = embed_examples(encoder, [Example(text, "", "")])
    assert found.windows.tolist() == [len(seen)]
    assert " ".join(sorted(seen, key=text.index)) == text  # nothing is lost, and no word is split
    lengths = [len(encoder.tokenizer(window)["input_ids"]) for window in seen]
    assert max(lengths) <= 24
    vectors = encode(seen, normalize_embeddings=True)
    expected = sum(length * vector for length, vector in zip(lengths, vectors, strict=True))
    np.testing.assert_allclose(found.vectors[0], unit(expected), atol=2e-3)


class Steps(logging.Handler):
    """Counts reports of progress."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage() == "step"


def test_progress_is_reported_per_batch_and_batches_change_no_embedding(
    encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_encoder(find_encoder(str(encoder)))
    examples = [Example(words(1 + 7 * number % 30, first=number), "", "") for number in range(2 * BATCH + 1)]
    steps = Steps()
    phase_logger.addHandler(steps)
    try:
        with caplog.at_level(logging.INFO, logger=phase_logger.name):
            embeddings = embed_examples(loaded, examples)
    finally:
        phase_logger.removeHandler(steps)
    assert steps.count == 3
    texts = [example.instruction for example in examples]
    at_once = loaded.encode(texts, batch_size=BATCH, normalize_embeddings=True)
    np.testing.assert_allclose(embeddings.vectors, at_once, atol=1e-3)


def test_a_text_without_white_space_is_split_inside(tmp_path: Path) -> None:
    encoder = short_window(tmp_path / "encoder")
    found = embed_examples(encoder, [Example("x" * 500 + "y", "", ""), Example("x" * 500 + "z", "", "")])
    assert (found.windows > 1).all()
    assert not np.array_equal(found.vectors[0], found.vectors[1])


def test_the_default_prompt_of_an_encoder_is_used_and_takes_room_in_every_window(tmp_path: Path) -> None:
    plain = short_window(tmp_path / "plain")
    prompts = {"prompts": {"cluster": "T: "}, "default_prompt_name": "cluster"}
    prompted = short_window(tmp_path / "prompted", config_sentence_transformers=prompts)
    examples = [Example("Say.", "", "red")]
    short = [embed_examples(encoder, examples).vectors[0] for encoder in (plain, prompted)]
    assert not np.array_equal(*short)
    expected = plain.encode(["T: Say.\nred"], normalize_embeddings=True)[0]
    np.testing.assert_allclose(short[1], expected, atol=2e-3)
    _, seen = spied(prompted)
    embed_examples(prompted, [Example(words(30), "", "")])
    assert max(len(plain.tokenizer("T: " + window)["input_ids"]) for window in seen) <= 24


@pytest.mark.parametrize(
    ("prompts", "used"),
    [
        ({"query": "Q: ", "document": "D: "}, "document"),
        ({"query": "Q: ", "Clustering": "C: ", "passage": "P: "}, "Clustering"),
        ({"query": "Q: "}, None),
        ({"document": ""}, None),
    ],
)
def test_without_a_default_the_prompt_for_clustering_or_for_documents_is_used(
    tmp_path: Path, prompts: dict[str, str], used: str | None
) -> None:
    plain = short_window(tmp_path / "plain")
    prompted = short_window(tmp_path / "prompted", config_sentence_transformers={"prompts": prompts})
    embedded = embed_examples(prompted, [Example("Say.", "", "red")])
    expected = plain.encode([f"{prompts.get(used or '', '')}Say.\nred"], normalize_embeddings=True)[0]
    np.testing.assert_allclose(embedded.vectors[0], expected, atol=2e-3)
    others = "".join(f", not with {name}" for name in [", ".join(sorted(set(prompts) - {used}))] if name)
    others = others if any(prompts.values()) else ""
    prompt = f"with prompt {used} ({prompts[used]!r})" if used else "without a prompt"
    assert embedded.reading == f"reads 24 tokens at a time {prompt}{others}"


def test_white_space_around_texts_does_not_change_an_embedding(encoder: Path) -> None:
    loaded = load_encoder(find_encoder(str(encoder)))
    tidy, untidy = Example("Say.", "", "red"), Example(" Say.\n", "\t", "red\n\n")
    for other in (tidy, untidy):
        np.testing.assert_array_equal(embed_examples(loaded, [other]).vectors, embed_examples(loaded, [tidy]).vectors)
