"""Records in the store: written, read back, and refused by the names of their fields."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from nuggets.errors import StoreError
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    label: str | None


@dataclass(frozen=True, slots=True)
class Drawing:
    FORMAT: ClassVar[int] = 3
    name: str
    colour: Colour
    kind: Literal["line", "area"]
    points: tuple[Point, ...]
    sizes: dict[str, int]
    extra: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


DRAWING = Drawing(
    "ä", Colour.BLUE, "line", (Point(1.5, None), Point(-2.0, "p")), {"w": 3}, {"any": [1, {"deep": None}]}, "n"
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def refusal(store: Store, **changes: Any) -> str:
    """The error of reading after some fields were changed; a field changed to `...` is left out."""
    write_record(store, "d.json", DRAWING)
    content = store.read_json("d.json") | changes
    content = {name: value for name, value in content.items() if value is not ...}
    store.write("d.json", json.dumps(content).encode())
    with pytest.raises(StoreError) as refused:
        read_record(store, "d.json", Drawing)
    start = f"{store.url}/d.json is not a Drawing that this version of nuggets reads ("
    assert str(refused.value).startswith(start)
    assert str(refused.value).endswith("): use the version that wrote it, or another store")
    return str(refused.value)[len(start) :].rpartition("): ")[0]


def test_a_record_is_read_as_it_was_written_with_its_format_number(store):
    write_record(store, "d.json", DRAWING)
    assert read_record(store, "d.json", Drawing) == DRAWING
    assert store.read_json("d.json")["format"] == 3


def test_a_field_with_a_default_is_optional_and_any_other_is_not(store):
    write_record(store, "d.json", DRAWING)
    content = store.read_json("d.json")
    del content["note"], content["extra"]
    store.write("d.json", json.dumps(content).encode())
    assert read_record(store, "d.json", Drawing) == Drawing(
        DRAWING.name, DRAWING.colour, DRAWING.kind, DRAWING.points, DRAWING.sizes
    )
    assert refusal(store, name=..., sizes=...) == "no field name, no field sizes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "it has format 2, this version reads format 3"),
        ({"format": ...}, "it has no format number, this version reads format 3"),
        ({"size": 1}, "unknown field size"),
        ({"points": [{"x": 1.0, "label": None, "y": 2.0}]}, "unknown field points.0.y"),
        ({"points": [{"label": None}]}, "no field points.0.x"),
        ({"colour": "green"}, "colour='green': Input should be 'red' or 'blue'"),
        ({"kind": "dot"}, "kind='dot': Input should be 'line' or 'area'"),
        ({"sizes": {"w": "3"}}, "sizes.w='3': Input should be a valid integer"),
    ],
)
def test_another_format_or_field_is_refused_by_its_name(store, changes, message):
    assert refusal(store, **changes) == message


def test_what_is_not_an_object_is_refused(store):
    store.write("d.json", b"[1]")
    with pytest.raises(StoreError, match="it is a JSON list, not an object"):
        read_record(store, "d.json", Drawing)
    with pytest.raises(FileNotFoundError):
        read_record(store, "none.json", Drawing)
