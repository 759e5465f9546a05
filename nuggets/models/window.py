"""Whether a model's window has room for a demonstration and an anchor in a prompt profile."""

from typing import Any, get_args

from nuggets.errors import InputError
from nuggets.examples import Example
from nuggets.models.prompts import Profile, TokenLimits, bind_profile

_UNLIMITED = TokenLimits(1 << 30, 1 << 30)
_SHORTEST = Example("a", "", "b")
_LEAST = 32  # tokens of a demonstration's and an anchor's texts; fewer hold no instruction with its response


def shortest_prompts(tokenizer: Any) -> dict[str, TokenLimits]:
    """Per profile, how many tokens a demonstration and an anchor have at least. Without profiles that can't be used."""
    shortest: dict[str, TokenLimits] = {}
    for name in get_args(Profile):
        try:
            profile = bind_profile(name, tokenizer, _UNLIMITED)
        except InputError:  # raised again where a run uses this profile
            continue
        demonstration, anchor = profile.demonstration(_SHORTEST), profile.anchor(_SHORTEST)
        shortest[name] = TokenLimits(len(demonstration.ids), len(anchor.ids))
    return shortest


def check_window(model: str, profile: Profile, limits: TokenLimits, *, context: int, shortest: TokenLimits) -> None:
    """Raise InputError if the window or a limit has no room for texts beside a profile's own tokens.

    `model` names the model in messages; `shortest` comes from `shortest_prompts`.
    """
    taken = shortest.demonstration + shortest.anchor
    if context < taken + _LEAST:
        raise InputError(
            f"{model}: its window of {context} tokens is too small: in profile {profile} the shortest demonstration "
            f"and anchor take {taken} tokens, and {_LEAST} more are needed: give a model with a longer window"
            + ("" if profile == "plain" else ", or use profile plain")
        )
    for field, limit, least in (
        ("demonstration_tokens", limits.demonstration, shortest.demonstration),
        ("anchor_tokens", limits.anchor, shortest.anchor),
    ):
        if limit < least:
            raise InputError(
                f"{field}={limit} is too small: in profile {profile} of {model} the shortest one takes {least} tokens: "
                f"give at least {least + _LEAST // 2}"
            )
