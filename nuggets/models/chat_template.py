"""The fixed texts that a model's chat template writes around user and assistant turns.

A template is rendered once, with probes in place of an example's texts. What stands between the probes is the fixed
texts; the texts of an example never pass through the template, which therefore can't trim, drop or reorder them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nuggets.errors import InputError
from nuggets.models.prompt_parts import FixedTexts
from nuggets.models.text_tokens import Tokenizer

# What a template that reads the clock gets, in every store: the date that Llama's templates write without a clock.
TEMPLATE_DATE = datetime(2024, 7, 26, tzinfo=UTC)
_BETWEEN = "\n\n"  # between an instruction and its input, in one user turn
# Letters of both cases, quotes, markup, blank lines and a letter outside ASCII: a template that changes texts, as
# `upper`, `tojson`, `escape` or `replace` do, changes a probe.
_PROBES = tuple(f'Nuggets\'s {name}: "1" <b>&amp;</b> {{}} _*\n\n  é End' for name in ("Q1", "A1", "Q2", "A2", "Q3"))


@dataclass(frozen=True, slots=True)
class ChatTexts:
    """What a template writes: in front of an anchor alone, around a demonstration, and around an anchor's texts."""

    template: str
    opening: str
    demonstration: FixedTexts
    anchor: FixedTexts


def read_chat_texts(tokenizer: Tokenizer) -> ChatTexts:
    """The fixed texts of the tokenizer's chat template.

    Templates differ in how they open conversations and close turns: the common end of what stands in front of the first
    and of the second question belongs to the anchor, and the text before it is the opening or the demonstration's.
    Both responses stand behind what the template writes in front of an answer that has a question behind it. The
    template's generation prompt is not used: that of some models opens a block of reasoning, or leaves out what they
    write in front of an answer.

    Raises InputError, with the way out, for a template that can't hold a demonstration and an anchor.
    """
    template = _default_template(tokenizer)
    before, middle, after, second_middle, second_after, _ = _split(_rendered(tokenizer, template, _PROBES), _PROBES)
    if (middle, after) != (second_middle, second_after):
        raise _refused("it writes something else around the second exchange than around the first")
    start = _common_end(tokenizer, before, after)
    return ChatTexts(
        template,
        before.removesuffix(start),
        FixedTexts(before, _BETWEEN, middle, after.removesuffix(start)),
        # The response is tokenised alone. SentencePiece puts the space in front of it, and a space before would be a
        # second one. With byte-level BPE the space is missing: the price of scoring the response's own tokens only.
        FixedTexts(start, _BETWEEN, middle.rstrip(" ")),
    )


def _default_template(tokenizer: Tokenizer) -> str:
    templates = tokenizer.chat_template
    if not templates:
        raise InputError("profile=chat needs a chat template, and the model's tokenizer has none: use profile plain")
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(
            f"profile=chat: the model's tokenizer has the chat templates {', '.join(sorted(templates))}, and none is "
            "called default: use profile plain"
        ) from error


def _rendered(tokenizer: Tokenizer, template: str, contents: Sequence[str]) -> str:
    """User and assistant turns by turns, as the template writes them."""
    # The library's own environment, so that a template means what it means elsewhere. The library's public functions
    # take no other clock, because they turn every variable into plain data.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    variables = {
        **tokenizer.special_tokens_map,
        "messages": [
            {"role": "assistant" if index % 2 else "user", "content": content} for index, content in enumerate(contents)
        ],
        "add_generation_prompt": True,
        "strftime_now": TEMPLATE_DATE.strftime,
        "tools": None,
        "documents": None,
    }
    try:
        return str(_compile_jinja_template(template).render(variables))
    except Exception as error:  # a template is a program and may raise anything
        raise _refused((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def _split(rendered: str, probes: Sequence[str]) -> list[str]:
    """The texts around the probes, which have to occur once and in their order."""
    if any(rendered.count(probe) != 1 for probe in probes):
        raise _refused("it does not write every text of an example, unchanged and once")
    parts = []
    for probe in probes:
        part, found, rendered = rendered.partition(probe)
        if not found:
            raise _refused("it writes the turns in another order")
        parts.append(part)
    return [*parts, rendered]


def _refused(reason: str) -> InputError:
    return InputError(
        f"profile=chat: the model's chat template can't hold two exchanges in turn ({reason}): use profile plain"
    )


def _common_end(tokenizer: Tokenizer, left: str, right: str) -> str:
    """The longest common end; added tokens are compared as units.

    `<s>` and `</s>` have the same end, and a part of one would be tokenised as ordinary letters.
    """
    pieces, others = _pieces(tokenizer, left), _pieces(tokenizer, right)
    length = 0
    while length < min(len(pieces), len(others)) and pieces[-1 - length] == others[-1 - length]:
        length += 1
    return "".join(pieces[len(pieces) - length :])


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text in added tokens and, between them, single characters."""
    added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    return re.findall("|".join([*map(re.escape, added), "."]), text, flags=re.DOTALL)
