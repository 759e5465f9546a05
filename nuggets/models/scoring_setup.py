"""What determines a cell besides its candidate and anchor: model, prompt profile, token limits and number format."""

from dataclasses import dataclass

from nuggets.engine.interface import LanguageModel
from nuggets.errors import InputError
from nuggets.models.files import ModelFiles, files_digest
from nuggets.models.language_model import load_language_model, load_tokenizer
from nuggets.models.prompts import Profile, PromptProfile, TokenLimits, bind_profile
from nuggets.store.addresses import scoring_key


@dataclass(frozen=True, slots=True)
class ScoringSetup:
    """A small record that tasks pass on; every process loads model and tokenizer by it."""

    files: ModelFiles
    model_digest: str
    profile: Profile
    limits: TokenLimits
    dtype: str
    kv_iter: int
    trust_remote_code: bool

    @property
    def key(self) -> str:
        """Address of the cells that this setup computes."""
        return scoring_key(
            model=self.model_digest,
            profile=self.profile,
            demonstration_tokens=self.limits.demonstration,
            anchor_tokens=self.limits.anchor,
            dtype=self.dtype,
            kv_iter=self.kv_iter,
        )


def open_profile(setup: ScoringSetup) -> PromptProfile:
    """The setup's prompt profile, bound to the model's tokenizer."""
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
