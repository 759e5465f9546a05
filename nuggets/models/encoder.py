"""The sentence-transformers encoder: load it, and embed examples with it."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.devices.devices import has_gpu
from nuggets.errors import InputError
from nuggets.examples import Example
from nuggets.models.cache import loaded_model
from nuggets.models.encoder_reading import EncoderReading, encoder_reading
from nuggets.models.files import ModelFiles, files_digest
from nuggets.models.library_errors import LIBRARY_ERRORS, one_line
from nuggets.models.loading_report import reading_weights
from nuggets.progress import report_step

BATCH = 64  # texts that are encoded between two progress reports
_PROBE = (Example("a", "", "b"), Example("a longer one, so that the other is padded", "", "b"))
_SHORTEST_SPLIT = 16  # characters; a limit that even these exceed leaves no room beside the encoder's prompt


def load_encoder(files: ModelFiles, *, trust_remote_code: bool = False) -> Any:
    """The sentence-transformers model, cached until another model is loaded or its files change."""
    key = ("encoder", files, files_digest(files, trust_remote_code=trust_remote_code), trust_remote_code)
    return loaded_model(key, lambda: _load(files, trust_remote_code))


def try_encoder(files: ModelFiles, *, trust_remote_code: bool = False) -> None:
    """Load the encoder and embed a probe. Raises InputError if that fails.

    On a machine with a GPU the trial runs on the CPU and keeps nothing: the GPU belongs to the scoring processes.
    """
    if has_gpu():
        _load(files, trust_remote_code, device="cpu")
    else:
        load_encoder(files, trust_remote_code=trust_remote_code)


def _load(files: ModelFiles, trust_remote_code: bool, device: str | None = None) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        with reading_weights(f"encoder='{files.name}'"):
            encoder = SentenceTransformer(
                files.folder,
                device=device,
                trust_remote_code=trust_remote_code,
                model_kwargs={"use_safetensors": True},
            )
            embed_examples(encoder, _PROBE)
    except InputError:
        raise
    except LIBRARY_ERRORS as error:
        raise InputError(
            f"encoder='{files.name}' is not a sentence-transformers model that can embed ({one_line(error)}): give the "
            "folder or hub id of one, such as sentence-transformers/all-MiniLM-L6-v2, or leave it out for the packaged "
            "one"
        ) from error
    return encoder


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit vectors `(examples, width)`, in how many windows each example was read (1 unless it is long), and how."""

    vectors: NDArray[np.float16]
    windows: NDArray[np.int32]
    reading: str  # of an EncoderReading


def embed_examples(encoder: Any, examples: Sequence[Example]) -> Embeddings:
    """Embeddings of instruction, input and output together, after the prompt that `encoder_reading` chooses.

    An encoder drops what follows its `max_seq_length` tokens. A longer text is therefore split into windows; its vector
    is their mean, weighted by tokens, at unit length. float16 halves the size in the store; clustering computes in
    float32.
    """
    texts = ["\n".join(part for part in astuple(item.stripped) if part) for item in examples]
    reading = encoder_reading(encoder)
    counted = zip(texts, _token_counts(encoder, reading, texts), strict=True)
    windows = [_windows(encoder, reading, text, tokens) for text, tokens in counted]
    counts = np.array([len(parts) for parts in windows], dtype=np.int32)
    pieces = [text for parts in windows for text, _ in parts]
    weights = np.array([tokens for parts in windows for _, tokens in parts], dtype=np.float32)
    vectors = _encode(encoder, reading, pieces)
    sums = np.add.reduceat(vectors * weights[:, None], np.cumsum(counts) - counts, axis=0)
    lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return Embeddings((sums / lengths).astype(np.float16), counts, str(reading))


def _encode(encoder: Any, reading: EncoderReading, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of texts, in their order. Progress is reported per batch: a large shard takes longer than a hang.

    The longest texts come first, as sentence-transformers sorts them: a batch pads its texts to the longest one.
    """
    order = np.argsort([-len(text) for text in texts])
    vectors = []
    options = {"batch_size": BATCH, "normalize_embeddings": True, "show_progress_bar": False}
    for start in range(0, len(order), BATCH):
        batch = [texts[row] for row in order[start : start + BATCH]]
        encoded = encoder.encode(batch, prompt_name=reading.prompt_name, **options)
        vectors.append(np.asarray(encoded, dtype=np.float32))
        report_step()
    return np.concatenate(vectors)[np.argsort(order)]


def _windows(encoder: Any, reading: EncoderReading, text: str, tokens: int) -> list[tuple[str, int]]:
    """The text in parts that fit the encoder's window, each with its number of tokens: halved until short enough.

    The split is at the space nearest to the middle; a text without spaces is split at its middle.
    """
    if reading.window is None or tokens <= reading.window or len(text) < _SHORTEST_SPLIT:
        return [(text, tokens)]
    middle = len(text) // 2
    before, after = text.rfind(" ", 1, middle), text.find(" ", middle, -1)
    spaces = [space for space in (before, after) if space > 0]
    split = min(spaces, key=lambda space: abs(space - middle), default=middle)
    halves = [half for half in (text[:split].strip(), text[split:].strip()) if half]
    counted = zip(halves, _token_counts(encoder, reading, halves), strict=True)
    return [window for half, count in counted for window in _windows(encoder, reading, half, count)]


def _token_counts(encoder: Any, reading: EncoderReading, texts: Sequence[str]) -> list[int]:
    """How many tokens the encoder reads of each text if nothing is cut, its prompt and special tokens included."""
    ids = encoder.tokenizer([reading.prompt + text for text in texts], verbose=False)["input_ids"]
    return [len(item) for item in ids]
