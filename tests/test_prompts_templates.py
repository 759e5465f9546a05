"""Chat templates are tried when a profile is bound: what they write is fixed, or they are refused with a way out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_prompts import BARE, CHATML, FRANCE, LIMITS, SUM, ids_of
from tiny_models import build_tokenizer

from nuggets.errors import InputError
from nuggets.examples import Example
from nuggets.models.prompts import bind_profile

DATED = "<|im_start|>system\nToday Date: {{ strftime_now('%d %b %Y') }}<|im_end|>\n" + CHATML[CHATML.index("{% for") :]


@contextmanager
def time_zone(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield
    time.tzset()


def test_a_template_that_reads_the_clock_writes_the_same_date_on_every_day(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_tokenizer(True, DATED)
    turns = [{"role": "user", "content": "x"}]
    days, bound = set(), []
    for zone in ("Etc/GMT+12", "Etc/GMT-14"):  # 26 hours apart: never the same day
        with time_zone(zone, monkeypatch):
            days.add(tokenizer.apply_chat_template(turns, tokenize=False))
            bound.append(bind_profile("chat", tokenizer, LIMITS))
    first, second = bound
    assert len(days) == 2  # else the template does not read the clock
    assert first.opening == second.opening and first.rendering == second.rendering
    assert first.demonstration(SUM) == second.demonstration(SUM) and first.anchor(SUM) == second.anchor(SUM)
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(first.demonstration(SUM).ids)
    assert "Today Date" not in tokenizer.decode(first.anchor(SUM).ids)


# --- templates that change what an example says -----------------------------------------------------------------------

TURNS = "{{% for m in messages %}}<|im_start|>{{{{ m['role'] }}}}\n{}<|im_end|>\n{{% endfor %}}"
GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def turns(content: str) -> str:
    """A template in the manner of ChatML that writes `content` as the text of a turn."""
    return TURNS.format(content) + GENERATION


@pytest.mark.parametrize(
    "content",
    [
        "{{ m['content'] | trim }}",
        "{{ m['content'].split('</think>')[-1] }}",
        "{% if '</think>' in m['content'] %}{{ m['content'].split('</think>')[-1] | trim }}"
        "{% else %}{{ m['content'] }}{% endif %}",
        "{% if m['content'] == 'Paris' %}London{% else %}{{ m['content'] }}{% endif %}",
    ],
)
def test_no_template_trims_or_drops_a_part_of_a_text(content: str) -> None:
    tokenizer = build_tokenizer(True, turns(content))
    profile = bind_profile("chat", tokenizer, LIMITS)
    for answer in ("<think>\nHm.\n</think>\n\nParis it is.", "Paris"):
        example = Example("Name  the capital\t\nof France.", "", answer)
        text = tokenizer.decode(profile.demonstration(example).ids)
        assert f"<|im_start|>user\n{example.instruction}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n" in text


def test_what_a_template_adds_by_itself_is_a_fixed_part() -> None:
    content = "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}"
    tokenizer = build_tokenizer(True, turns(content))
    profile = bind_profile("chat", tokenizer, LIMITS)
    text = tokenizer.decode(profile.demonstration(FRANCE).ids)
    assert f"<think>\n\n</think>\n\n{FRANCE.output}<|im_end|>" in text
    assert profile.demonstration(FRANCE).special_tokens == 0


REASONING = {  # what stands in front of an earlier answer, and the generation prompt, behind the name of the role
    "opens a think block": ("\n", "\n<think>\n"),
    "leaves out the channel of an answer": ("<|channel|>final<|message|>", ""),
    "leaves out a line break": ("\n", ""),
}


@pytest.mark.parametrize(("written", "generation"), REASONING.values(), ids=REASONING.keys())
def test_a_response_stands_behind_what_the_template_writes_in_front_of_an_answer(written: str, generation: str) -> None:
    template = (
        f"{{% for m in messages %}}<|im_start|>{{{{ m['role'] }}}}{written}{{{{ m['content'] }}}}<|im_end|>\n"
        f"{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant{generation}{{% endif %}}"
    )
    tokenizer = build_tokenizer(True, template)
    profile = bind_profile("chat", tokenizer, LIMITS)
    texts = [FRANCE.instruction, FRANCE.output, FRANCE.instruction, FRANCE.output, "Next?"]
    turns = [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)]
    conversation = tokenizer.apply_chat_template(turns, tokenize=False)
    ours = tokenizer.decode((*profile.demonstration(FRANCE).ids, *profile.anchor(FRANCE).ids))
    assert conversation.startswith(ours) and ours.endswith(f"assistant{written}{FRANCE.output}")
    alone = tokenizer.decode((*profile.opening, *profile.anchor(FRANCE).ids))
    assert conversation.startswith(alone)


REFUSED = {
    "changes the case": turns("{{ m['content'] | upper }}"),
    "quotes": turns("{{ m['content'] | tojson }}"),
    "escapes": turns("{{ m['content'] | e }}"),
    "joins lines": turns("{{ m['content'] | replace('\\n', ' ') }}"),
    "writes twice": turns("{{ m['content'] }} {{ m['content'] }}"),
    "drops the answer": turns("{{ m['content'] if m['role'] == 'user' else '' }}"),
    "reorders": "{% for m in messages | reverse %}<|im_start|>{{ m['content'] }}{% endfor %}" + GENERATION,
    "keeps one turn": "{% set m = messages[-1] %}<|im_start|>{{ m['content'] }}<|im_end|>" + GENERATION,
    "depends on the position": turns("{{ m['content'] }} [turn {{ loop.index }}]"),
    "raises": "{{ raise_exception('only one question, please') }}",
    "fails": "{{ messages[0]['content'] + 1 }}",
    "takes lists": "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}",
    "is no template": "{% for m in messages %}",
}


@pytest.mark.parametrize("template", REFUSED.values(), ids=REFUSED.keys())
def test_a_template_that_changes_texts_or_holds_no_two_exchanges_is_refused_in_one_line(template: str) -> None:
    with pytest.raises(InputError, match="^profile=chat: the model's chat template can't hold .*: use profile plain$"):
        bind_profile("chat", build_tokenizer(True, template), LIMITS)


def test_the_reason_of_a_template_is_in_the_refusal() -> None:
    with pytest.raises(InputError, match="only one question, please"):
        bind_profile("chat", build_tokenizer(True, REFUSED["raises"]), LIMITS)


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(InputError, match="needs a chat template.*use profile plain"):
        bind_profile("chat", BARE, LIMITS)


def test_named_templates_are_refused_by_name_unless_one_is_called_default() -> None:
    tokenizer: Any = build_tokenizer(True, None)
    tokenizer.chat_template = {"tool_use": CHATML, "rag": CHATML}
    with pytest.raises(InputError, match="^profile=chat: .*chat templates rag, tool_use, .*: use profile plain$"):
        bind_profile("chat", tokenizer, LIMITS)
    tokenizer.chat_template = {"tool_use": "", "default": CHATML}
    expected = bind_profile("chat", build_tokenizer(True, CHATML), LIMITS)
    assert bind_profile("chat", tokenizer, LIMITS).demonstration(SUM) == expected.demonstration(SUM)


# --- the rendering in the scoring key ---------------------------------------------------------------------------------


def test_the_rendering_follows_the_template_and_its_variables() -> None:
    template = CHATML.replace("<|im_end|>", "{{ eos_token }}")
    one, two = build_tokenizer(True, template), build_tokenizer(True, template)
    same = build_tokenizer(True, template)
    two.eos_token = "<|im_end|>"
    other = build_tokenizer(True, template + "{# a comment #}")
    renderings = [bind_profile("chat", tokenizer, LIMITS).rendering for tokenizer in (one, same, two, other)]
    assert renderings[0] == renderings[1]
    assert len({*renderings, ""}) == 4
    assert bind_profile("plain", one, LIMITS).rendering == bind_profile("released", one, LIMITS).rendering == ""


def test_no_template_runs_for_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = bind_profile("chat", build_tokenizer(True, CHATML), LIMITS)
    monkeypatch.setattr("jinja2.environment.Template.render", lambda *_, **__: pytest.fail("a template ran"))
    assert profile.demonstration(SUM).ids and profile.anchor(SUM).ids


def test_the_tokens_of_a_template_are_those_of_its_special_tokens() -> None:
    tokenizer = build_tokenizer(True, CHATML)
    ids = bind_profile("chat", tokenizer, LIMITS).demonstration(FRANCE).ids
    (start,), (end,) = ids_of(tokenizer, "<|im_start|>"), ids_of(tokenizer, "<|im_end|>")
    assert [token for token in ids if token in (start, end)][:4] == [start, end, start, end]
