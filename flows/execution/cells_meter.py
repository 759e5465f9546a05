"""How many cells are scored, how fast, and how long the rest takes, in a line of text."""

import time
from dataclasses import dataclass

_MIN_SECONDS = 1.0  # a rate over a shorter time is not reliable


@dataclass
class CellsMeter:
    """Counts cells. The rate leaves out the time before the first cell, for example to load the model.

    `at_most` is the upper bound of a race, which each round lowers; None until a round has been planned.
    """

    total: int = 0
    done: int = 0
    at_most: int | None = None
    _uncounted: int = 0
    _started: float = 0.0

    def count(self, more: int, computed: int) -> None:
        """Add cells to compute, and cells computed since the last count."""
        self.total += more
        self.done += computed
        if computed and not self._started:
            self._started = time.monotonic()
            self._uncounted = self.done

    def expect(self, more: int) -> None:
        """Set the upper bound of the cells to compute in this round and all later ones."""
        known = self.done + more
        self.at_most = known if self.at_most is None else min(self.at_most, known)

    @property
    def goal(self) -> int:
        """The number of cells at the end, or its upper bound."""
        return max(self.done, self.total if self.at_most is None else self.at_most)

    @property
    def percent(self) -> float:
        """The share that is done, 0 to 100."""
        return 100 * self.done / self.goal if self.goal else 100.0

    def line(self) -> str:
        """The progress in a line."""
        return f"scored {self.done} of {self._most}{self.goal} cells ({self.percent:.0f} %){self.pace()}"

    def count_line(self) -> str:
        """The progress without the share, to be shown beside a bar."""
        return f"{self.done} of {self._most}{self.goal} cells{self.pace()}"

    def pace(self) -> str:
        """The rate and the remaining time; empty until both are known."""
        seconds = time.monotonic() - self._started if self._started else 0.0
        counted = self.done - self._uncounted
        if not counted or seconds < _MIN_SECONDS:
            return ""
        rate = counted / seconds
        rest = f", {self._most}{_duration((self.goal - self.done) / rate)} left" if self.done < self.goal else ""
        return f", {rate:.1f} cells/s{rest}"

    @property
    def _most(self) -> str:
        return "" if self.at_most is None or self.goal == self.done else "at most "


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
