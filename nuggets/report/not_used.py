"""What a run did not use, or used in part, as its log and its report show it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotUsed:
    """Something that was cut, dropped, merged or left out, how often, and where it can be looked up."""

    what: str
    count: int
    which: str = ""


def not_used_line(items: Sequence[NotUsed]) -> str:
    """Text for the log."""
    return f"not used: {'; '.join(f'{item.count} {item.what}' for item in items) or 'nothing was cut or left out'}"
