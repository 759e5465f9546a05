"""README: its length, its tree of rooms, and its links hold true."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_the_tree_of_rooms_is_the_one_in_the_repository() -> None:
    block = README.split("## The rooms of the code")[1].split("```")[1]
    listed, parent = set[str](), ""
    for line in block.strip().splitlines():
        names = [name.rstrip("/") for name in re.findall(r"[\w.]+/?", line.split("  ")[0 if line[0] != " " else 1])]
        if line.startswith("  "):
            listed.add(f"{parent}/{names[0]}")
        else:
            listed.update(names)
            parent = names[-1]
    for folder in ("flows", "nuggets"):
        rooms = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if (path / "__init__.py").is_file()}
        assert rooms == {name for name in listed if name.startswith(f"{folder}/")}
    assert all((ROOT / name).exists() for name in listed), sorted(listed)


def test_every_link_of_readme_and_docs_leads_to_a_file() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_of_the_docs_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w.-]+\.md)\)", index)) - {"README.md"}


def test_every_option_that_the_pages_name_exists() -> None:
    from typer.main import get_command

    from flows.cli.commands import app

    known = {"--help"}
    for command in get_command(app).commands.values():  # type: ignore[attr-defined]
        known.update(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
    for name in ("README", "docs/pools", "docs/models", "docs/cuts", "docs/stores"):
        named = re.findall(r"`(--[a-z][a-z0-9-]*)", (ROOT / f"{name}.md").read_text(encoding="utf-8"))
        assert set(named) <= known, name
