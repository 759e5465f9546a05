"""Prompts that are longer than their limit: the response stays, the prompt loses its middle, and it is counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_prompts import BARE, CHAT_TOKENIZERS, WITH_BOS, ids_of
from tiny_tokenizers import like_sentencepiece

from nuggets.examples import Example
from nuggets.models.prompt_cuts import TextLengths, cut_ends, kept_lengths
from nuggets.models.prompt_parts import CUT_MARK
from nuggets.models.prompt_tokens import MIN_RESPONSE_SHARE, PromptFault
from nuggets.models.prompts import Profile, TokenLimits, bind_profile

WHOLE = TokenLimits(demonstration=100_000, anchor=100_000)
LONG = " ".join(f"line {number} of the text that fills the whole prompt." for number in range(200))
SOUND = "The text has two hundred lines."
GIBBERISH = "xq zzv kkjw pqo"
BOUND: list[tuple[Profile, Any]] = [
    ("plain", WITH_BOS),
    ("plain", BARE),
    ("plain", like_sentencepiece()),
    *(("chat", CHAT_TOKENIZERS[name, True]) for name in ("chatml", "llama2", "mistral", "llama3", "qwen3")),
]
PROFILES = pytest.mark.parametrize(("name", "tokenizer"), BOUND)


def limited(name: Profile, tokenizer: Any, *, demonstration: int = 100_000, anchor: int = 100_000) -> Any:
    return bind_profile(name, tokenizer, TokenLimits(demonstration, anchor))


def closing(name: Profile, tokenizer: Any) -> str:
    """The text behind the response of a demonstration."""
    whole = limited(name, tokenizer).demonstration(Example("Count.", "", SOUND))
    return str(tokenizer.decode(whole.ids)).rpartition(SOUND)[2]


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (100, TextLengths(20, 30, 40)),  # all fits
        (90, TextLengths(20, 30, 40)),
        (89, TextLengths(20, 26, 40)),  # one token too many: the mark takes three more
        (63, TextLengths(20, 0, 40)),  # the input is a mark only
        (62, TextLengths(16, 0, 40)),  # then the instruction is cut
        (46, TextLengths(0, 0, 40)),
        (45, TextLengths(0, 0, 39)),  # then the end of the response
        (7, TextLengths(0, 0, 1)),
        (6, TextLengths(0, 0, 0)),
        (-5, TextLengths(0, 0, 0)),
    ],
)
def test_the_input_is_cut_first_then_the_instruction_then_the_response(room: int, kept: TextLengths) -> None:
    assert kept_lengths(TextLengths(20, 30, 40), room=room, mark=3) == kept


def test_a_text_that_is_no_longer_than_the_mark_is_kept_because_a_mark_would_save_nothing() -> None:
    assert kept_lengths(TextLengths(20, 3, 40), room=62, mark=3) == TextLengths(16, 3, 40)
    assert kept_lengths(TextLengths(2, 3, 40), room=44, mark=3) == TextLengths(2, 3, 39)


lengths = st.integers(0, 60)


@given(lengths, lengths, st.integers(1, 60), st.integers(-10, 200), st.integers(0, 8))
def test_what_is_kept_fits_and_no_token_is_cut_that_had_room(
    instruction: int, given_input: int, response: int, room: int, mark: int
) -> None:
    whole = TextLengths(instruction, given_input, response)
    kept = kept_lengths(whole, room=room, mark=mark)
    marks = mark * ((kept.instruction < instruction) + (kept.input < given_input))
    size = kept.instruction + kept.input + kept.response + marks
    assert 0 <= kept.instruction <= instruction and 0 <= kept.input <= given_input and 0 <= kept.response <= response
    assert size <= room or not kept.response
    if kept != whole and kept.response:
        assert size == room
    if kept.instruction < instruction:
        assert kept.input == 0 or given_input <= mark
    if kept.response < response:
        assert (kept.instruction == 0 or instruction <= mark) and (kept.input == 0 or given_input <= mark)


def test_a_cut_text_keeps_its_two_ends() -> None:
    ids = tuple(range(10))
    assert cut_ends(ids, 5) == ((0, 1, 2), (8, 9))
    assert cut_ends(ids, 1) == ((0,), ())
    assert cut_ends(ids, 0) == ((), ())


# --- demonstrations ---------------------------------------------------------------------------------------------------


@PROFILES
def test_a_sound_and_a_gibberish_answer_behind_a_long_prompt_differ(name: Profile, tokenizer: Any) -> None:
    profile = limited(name, tokenizer, demonstration=200)
    for instruction, given_input in [("Count the lines.", LONG), (LONG, ""), (LONG, LONG)]:
        sound, gibberish = (
            profile.demonstration(Example(instruction, given_input, answer)) for answer in (SOUND, GIBBERISH)
        )
        assert sound.ids != gibberish.ids
        assert len(sound.ids) == len(gibberish.ids) == 200
        assert sound.fault is gibberish.fault is None
        assert SOUND in tokenizer.decode(sound.ids) and GIBBERISH in tokenizer.decode(gibberish.ids)


@PROFILES
def test_the_input_loses_its_middle_and_the_rest_of_the_demonstration_stays(name: Profile, tokenizer: Any) -> None:
    example = Example("Count the lines.", LONG, SOUND)
    whole = limited(name, tokenizer).demonstration(example)
    cut = limited(name, tokenizer, demonstration=300).demonstration(example)
    text = tokenizer.decode(cut.ids)
    assert whole.cut_prompt == whole.cut_response == cut.cut_response == 0
    assert "Count the lines." in text and SOUND in text
    assert "line 0 of the" in text and "fills the whole prompt." in text and "[...]" in text
    assert "line 100 of" not in text
    mark = len(ids_of(tokenizer, CUT_MARK))
    # Tokens that span two parts of a whole prompt are separate in one that is cut.
    assert 0 <= cut.cut_prompt - (len(whole.ids) - 300 + mark) <= 12
    assert text[:10] == tokenizer.decode(whole.ids)[:10] and text.endswith(SOUND + closing(name, tokenizer))


@PROFILES
def test_a_response_that_does_not_fit_is_cut_at_its_end_and_the_turn_is_closed(name: Profile, tokenizer: Any) -> None:
    example = Example("Write a text.", "", LONG)
    tokens = len(ids_of(tokenizer, LONG))
    cut = limited(name, tokenizer, demonstration=round(0.8 * tokens)).demonstration(example)
    assert 0.2 * tokens < cut.cut_response < 0.3 * tokens
    assert cut.fault is None
    assert "line 0 of the text" in tokenizer.decode(cut.ids) and "line 199" not in tokenizer.decode(cut.ids)
    assert tokenizer.decode(cut.ids).endswith(closing(name, tokenizer))
    faulty = limited(name, tokenizer, demonstration=round(0.4 * tokens)).demonstration(example)
    assert faulty.fault is PromptFault.RESPONSE_CUT
    assert limited(name, tokenizer, demonstration=3).demonstration(example).fault is PromptFault.NO_ROOM


words = st.lists(st.sampled_from(["sum", "of", "the", "numbers", "zürich", "\n", "6."]), min_size=1, max_size=40)
texts = words.map(" ".join)


@PROFILES
@given(texts, st.one_of(st.just(""), texts), texts, st.integers(1, 130))
def test_no_limit_is_exceeded_and_the_response_is_in_or_there_is_a_fault(
    name: Profile, tokenizer: Any, instruction: str, given_input: str, output: str, limit: int
) -> None:
    example = Example(f"I {instruction} I", given_input and f"N {given_input} N", f"R {output} R")
    profile = limited(name, tokenizer, demonstration=limit, anchor=limit)
    response = len(ids_of(tokenizer, example.output))
    for tokens in (profile.demonstration(example), profile.anchor(example)):
        assert len(tokens.ids) <= limit
        kept = response - tokens.cut_response
        if tokens.fault is PromptFault.NO_ROOM:
            assert kept == 0
        else:
            assert (tokens.fault is PromptFault.RESPONSE_CUT) == (kept < MIN_RESPONSE_SHARE * response)
            assert tokens.cut_response or example.output in tokenizer.decode(tokens.ids)
            assert tokens.cut_prompt or example.instruction in tokenizer.decode(tokens.ids)
            assert not tokens.cut_prompt or "[...]" in tokenizer.decode(tokens.ids)
    anchor = profile.anchor(example)
    assert anchor.response_tokens == response - anchor.cut_response
    assert anchor.ids[anchor.response_start :] == ids_of(tokenizer, example.output)[: anchor.response_tokens]


@PROFILES
def test_the_closing_of_a_demonstration_is_the_same_for_every_length(name: Profile, tokenizer: Any) -> None:
    for limit in range(100, 400, 20):
        cut = limited(name, tokenizer, demonstration=limit).demonstration(Example("Count.", LONG, SOUND))
        assert tokenizer.decode(cut.ids).endswith(SOUND + closing(name, tokenizer)) and len(cut.ids) == limit


LETTERS = "\u4e16\u754c \U0001f600\U0001f680 \u043c\u0438\u0440 " * 12  # two to four bytes each, and a token per byte


@PROFILES
@pytest.mark.parametrize(
    ("instruction", "given_input", "output"), [("I", LETTERS, "R"), (LETTERS, "", "R"), ("I", "", LETTERS)]
)
def test_no_cut_falls_within_a_letter(
    name: Profile, tokenizer: Any, instruction: str, given_input: str, output: str
) -> None:
    example = Example(instruction, given_input, output)
    whole = len(limited(name, tokenizer).demonstration(example).ids)
    for limit in range(whole - 40, whole):
        profile = limited(name, tokenizer, demonstration=limit, anchor=limit)
        for tokens in (profile.demonstration(example), profile.anchor(example)):
            text = tokenizer.decode(tokens.ids)
            assert "\ufffd" not in text and len(tokens.ids) <= limit
            assert tokens.fault is None
    cut = limited(name, tokenizer, demonstration=whole - 20).demonstration(example)
    assert cut.cut_prompt + cut.cut_response >= 20


def test_letters_that_are_replacement_characters_themselves_are_kept() -> None:
    example = Example("Repeat.", "", "\ufffd" * 40)
    whole = limited("plain", BARE).demonstration(example)
    cut = limited("plain", BARE, demonstration=len(whole.ids) - 10).demonstration(example)
    assert cut.fault is None and 10 <= cut.cut_response < 20


# --- anchors and the profile of the authors ---------------------------------------------------------------------------


@PROFILES
def test_an_anchor_is_cut_like_a_demonstration_and_only_its_response_is_scored(name: Profile, tokenizer: Any) -> None:
    anchor = limited(name, tokenizer, anchor=200).anchor(Example("Count the lines.", LONG, SOUND))
    assert len(anchor.ids) == 200 and anchor.cut_prompt > 1000 and anchor.fault is None
    assert anchor.ids[anchor.response_start :] == ids_of(tokenizer, SOUND)
    assert anchor.continuation.response_tokens == len(ids_of(tokenizer, SOUND))
    long_response = limited(name, tokenizer, anchor=200).anchor(Example("Write a text.", "", LONG))
    assert long_response.fault is PromptFault.RESPONSE_CUT
    hopeless = limited(name, tokenizer, anchor=2).anchor(Example("Write a text.", "", SOUND))
    assert hopeless.fault is PromptFault.NO_ROOM and hopeless.response_tokens == 0


def test_released_counts_what_it_cuts_from_the_end_and_finds_no_fault() -> None:
    profile = bind_profile("released", WITH_BOS, TokenLimits(50, 40))
    prompt = len(ids_of(WITH_BOS, f"Instruction:\nCount.\nInput:\n{LONG}\nResponse:\n"))
    response = len(ids_of(WITH_BOS, SOUND))
    whole = len(WITH_BOS(f"Instruction:\nCount.\nInput:\n{LONG}\nResponse:\n{SOUND}")["input_ids"])
    cut = profile.demonstration(Example("Count.", LONG, SOUND))
    assert (cut.cut_prompt, cut.cut_response, cut.fault) == (whole - 50 - response, response, None)
    anchor = profile.anchor(Example("Count.", LONG, SOUND))
    assert (anchor.cut_prompt, anchor.cut_response, anchor.fault) == (prompt - 40, whole - 1 - prompt, None)
    short = profile.demonstration(Example("Count.", "", "6"))
    assert short.cut_prompt == short.cut_response == 0
