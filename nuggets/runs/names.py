"""Names of runs: which are allowed, how one is made from a pool's name, and why one that is taken can't be used."""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from nuggets.errors import UsageError

MAX_BYTES = 200  # in UTF-8; file systems allow 255, and suffixes are added
_STEM_CHARACTERS = 60
_DIGEST = re.compile(r"[0-9a-f]{32,64}")


def checked_name(field: str, name: str) -> str:
    """The name in Unicode's composed form. Raises UsageError unless it can be that of a file or folder in every store.

    Letters and digits of every script are allowed. Two spellings of one letter would be two folders that look alike.
    """
    name = unicodedata.normalize("NFC", name)
    has_letters = any(unicodedata.category(character)[0] in "LN" for character in name)
    if not has_letters or any(map(_is_foreign, name)) or name.startswith(".") or len(name.encode()) > MAX_BYTES:
        raise UsageError(
            f"{field}='{name}' can't be a name: use letters, digits, '-', '_', '.', not starting with '.', up to "
            f"{MAX_BYTES} bytes"
        )
    return name


def name_from(address: str) -> str:
    """The name of the file or folder at an address without its endings, with '-' for what a name can't hold."""
    stem = unicodedata.normalize("NFC", PurePosixPath(address.rstrip("/")).name.split(".")[0])
    words = "".join("-" if _is_foreign(character) else character for character in stem)
    return re.sub("-+", "-", words)[:_STEM_CHARACTERS].strip("-") or "pool"


def _is_foreign(character: str) -> bool:
    """Whether a name can't hold a character: neither letter, nor mark on one, nor digit, nor '-', '_', '.'."""
    return character not in "-_." and unicodedata.category(character)[0] not in "LMN"


def taken_name(name: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Why a run of this name can't be continued: what it was made from, and what is different now.

    `stored` and `given` hold a run's `identity` and `inputs`, before and now.
    """
    before, now = stored["identity"], given["identity"]
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    differences = "; ".join(_difference(key, stored, given) for key in changed)
    made_from = " and ".join(f"{what} {word}" for what in ("pool", "model") if (word := _named(stored, what)))
    return (
        f"run '{name}' exists with other inputs{made_from and f': it was made from {made_from}'} ({differences}). Give "
        "another --run name, or the same inputs to continue this run"
    )


def _difference(key: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    before, now = _words(key, stored), _words(key, given)
    shown = key.replace("_", " ")
    if before == now:  # names are the same, digests are not
        return f"{shown}: {now}, with other content"
    return f"{shown}: {now}, was {before}"


def _words(key: str, run: Mapping[str, Any]) -> str:
    """The value of a part of a run's identity, with names in place of digests."""
    value = run["identity"].get(key)
    if value is None:
        return "not set"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if name := _named(run, key):
        return name
    name = _named(run, "anchor_file" if str(value).startswith("file ") else "encoder") if key == "anchors" else ""
    return _DIGEST.sub(lambda digest: name or digest[0][:8], str(value))


def _named(run: Mapping[str, Any], what: str) -> str:
    """The name of an input, such as the pool's address; empty if it has none."""
    value = run["inputs"].get(what)
    if isinstance(value, Mapping):
        value = value.get("source") or value.get("name")
    return str(value or "")
