"""What determines a cell besides its candidate and anchor: the model, the prompt profile, limits and number format."""

from dataclasses import dataclass

from nuggets.addresses import scoring_key
from nuggets.config import CurateConfig, Profile
from nuggets.errors import InputError
from nuggets.language_model import ModelCard, describe_model, load_language_model, load_tokenizer, resolve_dtype
from nuggets.model_files import ModelFiles, files_digest, find_language_model
from nuggets.prompts import PromptProfile, TokenLimits, bind_profile, token_limits
from nuggets.scoring.door import LanguageModel
from nuggets.store import Store


@dataclass(frozen=True, slots=True)
class ScoringSetup:
    """Small enough to hand from task to task; every process loads model and tokenizer from it for itself."""

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


def resolve_scoring(store: Store, config: CurateConfig) -> ScoringSetup:
    """The setup that a configuration means on this machine, its defaults filled in from the model."""
    files = find_language_model(config.model)
    trusted = config.model is not None and config.trust_remote_code == config.model
    card = describe_model(store, files, trust_remote_code=trusted)
    profile = config.profile or _profile(card)
    limits = token_limits(
        profile, context=card.context, demonstration=config.demonstration_tokens, anchor=config.anchor_tokens
    )
    return ScoringSetup(
        files, card.digest, profile, limits, resolve_dtype(config.dtype, config.devices), config.kv_iter, trusted
    )


def open_profile(setup: ScoringSetup) -> PromptProfile:
    """The setup's prompt profile, bound to the model's tokenizer."""
    tokenizer = load_tokenizer(setup.files, trust_remote_code=setup.trust_remote_code)
    return bind_profile(setup.profile, tokenizer, setup.limits)


def open_model(setup: ScoringSetup) -> LanguageModel:
    """The setup's model. Raises InputError if its files are not those that the run began with."""
    found = files_digest(setup.files)
    if found != setup.model_digest:
        raise InputError(
            f"model '{setup.files.name}' in {setup.files.folder} has digest {found}, but this run began with "
            f"{setup.model_digest}: cells of two models must not be mixed; start a new run"
        )
    return load_language_model(
        setup.files, dtype=setup.dtype, kv_iter=setup.kv_iter, trust_remote_code=setup.trust_remote_code
    )


def _profile(card: ModelCard) -> Profile:
    return "chat" if card.default_profile == "chat" else "plain"
