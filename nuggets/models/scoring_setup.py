"""What determines a cell besides its candidate and anchor: model, prompt profile, token limits and number format."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import ClassVar

from nuggets.engine.interface import LanguageModel
from nuggets.errors import InputError
from nuggets.models.files import ModelFiles, files_digest
from nuggets.models.language_model import load_language_model, load_tokenizer
from nuggets.models.prompts import Profile, PromptProfile, TokenLimits, bind_profile
from nuggets.store.addresses import SCORING_VERSION, scoring_key
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class ScoringSetup:
    """A small record that tasks pass on; every process loads model and tokenizer by it.

    `rendering`: digest of what the model's chat template writes, set by `with_rendering`.
    """

    files: ModelFiles
    model_digest: str
    profile: Profile
    limits: TokenLimits
    dtype: str
    kv_iter: int
    trust_remote_code: bool
    rendering: str = ""

    @property
    def key(self) -> str:
        """Address of the cells that this setup computes."""
        return scoring_key(
            {
                "model": self.model_digest,
                "profile": self.profile,
                "rendering": self.rendering,
                "demonstration_tokens": self.limits.demonstration,
                "anchor_tokens": self.limits.anchor,
                "dtype": self.dtype,
                "kv_iter": self.kv_iter,
            }
        )


@dataclass(frozen=True, slots=True)
class RenderingNote:
    """The digest of what a model's chat template writes, which has passed all checks."""

    FORMAT: ClassVar[int] = 1
    rendering: str


def with_rendering(store: Store, setup: ScoringSetup) -> ScoringSetup:
    """The setup together with the digest of what its chat template writes.

    It is from the store if an earlier run has tried the template, because reading a tokenizer takes seconds. Raises
    InputError if the template can't be used.
    """
    if setup.profile != "chat":
        return setup
    path = f"models/{setup.model_digest}-rendering-{SCORING_VERSION}-{version('transformers')}.json"
    if not store.exists(path):
        write_record(store, path, RenderingNote(_bind(setup).rendering))
    return replace(setup, rendering=read_record(store, path, RenderingNote).rendering)


def open_profile(setup: ScoringSetup) -> PromptProfile:
    """The setup's prompt profile, bound to the model's tokenizer.

    Raises InputError if the chat template writes other texts here than where the run was prepared.
    """
    profile = _bind(setup)
    if profile.rendering != setup.rendering:
        raise InputError(
            f"the chat template of model '{setup.files.name}' writes other texts here (digest '{profile.rendering}') "
            f"than where the run was prepared (digest '{setup.rendering}'): cells of two kinds must not be mixed; "
            "install the same version of transformers on all machines of the run"
        )
    return profile


def _bind(setup: ScoringSetup) -> PromptProfile:
    tokenizer = load_tokenizer(setup.files, trust_remote_code=setup.trust_remote_code)
    return bind_profile(setup.profile, tokenizer, setup.limits)


def open_model(setup: ScoringSetup) -> LanguageModel:
    """The setup's model. Raises InputError if its files are not those that the run began with."""
    digest = files_digest(setup.files, trust_remote_code=setup.trust_remote_code)
    if digest != setup.model_digest:
        raise InputError(
            f"model '{setup.files.name}' in {setup.files.folder} has digest {digest}, but this run began with "
            f"{setup.model_digest}: cells of two models must not be mixed; start a new run"
        )
    return load_language_model(
        setup.files, dtype=setup.dtype, kv_iter=setup.kv_iter, trust_remote_code=setup.trust_remote_code
    )
