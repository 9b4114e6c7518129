"""How fast something goes and how long it will still take; and times as people read them. Times are seconds."""

from __future__ import annotations

from collections import deque

WINDOW_S = 600.0
"""Only what was done in this time counts: slides differ, nodes join and leave."""
LEAST_S = 1e-3
"""Nothing takes less: the first units may be done before the clock has moved."""


class Pace:
    """The speed of something that was begun at ``started_s``, at first since then, later over the last `WINDOW_S`."""

    def __init__(self, started_s: float) -> None:
        self._marks: deque[tuple[float, int]] = deque([(started_s, 0)])

    def mark(self, now_s: float, n_done: int) -> None:
        """Remember how much was done by now; the window reaches back to one of these marks."""
        self._marks.append((now_s, n_done))
        while len(self._marks) > 1 and now_s - self._marks[1][0] >= WINDOW_S:
            self._marks.popleft()

    def per_s(self, now_s: float, n_done: int) -> float:
        """Return units per second."""
        then_s, n_then = self._marks[0]
        return (n_done - n_then) / max(now_s - then_s, LEAST_S)

    def left_s(self, now_s: float, n_done: int, *, n_left: int) -> float | None:
        """Return how long ``n_left`` more units will take; ``None`` while nothing is done."""
        rate = self.per_s(now_s, n_done)
        return n_left / rate if rate > 0 else None


def describe_rate(per_s: float) -> str:
    """Return a number of units per second with as many digits as it is worth.

    >>> describe_rate(1234.5), describe_rate(12.34), describe_rate(1.234), describe_rate(0.01234), describe_rate(0)
    ('1,234', '12', '1.2', '0.012', '0')
    """
    return f"{per_s:,.{0 if per_s >= 10 else 1}f}" if per_s >= 1 else f"{per_s:.2g}"


def describe_seconds(seconds: float) -> str:
    """Return a time as hours, minutes and seconds; days are so many hours.

    >>> describe_seconds(0.4), describe_seconds(59.6), describe_seconds(90061)
    ('0:00:00', '0:01:00', '25:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
