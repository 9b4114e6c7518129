"""What the driver counts while tasks come back: how many slides are done, in a time that does not depend on others."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.console.reporters import SilentReporter
from wsi_extract.slide_tally import SlideTally


class CountingReporter(SilentReporter):
    """Keeps what it was told of slides."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[tuple[int, int]] = []

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Keep it."""
        self.counts.append((n_done, total))


@given(sizes=st.lists(st.integers(0, 3), min_size=1, max_size=6), data=st.data())
def test_every_slide_that_is_done_is_counted_once(sizes: list[int], data: st.DataObject) -> None:
    reporter = CountingReporter()
    tally = SlideTally({f"s{i}": n for i, n in enumerate(sizes)}, faults={}, reporter=reporter)
    units = [i for i, n in enumerate(sizes) for _ in range(n)]
    for i in data.draw(st.permutations(units)):
        n_open = sum(n > 0 for n in tally.n_left.values())
        tally.advance(f"s{i}", n_units=1)
        if sum(n > 0 for n in tally.n_left.values()) < n_open:
            assert reporter.counts[-1] == (sum(n == 0 for n in tally.n_left.values()), len(sizes))
    assert len(reporter.counts) == sum(n > 0 for n in sizes)


def test_counting_takes_the_same_time_however_many_slides_there_are() -> None:
    n_slides = 20_000
    tally = SlideTally({f"s{i}": 1 for i in range(n_slides)}, faults={}, reporter=SilentReporter())
    started_s = time.thread_time()
    for i in range(n_slides):
        tally.advance(f"s{i}", n_units=1)
    assert time.thread_time() - started_s < 2  # 10 s when all slides are counted each time
