"""Prompt profiles: how an example becomes the token ids of a demonstration or of an anchor. Pure.

All profiles have the same sequence of parts and differ in the content of the parts:

```
zero-shot:  [ opening       ][ anchor's prompt | anchor's response ]
one-shot:   [ demonstration ][ anchor's prompt | anchor's response ]
                                                 ^ only these tokens are scored
```
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Literal

from nuggets.errors import InputError
from nuggets.examples import Example
from nuggets.models.chat_template import TEMPLATE_DATE, read_chat_texts
from nuggets.models.prompt_parts import FixedTexts, fill_form, prompt_form
from nuggets.models.prompt_tokens import AnchorPrompt, PromptTokens
from nuggets.models.text_tokens import Tokenizer, leading_special_ids, plain_ids, text_tokenizer
from nuggets.store.addresses import digest

Profile = Literal["released", "plain", "chat"]

RELEASED_ANCHOR_TOKENS = 200
_LABELS = FixedTexts("Instruction:\n", "\nInput:\n", "\nResponse:\n")


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Maximum tokens of a demonstration and of an anchor (prompt and response together); the rest is cut."""

    demonstration: int
    anchor: int


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """A profile bound to a tokenizer and limits.

    `opening`: ids in front of an anchor when there is no demonstration. `rendering`: digest of what determines the
    fixed texts of a chat template, empty in the other profiles.
    """

    name: Profile
    opening: tuple[int, ...]
    demonstration: Callable[[Example], PromptTokens]
    anchor: Callable[[Example], AnchorPrompt]
    rendering: str = ""


def default_profile(tokenizer: Tokenizer) -> Profile:
    """The default profile of a model: chat where its tokenizer has a chat template, else plain."""
    return "chat" if tokenizer.chat_template else "plain"


def token_limits(profile: Profile, *, context: int, demonstration: int | None, anchor: int | None) -> TokenLimits:
    """The limits for a model's context, in tokens; None means the default.

    Raises InputError if both together are longer than the context.
    """
    anchor = anchor or (RELEASED_ANCHOR_TOKENS if profile == "released" else min(512, context // 2))
    room = context - anchor
    demonstration = demonstration or (room if profile == "released" else min(2048, room))
    if demonstration < 1 or demonstration + anchor > context:
        raise InputError(
            f"demonstration_tokens={demonstration} and anchor_tokens={anchor} together do not fit the model's "
            f"context of {context} tokens: lower one of them"
        )
    return TokenLimits(demonstration, anchor)


def bind_profile(name: Profile, tokenizer: Tokenizer, limits: TokenLimits) -> PromptProfile:
    """The profile of that name, ready to turn examples into token ids.

    Every profile sees stripped texts only, so that examples with one id have the same tokens.
    """
    profile = {"released": _released, "plain": _plain, "chat": _chat}[name](tokenizer, limits)
    return replace(
        profile,
        demonstration=lambda example: profile.demonstration(example.stripped),
        anchor=lambda example: profile.anchor(example.stripped),
    )


def labelled_prompt(example: Example) -> str:
    """The text in front of a response in the profiles `released` and `plain`, as the authors' program writes it."""
    return _LABELS.prompt(example)


def _released(tokenizer: Tokenizer, limits: TokenLimits) -> PromptProfile:
    """Exactly the prompts of the authors' released program, its flaws included, so that results can be compared.

    Nothing is set aside: what is cut is counted only.
    """

    def demonstration(example: Example) -> PromptTokens:
        text = labelled_prompt(example) + example.output
        ids = tuple(tokenizer(text, add_special_tokens=True)["input_ids"])
        cut = max(0, len(ids) - limits.demonstration)
        cut_response = min(cut, len(plain_ids(tokenizer, example.output))) if cut else 0
        return PromptTokens(ids[: limits.demonstration], cut_prompt=cut - cut_response, cut_response=cut_response)

    def anchor(example: Example) -> AnchorPrompt:
        prompt = labelled_prompt(example)
        ids = plain_ids(tokenizer, prompt + example.output)
        # Flaw kept: the prompt tokenised alone may end in another token than in the whole text.
        start = max(1, len(plain_ids(tokenizer, prompt)))
        cut = max(0, len(ids) - limits.anchor)
        cut_response = min(cut, max(0, len(ids) - start))
        return AnchorPrompt(
            ids[: limits.anchor], cut_prompt=cut - cut_response, cut_response=cut_response, response_start=start
        )

    return PromptProfile("released", (), demonstration, anchor)


def _plain(tokenizer: Tokenizer, limits: TokenLimits) -> PromptProfile:
    """The same text without the flaws: exact boundary, a blank line between, same special tokens on both sides."""
    texts = text_tokenizer(tokenizer)
    opening = leading_special_ids(tokenizer)
    # Without the blank line the anchor would continue the demonstration's response.
    one_shot = prompt_form(texts, replace(_LABELS, after="\n\n"), limit=limits.demonstration, opening=opening)
    anchor = prompt_form(texts, _LABELS, limit=limits.anchor)
    return PromptProfile("plain", opening, partial(fill_form, one_shot), partial(fill_form, anchor))


def _chat(tokenizer: Tokenizer, limits: TokenLimits) -> PromptProfile:
    """User and assistant turns through the model's own template; only the assistant's text of the anchor is scored."""
    chat = read_chat_texts(tokenizer)
    fixed = [chat.opening, *astuple(chat.demonstration), *astuple(chat.anchor)]
    texts = text_tokenizer(tokenizer, fixed)
    one_shot = prompt_form(texts, chat.demonstration, limit=limits.demonstration, is_one_text=True)
    anchor = prompt_form(texts, chat.anchor, limit=limits.anchor)
    return PromptProfile(
        "chat",
        texts.markup(chat.opening),
        partial(fill_form, one_shot),
        partial(fill_form, anchor),
        rendering=digest({"template": chat.template, "date": TEMPLATE_DATE.isoformat(), "fixed": fixed}),
    )
