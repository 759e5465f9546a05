"""Prompt profiles: which token ids come before, in, and after the scored response."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import build_tokenizer
from tokenizers import processors

from nuggets.errors import InputError
from nuggets.examples import Example
from nuggets.models.prompts import (
    PromptProfile,
    TokenLimits,
    bind_profile,
    default_profile,
    labelled_prompt,
    token_limits,
)

FRANCE = Example("Name the capital of France.", "", "The capital of France is Paris.")
SUM = Example("Add the numbers.", "1 2 3", "The sum of the numbers is 6.")
UNTIDY = Example("\n Add the numbers. ", "\t1 2 3\n\n", "  The sum of the numbers is 6.\n")

FRANCE_PROMPT = "Instruction:\nName the capital of France.\nResponse:\n"
SUM_PROMPT = "Instruction:\nAdd the numbers.\nInput:\n1 2 3\nResponse:\n"

LIMITS = TokenLimits(demonstration=2048, anchor=512)
RELEASED_LIMITS = TokenLimits(demonstration=2048, anchor=200)

BARE, WITH_BOS = build_tokenizer(False, None), build_tokenizer(True, None)
TOKENIZERS = pytest.mark.parametrize("tokenizer", [BARE, WITH_BOS], ids=["bare", "bos"])
BOS = WITH_BOS.bos_token_id


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- released ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("example", "prompt"), [(FRANCE, FRANCE_PROMPT), (SUM, SUM_PROMPT), (UNTIDY, SUM_PROMPT)])
def test_labelled_prompt_is_the_text_of_the_authors_program(example: Example, prompt: str) -> None:
    assert labelled_prompt(example.stripped) == prompt


@TOKENIZERS
def test_released_demonstration_is_one_text_tokenised_with_special_tokens(tokenizer: Any) -> None:
    profile = bind_profile("released", tokenizer, RELEASED_LIMITS)
    whole = SUM_PROMPT + "The sum of the numbers is 6."
    assert profile.demonstration(SUM).ids == profile.demonstration(UNTIDY).ids == tuple(tokenizer(whole)["input_ids"])
    assert (profile.demonstration(SUM).ids[0] == BOS) is (tokenizer is WITH_BOS)
    assert tokenizer.decode(profile.demonstration(SUM).ids, skip_special_tokens=True) == whole
    assert profile.opening == ()


@TOKENIZERS
def test_released_anchor_is_one_text_tokenised_without_special_tokens(tokenizer: Any) -> None:
    profile = bind_profile("released", tokenizer, RELEASED_LIMITS)
    anchor = profile.anchor(UNTIDY)
    assert anchor.ids == ids_of(tokenizer, SUM_PROMPT + "The sum of the numbers is 6.")
    assert anchor.response_start == len(ids_of(tokenizer, SUM_PROMPT))


def test_released_keeps_the_trap_of_a_token_that_spans_the_boundary() -> None:
    anchor = bind_profile("released", BARE, RELEASED_LIMITS).anchor(FRANCE)
    prompt = ids_of(BARE, FRANCE_PROMPT)
    assert anchor.response_start == len(prompt)
    assert anchor.ids[: len(prompt)] != prompt  # else this tokenizer has no trap to keep


def test_released_anchor_is_cut_at_200_tokens_and_scored_up_to_there() -> None:
    long = Example("Count.", "", "one two three " * 200)
    anchor = bind_profile("released", WITH_BOS, RELEASED_LIMITS).anchor(long)
    whole = ids_of(WITH_BOS, "Instruction:\nCount.\nResponse:\n" + ("one two three " * 200).strip())
    assert len(whole) > 200
    assert anchor.ids == whole[:200]
    assert anchor.response_tokens == 200 - anchor.response_start > 0


def test_released_anchor_whose_prompt_alone_exceeds_the_cut_has_no_response_tokens() -> None:
    long = Example("one two three " * 200, "", "6")
    anchor = bind_profile("released", BARE, RELEASED_LIMITS).anchor(long)
    assert len(anchor.ids) == 200
    assert anchor.response_start == len(ids_of(BARE, labelled_prompt(long.stripped))) > 200
    assert anchor.response_tokens == 0


def test_released_demonstration_is_cut_at_its_limit() -> None:
    profile = bind_profile("released", WITH_BOS, TokenLimits(demonstration=9, anchor=200))
    assert profile.demonstration(SUM).ids == tuple(WITH_BOS(SUM_PROMPT + SUM.output)["input_ids"][:9])


# --- plain ------------------------------------------------------------------------------------------------------------


@TOKENIZERS
def test_plain_layout_of_zero_shot_and_one_shot(tokenizer: Any) -> None:
    profile = bind_profile("plain", tokenizer, LIMITS)
    opening = (BOS,) if tokenizer is WITH_BOS else ()
    assert profile.opening == opening
    parts = [ids_of(tokenizer, text) for text in (SUM_PROMPT, "The sum of the numbers is 6.", "\n\n")]
    assert profile.demonstration(UNTIDY).ids == (*opening, *parts[0], *parts[1], *parts[2])
    anchor = profile.anchor(UNTIDY)
    assert anchor.ids == (*parts[0], *parts[1])
    assert anchor.response_start == len(parts[0])


@TOKENIZERS
def test_plain_one_shot_reads_as_two_texts_with_a_blank_line_between(tokenizer: Any) -> None:
    profile = bind_profile("plain", tokenizer, LIMITS)
    text = tokenizer.decode((*profile.demonstration(FRANCE).ids, *profile.anchor(SUM).ids), skip_special_tokens=True)
    assert text == f"{FRANCE_PROMPT}The capital of France is Paris.\n\n{SUM_PROMPT}The sum of the numbers is 6."


def test_plain_opening_leaves_out_what_the_tokenizer_puts_behind_a_text() -> None:
    tokenizer = build_tokenizer(True, None)
    specials = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=specials)
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    profile = bind_profile("plain", tokenizer, LIMITS)
    assert profile.opening == (tokenizer.bos_token_id,)
    assert tokenizer.eos_token_id not in (*profile.demonstration(SUM).ids, *profile.anchor(SUM).ids)


words = st.text(max_size=20)


@given(words, words, words)
def test_plain_boundary_is_exact_for_any_text(instruction: str, given_input: str, output: str) -> None:
    example = Example(instruction, given_input, output)
    anchor = bind_profile("plain", BARE, LIMITS).anchor(example)
    assert BARE.decode(anchor.ids[: anchor.response_start]) == labelled_prompt(example.stripped)
    assert BARE.decode(anchor.ids[anchor.response_start :]) == output.strip()


def test_plain_demonstration_that_fits_exactly_is_not_cut() -> None:
    whole = bind_profile("plain", WITH_BOS, LIMITS).demonstration(SUM)
    assert bind_profile("plain", WITH_BOS, TokenLimits(len(whole.ids), 512)).demonstration(SUM) == whole


# --- chat -------------------------------------------------------------------------------------------------------------

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE_CHATML = CHATML[CHATML.index("{% for") :]  # nothing at all in front of the first turn
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token }}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2_SYSTEM = (  # the default system prompt stands within the first user turn
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first %}<<SYS>>\nYou are a helpful assistant.\n<</SYS>>\n\n{% endif %}{{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (  # <s> once, and </s> where a later turn starts: both end in "s>"
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (  # trims contents; <|begin_of_text|> and <|eot_id|> both end in "|>"
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}<|im_end|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>\n\n{% endif %}"
)
QWEN3 = (  # an empty think block in the last assistant turn only
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "bare_chatml": BARE_CHATML,
    "llama2": LLAMA2,
    "llama2_system": LLAMA2_SYSTEM,
    "mistral": MISTRAL,
    "llama3": LLAMA3,
    "qwen3": QWEN3,
}
CHAT_TOKENIZERS = {
    (name, bos): build_tokenizer(bos, TEMPLATES[name]) for name, bos in product(TEMPLATES, (True, False))
}
CHAT = pytest.mark.parametrize("tokenizer", CHAT_TOKENIZERS.values(), ids=[f"{n}-{b}" for n, b in CHAT_TOKENIZERS])

SUM_QUESTION = "Add the numbers.\n\n1 2 3"


def rendered(tokenizer: Any, *contents: str) -> str:
    """User and assistant turns by turns, as the template itself writes them in front of the next answer."""
    roles = ["user", "assistant"] * len(contents)
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@CHAT
def test_chat_zero_shot_is_the_template_s_rendering_of_the_question_and_the_response(tokenizer: Any) -> None:
    profile = bind_profile("chat", tokenizer, LIMITS)
    anchor = profile.anchor(UNTIDY)
    prompt = rendered(tokenizer, SUM_QUESTION)
    assert tokenizer.decode((*profile.opening, *anchor.ids)) == prompt + "The sum of the numbers is 6."
    assert tokenizer.decode((*profile.opening, *anchor.ids[: anchor.response_start])) == prompt


@CHAT
def test_chat_one_shot_is_the_template_s_rendering_of_two_exchanges(tokenizer: Any) -> None:
    profile = bind_profile("chat", tokenizer, LIMITS)
    anchor = profile.anchor(UNTIDY)
    one_shot = tokenizer.decode((*profile.demonstration(FRANCE).ids, *anchor.ids[: anchor.response_start]))
    assert one_shot == rendered(tokenizer, FRANCE.instruction, FRANCE.output, SUM_QUESTION)
    one_shot = tokenizer.decode((*profile.demonstration(UNTIDY).ids, *anchor.ids[: anchor.response_start]))
    assert one_shot == rendered(tokenizer, SUM_QUESTION, SUM.output, SUM_QUESTION)


@CHAT
def test_chat_special_tokens_stay_whole_where_the_parts_meet(tokenizer: Any) -> None:
    """Half of `<s>` would decode to the right text and be other tokens than the model knows."""
    profile = bind_profile("chat", tokenizer, LIMITS)
    anchor = profile.anchor(SUM)
    prompt = anchor.ids[: anchor.response_start]
    special = set(tokenizer.get_added_vocab().values())

    def specials(ids: tuple[int, ...]) -> list[int]:
        return [token for token in ids if token in special]

    alone = rendered(tokenizer, SUM_QUESTION)
    behind = rendered(tokenizer, FRANCE.instruction, FRANCE.output, SUM_QUESTION)
    assert specials((*profile.opening, *prompt)) == specials(ids_of(tokenizer, alone))
    assert specials((*profile.demonstration(FRANCE).ids, *prompt)) == specials(ids_of(tokenizer, behind))


@CHAT
def test_chat_scores_the_response_s_own_text_and_nothing_else(tokenizer: Any) -> None:
    anchor = bind_profile("chat", tokenizer, LIMITS).anchor(UNTIDY)
    assert anchor.ids[anchor.response_start :] == ids_of(tokenizer, "The sum of the numbers is 6.")


def test_chat_opening_holds_the_default_system_prompt_and_the_turns_are_not_in_it() -> None:
    tokenizer = CHAT_TOKENIZERS["chatml", True]
    assert tokenizer.decode(bind_profile("chat", tokenizer, LIMITS).opening) in (
        "<|im_start|>system\nYou are a helpful assistant.",  # the turn's end may count as the anchor's
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    )
    for name in ("llama3", "mistral"):
        tokenizer = CHAT_TOKENIZERS[name, False]
        (opening,) = bind_profile("chat", tokenizer, LIMITS).opening
        assert tokenizer.decode([opening]) == {"llama3": "<|begin_of_text|>", "mistral": "<s>"}[name]


# --- every profile ----------------------------------------------------------------------------------------------------


def bound(name: Any) -> PromptProfile:
    return bind_profile(name, CHAT_TOKENIZERS["chatml", True], LIMITS)


@pytest.mark.parametrize("name", ["released", "plain", "chat"])
def test_a_profile_knows_its_name_and_spaces_around_fields_change_nothing(name: Any) -> None:
    profile = bound(name)
    assert profile.name == name
    assert profile.demonstration(UNTIDY).ids == profile.demonstration(SUM).ids
    assert profile.anchor(UNTIDY) == profile.anchor(SUM)


@pytest.mark.parametrize("name", ["released", "plain", "chat"])
def test_an_empty_input_is_one_of_spaces_only(name: Any) -> None:
    blank = Example(FRANCE.instruction, " \n\t", FRANCE.output)
    assert bound(name).anchor(blank) == bound(name).anchor(FRANCE)


# --- defaults and limits ----------------------------------------------------------------------------------------------


def test_default_profile_is_chat_where_there_is_a_chat_template() -> None:
    assert default_profile(build_tokenizer(True, CHATML)) == "chat"
    assert default_profile(build_tokenizer(True, None)) == "plain"


@pytest.mark.parametrize(
    ("profile", "context", "demonstration", "anchor", "expected"),
    [
        ("released", 8192, None, None, TokenLimits(7992, 200)),
        ("plain", 8192, None, None, TokenLimits(2048, 512)),
        ("chat", 8192, None, None, TokenLimits(2048, 512)),
        ("released", 1024, None, None, TokenLimits(824, 200)),
        ("plain", 1024, None, None, TokenLimits(512, 512)),
        ("plain", 300, None, None, TokenLimits(150, 150)),
        ("plain", 1024, None, 100, TokenLimits(924, 100)),
        ("plain", 1024, 100, None, TokenLimits(100, 512)),
        ("chat", 1000, 700, 300, TokenLimits(700, 300)),
        ("released", 8192, 4000, 600, TokenLimits(4000, 600)),
    ],
)
def test_token_limits(
    profile: Any, context: int, demonstration: int | None, anchor: int | None, expected: TokenLimits
) -> None:
    assert token_limits(profile, context=context, demonstration=demonstration, anchor=anchor) == expected


@pytest.mark.parametrize(
    ("profile", "context", "demonstration", "anchor", "named"),
    [
        ("chat", 1000, 700, 301, "demonstration_tokens=700 and anchor_tokens=301 .* context of 1000"),
        ("plain", 1024, 513, None, "demonstration_tokens=513 and anchor_tokens=512 .* context of 1024"),
        ("plain", 1024, None, 1024, "anchor_tokens=1024 .* context of 1024"),
        ("released", 128, None, None, "anchor_tokens=200 .* context of 128"),
    ],
)
def test_token_limits_beyond_the_context_are_refused_with_the_numbers(
    profile: Any, context: int, demonstration: int | None, anchor: int | None, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        token_limits(profile, context=context, demonstration=demonstration, anchor=anchor)
