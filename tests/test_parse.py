"""Which rows hold an example, which don't, and the reasons given for those."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.examples import Example, FieldNames, PoolRow, Reject, RejectReason
from nuggets.pools.readers.parse import parse_row

NAN = math.nan


def alpaca(instruction: object = "Add.", input: object = "1 2", output: object = "3") -> dict[str, object]:
    return {"instruction": instruction, "input": input, "output": output}


def sharegpt(*turns: tuple[object, object]) -> dict[str, object]:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def openai(*turns: tuple[object, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": one} for one in texts]


USABLE = [
    (alpaca(), Example("Add.", "1 2", "3"), 0),
    (alpaca(" Add.\n", "\t", "e\u0301 \x00"), Example(" Add.\n", "\t", "e\u0301 \x00"), 0),  # kept exactly
    (alpaca(input=None), Example("Add.", "", "3"), 0),
    (alpaca(input=NAN), Example("Add.", "", "3"), 0),
    ({"instruction": "Add.", "output": "3"}, Example("Add.", "", "3"), 0),
    ({"instruction": "Q", "context": "C", "response": "R", "category": "qa"}, Example("Q", "C", "R"), 0),
    ({"instruction": "Q", "input": None, "context": "C", "output": NAN, "response": "R"}, Example("Q", "C", "R"), 0),
    ({"instruction": "Q", "input": "", "context": "C", "output": "R"}, Example("Q", "C", "R"), 0),
    ({"instruction": "Q", "input": " ", "context": "", "output": "R"}, Example("Q", " ", "R"), 0),
    ({"instruction": "Q", "input": "I", "context": "C", "output": "R"}, Example("Q", "I", "R"), 0),
    (alpaca() | {"messages": None, "conversations": NAN}, Example("Add.", "1 2", "3"), 0),
    ({"prompt": "Q", "completion": "A", "id": 7}, Example("Q", "", "A"), 0),
    ({"prompt": "Q", "response": "A"}, Example("Q", "", "A"), 0),
    ({"question": "Q", "context": "C", "answer": "A"}, Example("Q", "C", "A"), 0),
    ({"query": "Q", "response": "A", "original_question": "O", "type": "T"}, Example("Q", "", "A"), 0),
    ({"instruction": "I", "prompt": "P", "completion": "C"}, Example("I", "", "C"), 0),
    ({"instruction": "I", "output": "O", "response": "R", "answer": "A"}, Example("I", "", "O"), 0),
    (
        {"prompt": openai(("user", "Q"))["messages"], "completion": openai(("assistant", "A"))["messages"]},
        Example("Q", "", "A"),
        0,
    ),
    (sharegpt(("human", "Q"), ("gpt", "A")), Example("Q", "", "A"), 0),
    (sharegpt(("tool", "S"), ("human", "Q"), ("gpt", "A"), ("human", "R")), Example("Q", "", "A"), 2),
    (sharegpt(("gpt", "Hi"), ("human", "P"), ("human", "Q"), ("bard", "A")), Example("Q", "", "A"), 2),
    (sharegpt(("User", "Q"), ("ChatGPT", "A")), Example("Q", "", "A"), 0),
    (sharegpt(("human", "Q"), ("gpt", "A"), ("human", None), (None, 7)), Example("Q", "", "A"), 2),
    (openai(("user", "Q"), ("assistant", "A")) | {"prompt": "Q"}, Example("Q", "", "A"), 0),
    (openai(("user", text("Q", " and Q")), ("assistant", text("A"))), Example("Q and Q", "", "A"), 0),
    (openai(("function", "S"), ("user", "Q"), ("tool", "T"), ("user", "R"), ("model", "A")), Example("R", "", "A"), 3),
    ({"conversations": openai(("user", "Q"), ("assistant", "A"))["messages"]}, Example("Q", "", "A"), 0),
    (openai(("user", "Q"), ("assistant", "A")) | {"instruction": None}, Example("Q", "", "A"), 0),
    # An empty field is none where another one is filled.
    (openai(("user", "Q"), ("assistant", "A")) | alpaca("", "", ""), Example("Q", "", "A"), 0),
    (openai(("user", "Q"), ("assistant", "A")) | alpaca("I", "", ""), Example("Q", "", "A"), 0),
    (openai(("user", "Q"), ("assistant", "A")) | {"conversations": []}, Example("Q", "", "A"), 0),
    (openai(("user", "Q"), ("assistant", "A")) | {"conversations": " ", "prompt": ""}, Example("Q", "", "A"), 0),
    (alpaca("Q", "", "A") | {"messages": [], "prompt": ""}, Example("Q", "", "A"), 0),
    ({"instruction": "", "prompt": "Q", "output": "", "completion": "A"}, Example("Q", "", "A"), 0),
    ({"prompt": "Q", "question": " ", "response": "", "answer": "A"}, Example("Q", "", "A"), 0),
    ({"instruction": "Q", "output": "", "response": "A"}, Example("Q", "", "A"), 0),
    ({"prompt": [], "completion": [], "question": "Q", "answer": "A"}, Example("Q", "", "A"), 0),
    ({"conversations": [{"from": "human", "value": "", "content": "Q"}, {"from": "gpt", "value": "A"}]},
     Example("Q", "", "A"), 0),
    # Texts in turn, and turns as the text of a cell.
    ({"conversations": ["Q", "A"]}, Example("Q", "", "A"), 0),
    ({"conversations": ["Q", "A", "R", "B", "S"]}, Example("Q", "", "A"), 3),
    ({"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'},
     Example("Q", "", "A"), 0),
    ({"messages": " [{'role': 'user', 'content': \"Q's\"}, {'role': 'assistant', 'content': 'A'}]\n"},
     Example("Q's", "", "A"), 0),
    ({"conversations": '["Q", "A"]'}, Example("Q", "", "A"), 0),
]  # fmt: skip


@pytest.mark.parametrize(("value", "example", "dropped_turns"), USABLE)
def test_example_of_a_usable_row(value: dict[str, object], example: Example, dropped_turns: int) -> None:
    assert parse_row(value) == PoolRow(example, value, dropped_turns)


@pytest.mark.parametrize("role", ["gpt", "assistant", "chatgpt", "bing", "bard", "model"])
def test_all_names_of_the_assistant(role: str) -> None:
    value = sharegpt(("human", "Q"), (role, "A"))
    assert parse_row(value) == PoolRow(Example("Q", "", "A"), value)


def test_of_an_instruction_with_instances_the_first_is_used_and_the_others_are_counted() -> None:
    instances = [{"input": "I", "output": "O"}, {"input": "J", "output": "P"}, {"input": "", "output": "R"}]
    value: dict[str, object] = {"id": "seed_1", "instruction": "Q", "instances": instances, "is_classification": False}
    assert parse_row(value) == PoolRow(Example("Q", "I", "O"), value, dropped_instances=2)
    value = {"instruction": "Q", "instances": [{"output": "O"}]}
    assert parse_row(value) == PoolRow(Example("Q", "", "O"), value)
    value = {"instruction": "Q", "output": "A", "instances": instances}
    assert parse_row(value) == PoolRow(Example("Q", "", "A"), value)


WITH_SYSTEM = [
    (openai(("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")), 2, 1),
    (openai(("developer", "S"), ("user", "Q"), ("assistant", "A"), ("system", "T")), 0, 2),
    (sharegpt(("human", "Q"), ("gpt", "A")) | {"system": "S"}, 0, 1),
    (alpaca("Q", "", "A") | {"system": " "}, 0, 0),
    ({"system_prompt": "S", "question": "Q", "response": "A"}, 0, 1),
]


@pytest.mark.parametrize(("value", "dropped_turns", "system_messages"), WITH_SYSTEM)
def test_system_messages_are_no_turns(value: dict[str, object], dropped_turns: int, system_messages: int) -> None:
    assert parse_row(value) == PoolRow(Example("Q", "", "A"), value, dropped_turns, system_messages)


NO_OBJECT, MISSING_INSTRUCTION = RejectReason.NOT_AN_OBJECT, RejectReason.MISSING_INSTRUCTION
MISSING_OUTPUT, NOT_TEXT, UNDECODABLE = RejectReason.MISSING_OUTPUT, RejectReason.NOT_TEXT, RejectReason.UNDECODABLE
UNKNOWN_FIELDS, NO_EXCHANGE, TOOL_CALL = RejectReason.UNKNOWN_FIELDS, RejectReason.NO_EXCHANGE, RejectReason.TOOL_CALL

WANTED = "no 'instruction', 'prompt', 'question', 'query', 'conversations' or 'messages'"

UNUSABLE: list[tuple[object, RejectReason, str]] = [
    (None, NO_OBJECT, "the row is null, wanted an object with fields"),
    ("text", NO_OBJECT, "the row is a text ('text'), wanted an object with fields"),
    ([1, 2], NO_OBJECT, "the row is a list ([1, 2]), wanted an object with fields"),
    (4.5, NO_OBJECT, "the row is a number (4.5), wanted an object with fields"),
    (True, NO_OBJECT, "the row is a boolean (True), wanted an object with fields"),
    ({}, UNKNOWN_FIELDS, f"{WANTED}; the row's fields: none"),
    (
        {"instrution": "Q", "output": "A"},
        UNKNOWN_FIELDS,
        f"{WANTED}; the row's fields: 'instrution', 'output'",
    ),
    (alpaca(instruction=None), MISSING_INSTRUCTION, "'instruction' is null"),
    (alpaca(instruction=NAN), MISSING_INSTRUCTION, "'instruction' is NaN"),
    (alpaca(instruction=""), MISSING_INSTRUCTION, "'instruction' is empty"),
    (alpaca(instruction=" \n\u3000"), MISSING_INSTRUCTION, "'instruction' is only whitespace"),
    (
        {"instruction": "Q", "ouput": "A"},
        UNKNOWN_FIELDS,
        "no 'output', 'response', 'completion' or 'answer'; the row's fields: 'instruction', 'ouput'",
    ),
    (
        {"prompt": "Q", "question": "Q", "answer": "A"},
        UNKNOWN_FIELDS,
        "'prompt' and 'question' could each be meant: name one with --instruction-field",
    ),
    (
        {"question": "Q", "response": "R", "answer": "A"},
        UNKNOWN_FIELDS,
        "'response' and 'answer' could each be meant: name one with --output-field",
    ),
    ({"prompt": "Q", "completion": ""}, MISSING_OUTPUT, "'completion' is empty"),
    ({"prompt": None, "completion": "A"}, MISSING_INSTRUCTION, "'prompt' is null"),
    ({"prompt": 5, "completion": "A"}, NOT_TEXT, "'prompt' is a number (5), wanted text"),
    (alpaca(output=None), MISSING_OUTPUT, "'output' is null"),
    (alpaca(output=NAN), MISSING_OUTPUT, "'output' is NaN"),
    (alpaca(output=""), MISSING_OUTPUT, "'output' is empty"),
    (alpaca(output="\t"), MISSING_OUTPUT, "'output' is only whitespace"),
    ({"instruction": "Q", "response": ""}, MISSING_OUTPUT, "'response' is empty"),
    (alpaca(instruction=5), NOT_TEXT, "'instruction' is a number (5), wanted text"),
    (alpaca(instruction=["a"]), NOT_TEXT, "'instruction' is a list (['a']), wanted text"),
    (alpaca(input={"a": 1}), NOT_TEXT, "'input' is an object ({'a': 1}), wanted text"),
    (alpaca(input=False), NOT_TEXT, "'input' is a boolean (False), wanted text"),
    (alpaca(output=math.inf), NOT_TEXT, "'output' is a number (inf), wanted text"),
    ({"instruction": "Q", "context": 1, "response": "R"}, NOT_TEXT, "'context' is a number (1), wanted text"),
    (alpaca(output="a\ud800"), UNDECODABLE, "'output' holds half of a surrogate pair, which is not a character"),
    (
        alpaca() | {"tags": [{"\udfff": 1}]},
        UNDECODABLE,
        "'tags' holds half of a surrogate pair, which is not a character",
    ),
    ({"conversations": []}, MISSING_INSTRUCTION, "'conversations' is empty"),
    ({"conversations": [], "messages": None}, MISSING_INSTRUCTION, "'conversations' is empty"),
    (
        {"conversations": "Q: hello"},
        NO_EXCHANGE,
        "'conversations' is a text ('Q: hello'), wanted a list of turns",
    ),
    (
        {"messages": "[not a list"},
        NO_EXCHANGE,
        "'messages' is a text ('[not a list'), wanted a list of turns",
    ),
    ({"conversations": ["Q"]}, NO_EXCHANGE, "'conversations' has one text, the user's, and no answer to it"),
    ({"conversations": ["Q", " "]}, MISSING_OUTPUT, "'conversations[1]' is only whitespace"),
    (
        {"conversations": ["Q", {"from": "gpt", "value": "A"}]},
        NO_EXCHANGE,
        "'conversations[0]' is a text ('Q'), wanted an object with a role and a text",
    ),
    (
        {"messages": [{"speaker": "user", "text": "Q"}, {"speaker": "bot", "text": "A"}]},
        NO_EXCHANGE,
        "'messages[0]' has no role in 'from' or 'role'; its fields: 'speaker', 'text'",
    ),
    (
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "reply": "A"}]},
        MISSING_OUTPUT,
        "'messages[1]' has no text in 'value' or 'content'; its fields: 'role', 'reply'",
    ),
    *(
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", **call}]},
            TOOL_CALL,
            f"'messages[1]' has '{field}' and no text",
        )
        for field, call in [
            ("tool_calls", {"content": None, "tool_calls": [{"id": "1"}]}),
            ("tool_calls", {"content": "", "tool_calls": [{"id": "1"}]}),
            ("tool_calls", {"tool_calls": [{"id": "1"}]}),
            ("function_call", {"content": None, "function_call": {"name": "f"}}),
        ]
    ),
    (
        {"prompt": openai(("user", "Q"))["messages"], "completion": openai(("assistant", ""))["messages"]},
        MISSING_OUTPUT,
        "'completion[0].content' is empty",
    ),
    (
        {"prompt": openai(("user", "Q"))["messages"], "completion": openai(("user", "A"))["messages"]},
        NO_EXCHANGE,
        "'prompt' and 'completion' have no user turn directly followed by an assistant turn; its roles: 'user', 'user'",
    ),
    (
        {"instruction": "Q", "instances": [{"input": "", "output": ""}]},
        MISSING_OUTPUT,
        "'instances[0].output' is empty",
    ),
    (
        {"instruction": "Q", "instances": ["A"]},
        MISSING_OUTPUT,
        "'instances[0]' is a text ('A'), wanted an object with 'input' and 'output'",
    ),
    (sharegpt(("gpt", "A")), NO_EXCHANGE, "'conversations' has no user turn; its roles: 'gpt'"),
    (
        sharegpt(("gpt", "A"), ("human", "Q")),
        NO_EXCHANGE,
        "'conversations' has no user turn directly followed by an assistant turn; its roles: 'gpt', 'human'",
    ),
    (sharegpt(("human", " "), ("gpt", "A")), MISSING_INSTRUCTION, "'conversations[0].value' is only whitespace"),
    (sharegpt(("human", "Q"), ("gpt", None)), MISSING_OUTPUT, "'conversations[1].value' is null"),
    (sharegpt(("human", 3), ("gpt", "A")), NOT_TEXT, "'conversations[0].value' is a number (3), wanted text"),
    (openai(("user", "Q"), ("assistant", text())), MISSING_OUTPUT, "'messages[1].content' is empty"),
    (openai(("user", "Q"), ("assistant", {})), MISSING_OUTPUT, "'messages[1].content' is empty"),
    (
        openai(("user", "Q"), ("assistant", {"a": 1})),
        NOT_TEXT,
        "'messages[1].content' is an object ({'a': 1}), wanted text",
    ),
    (
        openai(("user", [*text("Look"), {"type": "image"}]), ("assistant", "A")),
        NOT_TEXT,
        "'messages[0].content' is a list ([{'type': 'image'}]), wanted text",
    ),
    (
        openai(("user", [{"type": "text", "text": None}]), ("assistant", "A")),
        NOT_TEXT,
        "'messages[0].content' is a list ([{'text': None, 'type': 'text'}]), wanted text",
    ),
]


@pytest.mark.parametrize(("value", "reason", "detail"), UNUSABLE)
def test_reason_of_an_unusable_row(value: object, reason: RejectReason, detail: str) -> None:
    assert parse_row(value) == Reject(reason, detail)


def test_a_system_prompt_that_is_named_as_the_input_is_used() -> None:
    value: dict[str, object] = {"system_prompt": "S", "question": "Q", "response": "A"}
    assert parse_row(value, FieldNames(input="system_prompt")) == PoolRow(Example("Q", "S", "A"), value)


NAMED: list[tuple[FieldNames, dict[str, object], Example]] = [
    (FieldNames("q", "more", "a"), {"q": "Q", "more": "M", "a": "A", "instruction": "I"}, Example("Q", "M", "A")),
    (FieldNames("q", "more", "a"), {"q": "Q", "a": "A", "input": "I", "context": "C"}, Example("Q", "", "A")),
    (FieldNames("input"), {"input": "Q", "output": "A"}, Example("Q", "", "A")),  # what is named means nothing else
    (FieldNames("input"), {"input": "Q", "context": "C", "output": "A"}, Example("Q", "C", "A")),
    (FieldNames("context", None, "input"), {"context": "Q", "input": "A"}, Example("Q", "", "A")),
    (FieldNames(output="answer"), {"question": "Q", "answer": "A", "response": "R"}, Example("Q", "", "A")),
    (FieldNames(output="instruction"), {"instruction": "A", "prompt": "Q"}, Example("Q", "", "A")),
    (FieldNames(input="response"), {"instruction": "Q", "response": "C", "answer": "A"}, Example("Q", "C", "A")),
    (FieldNames("prompt", None, "best"), openai(("user", "U")) | {"prompt": "Q", "best": "A"}, Example("Q", "", "A")),
]


@pytest.mark.parametrize(("names", "value", "example"), NAMED)
def test_named_fields_come_before_those_that_are_recognised(names: FieldNames, value: object, example: Example) -> None:
    assert parse_row(value, names) == PoolRow(example, value)


def test_the_reject_for_a_missing_named_field_lists_the_fields_of_the_row() -> None:
    names = FieldNames("q", "more", "a")
    assert parse_row(alpaca(), names) == Reject(
        UNKNOWN_FIELDS, "no 'q'; the row's fields: 'instruction', 'input', 'output'"
    )
    assert parse_row({"q": "Q", "A": "A"}, names) == Reject(UNKNOWN_FIELDS, "no 'a'; the row's fields: 'q', 'A'")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["instruction", "input", "output", "conversations", "messages", "from", "value", "\ud800", "instances"]
            )
            | st.sampled_from(["prompt", "completion", "answer", "role", "content"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_every_value_is_used_or_rejected(value: object) -> None:
    result = parse_row(value)
    if isinstance(result, PoolRow):
        assert result.original is value
        assert result.example.instruction.strip() and result.example.output.strip()
    else:
        assert 0 < len(result.detail) <= 200
        result.detail.encode()


@given(st.text(), st.text(), st.text())
def test_texts_are_kept_exactly(instruction: str, context: str, output: str) -> None:
    result = parse_row(alpaca(f"a{instruction}", context, f"b{output}"))
    assert result == PoolRow(
        Example(f"a{instruction}", context, f"b{output}"), alpaca(f"a{instruction}", context, f"b{output}")
    )


def test_a_detail_stays_short_however_long_the_value() -> None:
    result = parse_row(alpaca(output={"k" * 500: list(range(10_000))} | {f"{i}" * 50: i for i in range(50)}))
    assert isinstance(result, Reject)
    assert result.reason is NOT_TEXT
    assert result.detail.startswith("'output' is an object") and len(result.detail) <= 200
