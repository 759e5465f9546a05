"""Turns a pool of sound instruction examples into one with known bad rows.

A scoring method is worth its cost only if it ranks bad examples low. To measure that, some sound examples are
replaced by versions that are damaged in one of five ways, and the labels list the damaged rows. The sound version of a
damaged row is not in the pool, so a near-duplicate cannot explain a low score. The same seed gives the same pool.
"""

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

ANSWER_OF_ANOTHER_QUESTION = "answer_of_another_question"
CUT_MID_SENTENCE = "cut_mid_sentence"
WORD_SALAD = "word_salad"
EMPTY_POLITENESS = "empty_politeness"
WRONG_LANGUAGE = "wrong_language"
KINDS = (ANSWER_OF_ANOTHER_QUESTION, CUT_MID_SENTENCE, WORD_SALAD, EMPTY_POLITENESS, WRONG_LANGUAGE)

POLITE_SENTENCES = (
    "Thank you so much for getting in touch, it is always a real pleasure to hear from you.",
    "What a wonderful thing to ask, and how kind of you to take the time to write it down so nicely.",
    "I truly appreciate your interest and hope that you are having a lovely day wherever you may be.",
    "It would be my greatest delight to be of service, and I thank you warmly for your patience and trust.",
    "Please accept my sincere thanks for this message; your kindness means a great deal to all of us here.",
    "I am honoured that you thought of me and wish you nothing but success, health and happiness.",
    "How thoughtful of you to bring this up; please know that every request is very important to us.",
    "Many thanks again for your friendly words, and do feel free to come back whenever you like.",
)

# One text per language, in the order Finnish, Polish, Turkish, Portuguese, Dutch, Swedish.
FOREIGN_TEXTS = (
    "Järven jää oli aamulla niin ohutta, että kalastajat jäivät rannalle odottamaan pakkasta.",
    "Wczoraj wieczorem w naszym ogrodzie zakwitły pierwsze piwonie. Sąsiadka przyniosła nam słoik miodu.",
    "Dedem her sabah limana iner, teknesini temizler ve martılara ekmek atar.",
    "O elétrico amarelo subiu a colina devagar, enquanto os músicos tocavam à janela do café.",
    "De molen achter het dorp is vorig jaar opgeknapt. Elke zaterdag wordt er weer tarwe gemalen.",
    "Färjan till ön går bara två gånger om dagen på vintern, och ibland ställs den in när det stormar.",
)

CUT_FROM_PERCENT = 35
CUT_TO_PERCENT = 60
MIN_WORDS_TO_CUT = 12
MIN_BORROWED_WORDS = 8

# Instructions that name a language are not damaged this way: an answer in a foreign language may be correct.
LANGUAGE_TASK = re.compile(r"\b(translat\w*|english|spanish|french|german|italian)\b", re.IGNORECASE)

Example = dict[str, str]


def cut_points(text: str) -> list[int]:
    """Character offsets at which a text can be cut in the middle of a sentence.

    An offset follows a word at 35 to 60 % of the words that neither closes a sentence nor ends a line. Texts of fewer
    than 12 words have none.
    """
    words = list(re.finditer(r"\S+", text))
    if len(words) < MIN_WORDS_TO_CUT:
        return []
    points = []
    for kept, (word, following) in enumerate(zip(words, words[1:], strict=False), start=1):
        in_range = CUT_FROM_PERCENT * len(words) <= 100 * kept <= CUT_TO_PERCENT * len(words)
        closed = word.group().rstrip("\"')]}»”’").endswith((".", "!", "?", ":", ";", "…"))
        ends_line = "\n" in text[word.end() : following.start()]
        if in_range and not closed and not ends_line:
            points.append(word.end())
    return points


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case and without punctuation."""
    return re.findall(r"[^\W_]+", re.sub(r"['’]", "", text.lower()))


def salad(text: str, others: list[str], rng: random.Random) -> str:
    """The words of a text, shuffled with about as many words of other texts."""
    own = plain_words(text)
    foreign = [word for other in others for word in plain_words(other)]
    mixed = own + rng.sample(foreign, min(len(foreign), max(MIN_BORROWED_WORDS, len(own))))
    rng.shuffle(mixed)
    return " ".join(mixed)


def can_be_cut(example: Example) -> bool:
    """Whether the answer can be cut in the middle of a sentence."""
    return bool(cut_points(example["output"]))


def no_language_task(example: Example) -> bool:
    """Whether an answer in a foreign language is wrong for this instruction."""
    return not LANGUAGE_TASK.search(example["instruction"])


def draw(rows: list[int], examples: list[Example], fits: Callable[[Example], bool], count: int) -> list[int]:
    """The first `count` rows whose example fits; removes them from `rows`."""
    drawn = [row for row in rows if fits(examples[row])][:count]
    if len(drawn) < count:
        raise ValueError(f"only {len(drawn)} of {count} suitable examples left to damage")
    for row in drawn:
        rows.remove(row)
    return drawn


def choose_sources(examples: list[Example], rng: random.Random, per_kind: int) -> dict[str, list[int]]:
    """The rows to damage, by kind; each row has at most one kind."""
    rows = list(range(len(examples)))
    rng.shuffle(rows)
    # The kinds that do not fit every example draw first.
    sources = {CUT_MID_SENTENCE: draw(rows, examples, can_be_cut, per_kind)}
    sources[WRONG_LANGUAGE] = draw(rows, examples, no_language_task, per_kind)
    for kind in (ANSWER_OF_ANOTHER_QUESTION, WORD_SALAD, EMPTY_POLITENESS):
        sources[kind] = draw(rows, examples, lambda example: True, per_kind)
    return sources


def swapped_answers(rows: list[int], donors: list[int], examples: list[Example]) -> list[str]:
    """For each row the answer of a donor. Each donor is used once, and its answer differs from the row's own answer."""
    answers = []
    free = list(donors)
    for row in rows:
        donor = next((d for d in free if examples[d]["output"] != examples[row]["output"]), None)
        if donor is None:
            raise ValueError("too few different answers to swap")
        free.remove(donor)
        answers.append(examples[donor]["output"])
    return answers


