"""What of a pool's files is not read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Files that are not read, how many they are, and why."""

    what: str
    count: int
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.count} ({self.why})"
