"""How many cells are done, how fast, and how long it will take: one line of words."""

import time
from dataclasses import dataclass

_LEAST_SECONDS = 1.0  # before which a rate says nothing


@dataclass
class CellsMeter:
    """Counts cells; its rate leaves out what came before the first one, such as loading the model.

    A race computes `at_most` so many, which every round makes fewer; None where each round is all that is known of.
    """

    total: int = 0
    done: int = 0
    at_most: int | None = None
    _uncounted: int = 0
    _started: float = 0.0

    def count(self, more: int, computed: int) -> None:
        """So many more are to be computed, or were computed since the last count."""
        self.total += more
        self.done += computed
        if computed and not self._started:
            self._started = time.monotonic()
            self._uncounted = self.done

    def expect(self, more: int) -> None:
        """So many more are to be computed at most, in this round and all that may follow."""
        known = self.done + more
        self.at_most = known if self.at_most is None else min(self.at_most, known)

    @property
    def goal(self) -> int:
        """How many there will be, or at most."""
        return max(self.done, self.total if self.at_most is None else self.at_most)

    @property
    def percent(self) -> float:
        """How much is done, 0 to 100."""
        return 100 * self.done / self.goal if self.goal else 100.0

    def line(self) -> str:
        """For people."""
        return f"scored {self.done} of {self._most}{self.goal} cells ({self.percent:.0f} %){self.pace()}"

    def count_line(self) -> str:
        """The same beside a bar, which shows the share."""
        return f"{self.done} of {self._most}{self.goal} cells{self.pace()}"

    def pace(self) -> str:
        """How fast, and how long it will take."""
        seconds = time.monotonic() - self._started if self._started else 0.0
        counted = self.done - self._uncounted
        if not counted or seconds < _LEAST_SECONDS:
            return ""
        rate = counted / seconds
        left = f", {self._most}{_duration((self.goal - self.done) / rate)} left" if self.done < self.goal else ""
        return f", {rate:.1f} cells/s{left}"

    @property
    def _most(self) -> str:
        return "" if self.at_most is None or self.goal == self.done else "at most "


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
