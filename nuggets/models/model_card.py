"""The card of a language model: what a run needs to know before it loads weights, and the checks that come first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from nuggets.devices.capacity import Capacity
from nuggets.errors import InputError
from nuggets.models.encoder import try_encoder
from nuggets.models.files import FilesState, ModelFiles, files_digest, files_state
from nuggets.models.language_model import load_tokenizer
from nuggets.models.prompts import TokenLimits, default_profile
from nuggets.models.structure import Structure, read_structure
from nuggets.models.window import shortest_prompts
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store

_LARGE = 1 << 30  # bytes of files; hashing more takes longer than the checks, so the checks come first
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a weight


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that has passed all checks which depend on its files only."""

    FORMAT: ClassVar[int] = 3  # part of the address, so that it is raised with a new check as well
    name: str
    digest: str
    architecture: str
    context: int  # tokens
    parameters: int
    default_profile: str
    shortest: dict[str, TokenLimits]  # by profile, see shortest_prompts


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """An encoder that has embedded a probe."""

    FORMAT: ClassVar[int] = 1
    name: str
    digest: str


def describe_model(store: Store, files: ModelFiles, *, trust_remote_code: bool = False) -> ModelCard:
    """The card of a model, from the store if it is there: the checks take seconds.

    Raises InputError if the model fails a check: structure, weights and tokenizer have to belong together.
    """
    state = files_state(files, trust_remote_code=trust_remote_code)
    if sum(size for _, size, _ in state) > _LARGE:
        _checked_structure(files, state, trust_remote_code)
    digest = files_digest(files, trust_remote_code=trust_remote_code)
    path = f"models/{digest}-{ModelCard.FORMAT}.json"
    if store.exists(path):
        return replace(read_record(store, path, ModelCard), name=files.name)
    structure = _checked_structure(files, state, trust_remote_code)
    tokenizer = load_tokenizer(files, trust_remote_code=trust_remote_code)
    card = ModelCard(
        name=files.name,
        digest=digest,
        architecture=structure.architecture,
        context=structure.context,
        parameters=structure.parameters,
        default_profile=default_profile(tokenizer),
        shortest=shortest_prompts(tokenizer),
    )
    write_record(store, path, card)
    return card


@lru_cache(maxsize=1)
def _checked_structure(files: ModelFiles, _state: FilesState, trust_remote_code: bool) -> Structure:
    structure = read_structure(files, trust_remote_code=trust_remote_code)
    _check_tokens(files, load_tokenizer(files, trust_remote_code=trust_remote_code), structure.rows)
    return structure


def check_encoder(store: Store, files: ModelFiles, *, trust_remote_code: bool = False) -> None:
    """Load an encoder and embed a probe, unless an encoder with these files has passed before in this store."""
    digest = files_digest(files, trust_remote_code=trust_remote_code)
    path = f"models/{digest}-encoder-{EncoderCard.FORMAT}.json"
    if not store.exists(path):
        try_encoder(files, trust_remote_code=trust_remote_code)
        write_record(store, path, EncoderCard(files.name, digest))


def check_memory(card: ModelCard, dtype: str, capacities: Sequence[Capacity]) -> None:
    """Raise InputError if a device's whole memory has no room for the weights of the processes that share it."""
    needed = card.parameters * _BYTES[dtype]
    for capacity in capacities:
        if needed * capacity.processes > capacity.memory:
            raise InputError(
                f"model='{card.name}' in {dtype} does not fit: its weights take {needed / 1e9:.2f} GB per scoring "
                f"process, and {capacity.device} has {capacity.memory / 1e9:.2f} GB for {capacity.processes} of them: "
                "choose dtype=bfloat16, fewer workers, a smaller model or another device"
            )


def _check_tokens(files: ModelFiles, tokenizer: Any, rows: int) -> None:
    """Raise InputError if the tokenizer has ids without a row in the embedding. Rows without a token are usual."""
    ids: dict[str, int] = tokenizer.get_vocab()
    beyond = sorted((number, token) for token, number in ids.items() if number >= rows)
    if beyond:
        tokens = max(ids.values()) + 1
        raise InputError(
            f"model='{files.name}': the tokenizer has {tokens} tokens, the model's embedding {rows} rows: "
            f"{len(beyond)} tokens, first '{beyond[0][1]}' (id {beyond[0][0]}), have no row. Give the model the "
            "tokenizer that it was trained with, or resize it (model.resize_token_embeddings), train it and save it"
        )
