"""Prompt profiles: how an example becomes the token ids of a demonstration or of an anchor. Pure.

All profiles have the same sequence of parts and differ in the content of the parts:

```
zero-shot:  [ opening       ][ anchor's prompt | anchor's response ]
one-shot:   [ demonstration ][ anchor's prompt | anchor's response ]
                                                 ^ only these tokens are scored
```
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from jinja2.exceptions import TemplateError

from nuggets.errors import InputError
from nuggets.examples import Example
from nuggets.models.prompt_tokens import AnchorPrompt, PromptTokens

Profile = Literal["released", "plain", "chat"]

RELEASED_ANCHOR_TOKENS = 200
_ONE_EXCHANGE = "profile=chat: the model's chat template can't hold two exchanges in turn"
_SENTINEL = "nuggets"  # placeholder for an anchor's text in a rendered chat template


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    chat_template: Any

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Token ids under the key `input_ids`."""
        ...

    def get_added_vocab(self) -> dict[str, int]:
        """Ids of the tokens that are matched in a text before it is tokenised further."""
        ...

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any:
        """A conversation rendered with the model's template."""
        ...


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Maximum tokens of a demonstration and of an anchor (prompt and response together); the rest is cut."""

    demonstration: int
    anchor: int


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """A profile bound to a tokenizer and limits.

    `opening`: ids in front of an anchor when there is no demonstration.
    """

    name: Profile
    opening: tuple[int, ...]
    demonstration: Callable[[Example], PromptTokens]
    anchor: Callable[[Example], AnchorPrompt]


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

    def demonstration(example: Example) -> PromptTokens:
        return profile.demonstration(example.stripped)

    def anchor(example: Example) -> AnchorPrompt:
        return profile.anchor(example.stripped)

    return PromptProfile(profile.name, profile.opening, demonstration, anchor)


def labelled_prompt(example: Example) -> str:
    """The text in front of a response in the profiles `released` and `plain`, as the authors' program writes it."""
    middle = f"Input:\n{example.input}\n" if example.input else ""
    return f"Instruction:\n{example.instruction}\n{middle}Response:\n"


def _released(tokenizer: Tokenizer, limits: TokenLimits) -> PromptProfile:
    """Exactly the prompts of the authors' released program, its flaws included, so that results can be compared."""

    def demonstration(example: Example) -> PromptTokens:
        text = labelled_prompt(example) + example.output
        return PromptTokens(_ids(tokenizer, text, special=True)[: limits.demonstration])

    def anchor(example: Example) -> AnchorPrompt:
        prompt = labelled_prompt(example)
        ids = _ids(tokenizer, prompt + example.output)[: limits.anchor]
        # Flaw kept: the prompt tokenised alone may end in another token than in the whole text.
        return AnchorPrompt(ids, response_start=max(1, len(_ids(tokenizer, prompt))))

    return PromptProfile("released", (), demonstration, anchor)


def _plain(tokenizer: Tokenizer, limits: TokenLimits) -> PromptProfile:
    """The same text without the flaws: exact boundary, a blank line between, same special tokens on both sides."""
    opening = _leading_special_ids(tokenizer)
    blank_line = _ids(tokenizer, "\n\n")

    def demonstration(example: Example) -> PromptTokens:
        ids = (*opening, *_ids(tokenizer, labelled_prompt(example)), *_ids(tokenizer, example.output))
        # Cut before the blank line, not after it: without it the anchor would continue the demonstration's response.
        return PromptTokens(ids[: max(0, limits.demonstration - len(blank_line))] + blank_line)

    def anchor(example: Example) -> AnchorPrompt:
        return _continuation(tokenizer, labelled_prompt(example), example.output, limits)

    return PromptProfile("plain", opening, demonstration, anchor)


def _chat(tokenizer: Tokenizer, limits: TokenLimits) -> PromptProfile:
    """User and assistant turns through the model's own template; only the assistant's text of the anchor is scored.

    Templates differ in how they open conversations, close turns and treat earlier turns. The parts are therefore cut
    out of rendered text: the common end of an anchor alone and of an anchor behind a demonstration belongs to the
    anchor, and the text before it is the opening or the demonstration. Added tokens are compared as units: `<s>` and
    `</s>` have the same end, and a part of one would be tokenised as ordinary letters.
    """
    if not tokenizer.chat_template:
        raise InputError("profile=chat needs a chat template, and the model's tokenizer has none: use profile plain")

    def render(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    try:
        alone = render(("user", _SENTINEL))
        # Two demonstrations with different last letters: an end that both share with `alone` is not their own text.
        behind = [render(("user", "x"), ("assistant", answer), ("user", _SENTINEL)) for answer in ("a", "b")]
    except TemplateError as error:
        raise InputError(f"{_ONE_EXCHANGE} ({error}): use profile plain") from error
    pieces = _pieces(tokenizer, alone)
    common = min(_common_suffix_length(pieces, _pieces(tokenizer, text)) for text in behind)
    opening = "".join(pieces[: len(pieces) - common])
    ending = alone.removeprefix(opening)
    if _SENTINEL not in ending or behind[0] == behind[1]:  # equal: the demonstration's answer is not in them
        raise InputError(f"{_ONE_EXCHANGE}: use profile plain")

    def demonstration(example: Example) -> PromptTokens:
        text = render(("user", _question(example)), ("assistant", example.output), ("user", _SENTINEL))
        return PromptTokens(_ids(tokenizer, text.removesuffix(ending))[: limits.demonstration])

    def anchor(example: Example) -> AnchorPrompt:
        prompt = render(("user", _question(example))).removeprefix(opening)
        return _continuation(tokenizer, prompt, example.output, limits)

    return PromptProfile("chat", _ids(tokenizer, opening), demonstration, anchor)


def _question(example: Example) -> str:
    return example.instruction + (f"\n\n{example.input}" if example.input else "")


def _continuation(tokenizer: Tokenizer, prompt: str, response: str, limits: TokenLimits) -> AnchorPrompt:
    # Tokenised separately, so that no token spans the boundary and the prompt reveals no letter of the response.
    before = _ids(tokenizer, prompt)
    return AnchorPrompt((before + _ids(tokenizer, response))[: limits.anchor], response_start=max(1, len(before)))


def _ids(tokenizer: Tokenizer, text: str, *, special: bool = False) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=special)["input_ids"]) if text else ()


def _leading_special_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts in front of every text, such as BOS; not those behind it."""
    bare, dressed = _ids(tokenizer, "a"), _ids(tokenizer, "a", special=True)
    for start in range(len(dressed) - len(bare) + 1):
        if dressed[start : start + len(bare)] == bare:
            return dressed[:start]
    return ()


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text in added tokens and, between them, single characters."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return re.findall("|".join([*map(re.escape, added), "."]), text, flags=re.DOTALL)


def _common_suffix_length(left: Sequence[str], right: Sequence[str]) -> int:
    length = 0
    while length < min(len(left), len(right)) and left[-1 - length] == right[-1 - length]:
        length += 1
    return length
