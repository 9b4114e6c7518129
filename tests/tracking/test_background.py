"""Sending in the background: order, what is dropped, what is told, and that nobody ever waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.tracking import background
from wsi_extract.tracking.background import MAX_WAITING, BackgroundSender

PLENTY_S = 60.0
"""More than anything here takes on the slowest machine."""

Target = list[object]


def adding(item: object) -> Callable[[Target], None]:
    return lambda target: target.append(item)


def assert_set(event: threading.Event) -> None:
    assert event.wait(PLENTY_S)


def failing(reason: str, _: Target) -> None:
    raise OSError(reason)


class Sent:
    """A sender into a list, which is opened when it may be."""

    def __init__(self) -> None:
        self.items: Target = []
        self.told: list[str] = []
        self.may_open = threading.Event()
        self.sender = BackgroundSender(self._open, on_trouble=self.told.append)

    def _open(self) -> Target:
        assert self.may_open.wait(PLENTY_S)
        return self.items

    def join(self) -> None:
        """Wait until the thread has ended."""
        for thread in threading.enumerate():
            if thread.name == "background sender":
                thread.join(PLENTY_S)


@given(st.lists(st.integers(), max_size=MAX_WAITING))
def test_everything_arrives_in_order(items: list[int]) -> None:
    sent = Sent()
    sent.may_open.set()
    for item in items:
        sent.sender.send(adding(item))
    sent.sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert (sent.items, sent.told) == (items, [])


def test_the_latest_replaces_what_waits_and_comes_after_the_rest() -> None:
    sent = Sent()
    for item in range(5):
        sent.sender.send_latest(adding(f"latest {item}"))
    sent.sender.send(adding("first"))
    sent.may_open.set()
    sent.sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert sent.items == ["first", "latest 4"]


def test_what_waits_is_bounded() -> None:
    sent = Sent()
    for item in range(10 * MAX_WAITING):
        sent.sender.send(adding(item))
    sent.may_open.set()
    sent.sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert sent.items == list(range(9 * MAX_WAITING, 10 * MAX_WAITING))


def test_trouble_is_told_once_and_what_comes_later_is_tried() -> None:
    sent = Sent()
    sent.may_open.set()
    for reason in ("first", "second"):
        sent.sender.send(partial(failing, reason))
    sent.sender.send(adding("well"))
    sent.sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert sent.told == ["OSError: first"]
    assert sent.items == ["well"]


def test_a_target_that_cannot_be_opened_is_told_and_costs_nothing() -> None:
    def fail() -> Target:
        raise ImportError("no such thing")

    told: list[str] = []
    sender = BackgroundSender(fail, on_trouble=told.append)
    sender.send(adding(1))
    sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    sender.send(adding(2))
    sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert told == ["ImportError: no such thing"]


@pytest.mark.parametrize(
    ("budget_s", "patience_s"),
    [pytest.param(0.2, PLENTY_S, id="budget"), pytest.param(PLENTY_S, 0.2, id="patience")],
)
def test_the_end_waits_no_longer_than_its_budget_and_its_patience(budget_s: float, patience_s: float) -> None:
    sent, answer = Sent(), threading.Event()
    sent.may_open.set()
    sent.sender.send(adding("in time"))
    sent.sender.send(lambda _: assert_set(answer))
    sent.sender.send(adding("too late"))
    started_s = time.monotonic()
    sent.sender.close(budget_s=budget_s, patience_s=patience_s)
    assert time.monotonic() - started_s < PLENTY_S / 2
    assert sent.told == ["TimeoutError: not all was taken within 0 s after the end of the run"]
    answer.set()
    sent.join()
    assert sent.items == ["in time"]
    assert len(sent.told) == 1


class Clock:
    """A clock that moves when told to."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_who_answers_slowly_is_waited_for_as_long_as_the_budget_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, clock = Sent(), Clock()
    monkeypatch.setattr(background, "time", clock)

    def take_long(items: Target) -> None:
        clock.now_s += 10
        items.append(clock.now_s)

    for _ in range(8):
        sent.sender.send(take_long)
    threading.Timer(0.2, sent.may_open.set).start()  # the end has begun by then
    sent.sender.close(budget_s=1000, patience_s=15)
    assert (len(sent.items), sent.told) == (8, [])


def test_opening_has_more_time_than_an_answer() -> None:
    sent = Sent()
    sent.sender.send(adding(1))
    threading.Timer(0.3, sent.may_open.set).start()
    sent.sender.close(budget_s=PLENTY_S, patience_s=0.1)
    assert (sent.items, sent.told) == ([1], [])


def test_nothing_sent_needs_no_thread() -> None:
    n_before = threading.active_count()
    Sent().sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert threading.active_count() == n_before


def test_what_never_worked_gets_a_short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent()
    sent.may_open.set()
    sent.sender.send(partial(failing, "down"))
    answer = threading.Event()
    sent.sender.send(lambda _: assert_set(answer))
    monkeypatch.setattr(background, "HOPELESS_END_S", 0.3)
    started_s = time.monotonic()
    sent.sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert time.monotonic() - started_s < PLENTY_S / 2
    assert sent.told == ["OSError: down"]
    answer.set()
    sent.join()


def test_what_came_up_again_gets_all_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "HOPELESS_END_S", 0.0)
    sent = Sent()
    sent.may_open.set()
    sent.sender.send(adding("well"))
    for _ in range(background.HOPELESS_FAILURES - 1):
        sent.sender.send(partial(failing, "down"))
    sent.sender.send(lambda _: time.sleep(0.2))
    sent.sender.send(adding("late"))
    sent.sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert sent.items == ["well", "late"]


def test_a_system_without_threads_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sent = Sent()
    for _ in range(3):
        sent.sender.send(adding(1))
    sent.sender.close(budget_s=PLENTY_S, patience_s=PLENTY_S)
    assert sent.told == ["RuntimeError: can't start new thread"]
