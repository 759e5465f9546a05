"""Numbers in sentences."""


def counted(count: int, what: str) -> str:
    """A number of things: 1 cell, 2 cells."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
