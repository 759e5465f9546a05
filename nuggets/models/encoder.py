"""The sentence-transformers encoder: loading it, and embedding examples with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.errors import InputError
from nuggets.examples import Example
from nuggets.models.cache import loaded_model, reading_weights
from nuggets.models.files import ModelFiles, files_digest

_PROBE = (Example("a", "", "b"), Example("a longer one, so that the other is padded", "", "b"))


def load_encoder(files: ModelFiles, *, trust_remote_code: bool = False) -> Any:
    """The sentence-transformers model; kept until another model is asked for, or its files change."""
    key = ("encoder", files, files_digest(files), trust_remote_code)
    return loaded_model(key, lambda: _load(files, trust_remote_code))


def _load(files: ModelFiles, trust_remote_code: bool) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()
    try:
        with reading_weights(f"encoder='{files.name}'"):
            encoder = SentenceTransformer(
                files.folder, trust_remote_code=trust_remote_code, model_kwargs={"use_safetensors": True}
            )
            embed_examples(encoder, _PROBE)
    except InputError:
        raise
    except (AttributeError, ImportError, IndexError, LookupError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"encoder='{files.name}' is not a sentence-transformers model that can embed ({error}): give the folder or "
            "hub id of one, such as sentence-transformers/all-MiniLM-L6-v2, or leave it out for the packaged one"
        ) from error
    return encoder


def embed_examples(encoder: Any, examples: Sequence[Example]) -> NDArray[np.float16]:
    """Unit vectors `(examples, width)` of instruction, input and output together.

    float16 halves what a large pool takes in the store; clustering computes in float32.
    """
    texts = ["\n".join(part for part in (item.instruction, item.input, item.output) if part) for item in examples]
    vectors = encoder.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float16)
