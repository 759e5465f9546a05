"""An example's texts between the fixed texts of a profile, as token ids within a limit. Pure.

```
[opening][before][instruction][between][input][middle][response][after]
```

A prompt that fits is tokenised as one text, as a model saw it in training. A prompt that is too long, or that spells
out special tokens, is tokenised part by part: only the fixed parts may hold special tokens, and a cut falls between two
tokens of one text.
"""

from dataclasses import dataclass

from nuggets.examples import Example
from nuggets.models.prompt_cuts import TextLengths, cut_ends, kept_lengths
from nuggets.models.prompt_tokens import MIN_RESPONSE_SHARE, AnchorPrompt, PromptFault
from nuggets.models.round_trip import Decoded, Reproduction, reproduction
from nuggets.models.text_tokens import TextTokenizer

CUT_MARK = " [...] "  # in place of what is cut out of the middle of a prompt


@dataclass(frozen=True, slots=True)
class FixedTexts:
    """The texts that a profile writes around an example's texts; `between` is left out if the input is empty."""

    before: str
    between: str
    middle: str
    after: str = ""

    def prompt(self, example: Example) -> str:
        """All that stands in front of the response."""
        given = self.between + example.input if example.input else ""
        return f"{self.before}{example.instruction}{given}{self.middle}"


@dataclass(frozen=True, slots=True)
class FixedIds:
    """The token ids of the fixed texts and of the mark."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    middle: tuple[int, ...]
    after: tuple[int, ...]
    mark: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PromptForm:
    """Fixed texts bound to a tokenizer and a limit in tokens.

    `opening`: ids in front of everything. `is_one_text`: the response is tokenised together with the texts around it;
    otherwise no token spans its boundaries. `structure`: the special tokens of the fixed texts, in their order.
    """

    tokenizer: TextTokenizer
    texts: FixedTexts
    ids: FixedIds
    limit: int
    opening: tuple[int, ...]
    structure: tuple[int, ...]
    is_one_text: bool


def prompt_form(
    tokenizer: TextTokenizer,
    texts: FixedTexts,
    *,
    limit: int,
    opening: tuple[int, ...] = (),
    is_one_text: bool = False,
) -> PromptForm:
    """The form of a profile's demonstrations or anchors."""
    parts = (texts.before, texts.between, texts.middle, texts.after, CUT_MARK)
    ids = FixedIds(*map(tokenizer.markup, parts))
    structure = tokenizer.structure_of((*ids.before, *ids.between, *ids.middle, *ids.after))
    return PromptForm(tokenizer, texts, ids, limit, opening, structure, is_one_text)


def fill_form(form: PromptForm, example: Example) -> AnchorPrompt:
    """The tokens of a stripped example. `response_start` has no meaning in a form that is one text."""
    return _whole(form, example) or _by_parts(form, example)


def _whole(form: PromptForm, example: Example) -> AnchorPrompt | None:
    """The tokens if they fit and the texts spell out no special token."""
    prompt, response, after = form.texts.prompt(example), example.output, form.texts.after
    if form.is_one_text:
        prompt, response, after = prompt + response + after, "", ""
    prompt_ids, response_ids, after_ids = map(form.tokenizer.markup, (prompt, response, after))
    ids = (*prompt_ids, *response_ids, *after_ids)
    if len(form.opening) + len(ids) > form.limit or form.tokenizer.structure_of(ids) != form.structure:
        return None
    texts = tuple(text for text in (example.instruction, example.input) if text)
    decode = form.tokenizer.decode
    if form.is_one_text:
        outcome = reproduction([Decoded(decode(ids), prompt, (*texts, example.output))])
    else:
        outcome = reproduction([Decoded(decode(prompt_ids), prompt, texts), Decoded(decode(response_ids), response)])
    return AnchorPrompt(
        (*form.opening, *ids),
        is_altered=outcome is Reproduction.ALTERED,
        fault=PromptFault.NOT_REPRODUCED if outcome is Reproduction.FAILED else None,
        response_start=max(1, len(form.opening) + len(prompt_ids)),
    )


def _by_parts(form: PromptForm, example: Example) -> AnchorPrompt:
    texts = (example.instruction, example.input, example.output)
    instruction, given, response = encoded = [form.tokenizer.text(text) for text in texts]
    outcome = reproduction(
        Decoded(form.tokenizer.decode(tokens.ids), text) for tokens, text in zip(encoded, texts, strict=True)
    )
    fixed, between = form.ids, form.ids.between if example.input else ()
    room = form.limit - sum(map(len, (form.opening, fixed.before, between, fixed.middle, fixed.after)))
    whole = TextLengths(len(instruction.ids), len(given.ids), len(response.ids))
    kept = kept_lengths(whole, room=room, mark=len(fixed.mark))
    shown_instruction = _without_middle(form, instruction.ids, kept.instruction)
    shown_input = _without_middle(form, given.ids, kept.input)
    shown_response = response.ids[: kept.response]
    if kept.response < whole.response:
        shown_response = form.tokenizer.without_partial_end(shown_response)
    prompt = (*form.opening, *fixed.before, *shown_instruction, *between, *shown_input, *fixed.middle)
    # Without a token of the response nothing is left to score, and marks and fixed parts may exceed the limit.
    ids = (*prompt, *shown_response, *fixed.after) if shown_response else ()
    marks = (kept.instruction < whole.instruction) + (kept.input < whole.input)
    shown = len(shown_instruction) + len(shown_input) - marks * len(fixed.mark)
    return AnchorPrompt(
        ids,
        cut_prompt=whole.instruction + whole.input - shown,
        cut_response=whole.response - len(shown_response),
        special_tokens=sum(tokens.special_tokens for tokens in encoded),
        is_altered=outcome is Reproduction.ALTERED,
        fault=_fault(outcome, len(shown_response), whole.response),
        response_start=max(1, len(prompt)),
    )


def _without_middle(form: PromptForm, ids: tuple[int, ...], kept: int) -> tuple[int, ...]:
    """The ends of a text around the mark, `kept` tokens at most and no part of a letter; all of it if all is kept."""
    if kept == len(ids):
        return ids
    head, tail = cut_ends(ids, kept)
    return (*form.tokenizer.without_partial_end(head), *form.ids.mark, *form.tokenizer.without_partial_start(tail))


def _fault(outcome: Reproduction, kept: int, whole: int) -> PromptFault | None:
    if outcome is Reproduction.FAILED:
        return PromptFault.NOT_REPRODUCED
    if not kept:
        return PromptFault.NO_ROOM
    return PromptFault.RESPONSE_CUT if kept < MIN_RESPONSE_SHARE * whole else None