def damaged_outputs(examples: list[Example], rng: random.Random, per_kind: int) -> dict[int, tuple[str, str]]:
    """For each chosen example its kind of damage and its new answer."""
    sources = choose_sources(examples, rng, per_kind)
    chosen = {row for rows in sources.values() for row in rows}
    others = [example["output"] for row, example in enumerate(examples) if row not in chosen]

    # The donors get another kind of damage, so that no swapped-in answer is in the pool with its own instruction.
    donors = sources[WORD_SALAD] + sources[EMPTY_POLITENESS]
    swapped = swapped_answers(sources[ANSWER_OF_ANOTHER_QUESTION], donors, examples)
    originals = {kind: [examples[row]["output"] for row in rows] for kind, rows in sources.items()}
    answers = {
        ANSWER_OF_ANOTHER_QUESTION: swapped,
        CUT_MID_SENTENCE: [text[: rng.choice(cut_points(text))] for text in originals[CUT_MID_SENTENCE]],
        WORD_SALAD: [salad(text, others, rng) for text in originals[WORD_SALAD]],
        EMPTY_POLITENESS: rng.sample(POLITE_SENTENCES, per_kind),
        WRONG_LANGUAGE: rng.sample(FOREIGN_TEXTS, per_kind),
    }
    return {row: (kind, answer) for kind in KINDS for row, answer in zip(sources[kind], answers[kind], strict=True)}


def plant_defects(
    examples: list[dict[str, str]], *, seed: int, per_kind: int = 6
) -> tuple[list[dict[str, str]], dict[int, str]]:
    """A shuffled pool with `per_kind` examples of each kind of damage, and the kind of each damaged row (0-based).

    The pool has as many rows as `examples`, which are not changed.
    """
    most = min(len(POLITE_SENTENCES), len(FOREIGN_TEXTS))
    if not 0 <= per_kind <= most:
        raise ValueError(f"per_kind must lie between 0 and {most}, not {per_kind}")
    rng = random.Random(seed)
    damaged = damaged_outputs(examples, rng, per_kind)
    order = list(range(len(examples)))
    rng.shuffle(order)

    pool: list[Example] = []
    labels: dict[int, str] = {}
    for row, source in enumerate(order):
        example = dict(examples[source])
        if source in damaged:
            labels[row], example["output"] = damaged[source]
        pool.append(example)
    return pool, labels


def read_examples(path: Path) -> list[Example]:
    """The examples of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def write_text(path: Path, text: str) -> None:
    """Write a text, with the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> None:
    """Write the pool and the labels to two files."""
    parser = argparse.ArgumentParser(description="Damage some examples of a pool and write the pool and the labels.")
    parser.add_argument("--examples", type=Path, required=True, help="sound examples, JSONL")
    parser.add_argument("--seed", type=int, required=True, help="decides which examples are damaged, and how")
    parser.add_argument("--per-kind", type=int, default=6, help="damaged examples of each kind (default: 6)")
    parser.add_argument("--pool", type=Path, required=True, help="the pool to write, JSONL")
    parser.add_argument("--labels", type=Path, required=True, help="the labels to write: kind of damage by row, JSON")
    options = parser.parse_args(arguments)

    pool, labels = plant_defects(read_examples(options.examples), seed=options.seed, per_kind=options.per_kind)
    write_text(options.pool, "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in pool))
    write_text(options.labels, json.dumps(labels, indent=2) + "\n")
    print(f"{len(pool)} examples, {len(labels)} of them damaged")


if __name__ == "__main__":
    main()
