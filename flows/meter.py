"""How many cells are done, how fast, and how long it will take: one line of words."""

import time
from dataclasses import dataclass


@dataclass
class CellsMeter:
    """Counts cells; its rate leaves out what came before the first one, such as loading the model."""

    total: int = 0
    done: int = 0
    _uncounted: int = 0
    _started: float = 0.0

    def count(self, more: int, computed: int) -> None:
        """So many more are to be computed, or were computed since the last count."""
        self.total += more
        self.done += computed
        if computed and not self._started:
            self._started = time.monotonic()
            self._uncounted = self.done

    @property
    def percent(self) -> float:
        """How much is done, 0 to 100."""
        return min(100.0, 100 * self.done / self.total) if self.total else 100.0

    def line(self) -> str:
        """For people."""
        text = f"scored {self.done} of {self.total} cells ({self.percent:.0f} %)"
        seconds = time.monotonic() - self._started if self._started else 0.0
        counted = self.done - self._uncounted
        if not counted or not seconds:
            return text
        rate = counted / seconds
        return f"{text}, {rate:.1f} cells/s, {_duration(max(0, self.total - self.done) / rate)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
