"""Failures become values, and the class of a failure decides what the run does."""

import errno
import os
import pickle
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import pytest
import tifffile
from openslide import OpenSlideError

from wsi_extract import tasks
from wsi_extract.causes import SHORTAGES, TRANSIENT
from wsi_extract.disk.files import canonical_json
from wsi_extract.errors import (
    AnnotationError,
    ConfigError,
    EnvironmentFaultError,
    InputError,
    IntegrityError,
    SlideError,
    SplitError,
    WsiExtractError,
)
from wsi_extract.model import Fault, FaultClass, SlideFile, SlideInfo
from wsi_extract.slides.open_slides import OpenedSlide, SlideCache, describe_slide
from wsi_extract.tasks import SerialExecutor, Task, TaskResult, attempt, fault_from, survivable_fault


@pytest.fixture
def slides() -> Iterator[SlideCache]:
    with SlideCache() as cache:
        yield cache


def task_of(function: Callable[[object, SlideCache], object], *, item: object = None, index: int = 0) -> Task:
    return Task(stage="extract", slide_ordinal=0, slide_id="s1", index=index, function=function, item=item)


def raising(*errors: BaseException, value: object = "done") -> tuple[Callable[[object, SlideCache], object], list[int]]:
    """A function that raises the given errors on its first calls, then returns, and the list of its calls."""
    calls: list[int] = []
    numbers = count()

    def function(_item: object, _slides: SlideCache) -> object:
        calls.append(next(numbers))
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return value

    return function, calls


def os_error(number: int) -> OSError:
    return OSError(number, "text of the system", "/out/file")


# --- whose fault it is ---------------------------------------------------------------------------------------------


def unreadable(number: int) -> SlideError:
    """What a slide reader raises when the system complains."""
    error = SlideError("slide s1: cannot be read.", "Replace it.")
    error.__cause__ = OSError(number, os.strerror(number))
    return error


def said_by_openslide(number: int) -> SlideError:
    error = SlideError("slide s1: cannot be read.", "Replace it.")
    error.__cause__ = OpenSlideError(f"Couldn't open s1.svs: {os.strerror(number)}")
    return error


CASES = [
    pytest.param(SlideError("slide s1: unreadable.", "Replace it."), FaultClass.SLIDE, "Replace it.", id="slide"),
    pytest.param(unreadable(errno.EIO), FaultClass.SLIDE, "Replace it.", id="a slide on a bad disk"),
    pytest.param(unreadable(errno.EACCES), FaultClass.SLIDE, "Replace it.", id="a slide nobody may read"),
    pytest.param(unreadable(errno.ENOENT), FaultClass.SLIDE, "Replace it.", id="a slide that was removed"),
    pytest.param(unreadable(errno.EMFILE), FaultClass.ENVIRONMENT, "ulimit", id="a slide, but no file can be opened"),
    pytest.param(said_by_openslide(errno.EMFILE), FaultClass.ENVIRONMENT, "ulimit", id="the same in OpenSlide's words"),
    pytest.param(
        said_by_openslide(errno.ENOMEM), FaultClass.SLIDE, "Replace it.", id="a slide that asks for terabytes"
    ),
    pytest.param(os_error(errno.ENOSPC), FaultClass.ENVIRONMENT, "Make room", id="disk full"),
    pytest.param(os_error(errno.EDQUOT), FaultClass.ENVIRONMENT, "quota", id="quota"),
    pytest.param(os_error(errno.EROFS), FaultClass.ENVIRONMENT, "read-only", id="read-only"),
    pytest.param(os_error(errno.EACCES), FaultClass.ENVIRONMENT, "Let this user", id="no permission"),
    pytest.param(os_error(errno.EMFILE), FaultClass.ENVIRONMENT, "ulimit", id="too many files"),
    pytest.param(os_error(errno.ENOENT), FaultClass.ENVIRONMENT, "unmounted", id="the output folder was deleted"),
    pytest.param(os_error(errno.EIO), FaultClass.ENVIRONMENT, "Check the disk", id="a disk that does not write"),
    pytest.param(os_error(errno.EXDEV), FaultClass.ENVIRONMENT, "Check the disk", id="anything else of the system"),
    pytest.param(OSError("image file is truncated"), FaultClass.SLIDE, "leave it out", id="a library's OSError"),
    pytest.param(RuntimeError("can't start new thread"), FaultClass.ENVIRONMENT, "ulimit -u", id="too many threads"),
    pytest.param(EnvironmentFaultError("No workers.", "Start some."), FaultClass.ENVIRONMENT, "Start some.", id="ours"),
    pytest.param(EnvironmentFaultError("No workers."), FaultClass.ENVIRONMENT, "same command", id="ours, no remedy"),
    pytest.param(MemoryError(), FaultClass.SLIDE, "memory", id="out of memory"),
    pytest.param(IntegrityError("differs.", "Delete it."), FaultClass.INTEGRITY, "Delete it.", id="integrity"),
    pytest.param(KeyError("x"), FaultClass.SLIDE, "bug", id="a bug"),
    pytest.param(ValueError(), FaultClass.SLIDE, "bug", id="a bug without words"),
]


@pytest.mark.parametrize(("error", "fault_class", "remedy"), CASES)
def test_errors_become_faults_of_their_class(error: Exception, fault_class: FaultClass, remedy: str) -> None:
    fault = fault_from(error, slide_id="s1", stage="extract")
    assert (fault.slide_id, fault.stage, fault.error_type) == ("s1", "extract", type(error).__name__)
    assert fault.fault_class is fault_class
    assert remedy in fault.remedy
    assert fault.message
    assert canonical_json(asdict(fault))  # fit for errors.jsonl


def test_message_and_remedy_are_kept_apart() -> None:
    fault = fault_from(SlideError("slide s1: unreadable.", "Replace it."), slide_id="s1", stage="describe")
    assert (fault.message, fault.remedy) == ("slide s1: unreadable.", "Replace it.")
    assert fault_from(MemoryError(), slide_id="s1", stage="survey").message == "out of memory"
    assert fault_from(ValueError(), slide_id="s1", stage="survey").message == "ValueError"
    full = fault_from(os_error(errno.ENOSPC), slide_id="s1", stage="extract", n_attempts=3)
    assert full.message == "/out/file: text of the system (ENOSPC)"
    assert (full.errno_name, full.n_attempts) == ("ENOSPC", 3)


@pytest.mark.parametrize("number", sorted(TRANSIENT | SHORTAGES | {errno.ENOSPC, errno.EACCES, errno.EXDEV}))
def test_no_error_of_the_system_is_called_a_bug(number: int) -> None:
    for error in (os_error(number), unreadable(number)):
        fault = fault_from(error, slide_id="s1", stage="extract")
        assert "bug" not in fault.remedy
        assert fault.errno_name == errno.errorcode[number]


def test_a_bug_tells_where_it_is(slides: SlideCache) -> None:
    fault = attempt(task_of(lambda item, cache: cache.get(item)), slides).fault  # type: ignore[arg-type]  # a bug
    assert fault is not None
    assert re.fullmatch(r"'NoneType' .*'path' \(at wsi_extract/slides/open_slides\.py:\d+\)", fault.message)
    assert fault.fault_class is FaultClass.SLIDE


@pytest.mark.parametrize(
    "kind",
    [
        AnnotationError,
        ConfigError,
        EnvironmentFaultError,
        InputError,
        IntegrityError,
        SlideError,
        SplitError,
        WsiExtractError,
    ],
)
def test_our_errors_survive_the_way_between_processes(kind: type[WsiExtractError]) -> None:
    for error in (kind("what.", "remedy."), kind("what.")):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (back.message, back.remedy, str(back)) == (error.message, error.remedy, str(error))


# --- attempts ------------------------------------------------------------------------------------------------------


def test_a_task_gets_its_item_and_returns_its_value(slides: SlideCache) -> None:
    task = task_of(lambda item, cache: (item, cache is slides), item="item")
    assert attempt(task, slides) == TaskResult(task=task, value=("item", True))


@pytest.mark.parametrize("error", [SlideError("hiccup."), OSError("image file is truncated"), KeyError("x")])
def test_one_failure_is_tried_again(slides: SlideCache, error: Exception) -> None:
    function, calls = raising(error)
    result = attempt(task_of(function), slides)
    assert (result.value, result.fault, len(calls)) == ("done", None, 2)


def test_two_failures_are_a_fault_that_tells_the_last(slides: SlideCache) -> None:
    function, calls = raising(SlideError("first."), SlideError("second."))
    result = attempt(task_of(function), slides)
    assert result.value is None
    assert result.fault is not None
    assert (result.fault.message, result.fault.slide_id, result.fault.stage) == ("second.", "s1", "extract")
    assert len(calls) == 2


@pytest.mark.parametrize(
    "error",
    [os_error(errno.ENOSPC), unreadable(errno.EMFILE), IntegrityError("differs."), EnvironmentFaultError("x.")],
)
def test_what_a_second_attempt_cannot_mend_is_not_tried_again(slides: SlideCache, error: Exception) -> None:
    function, calls = raising(error)
    result = attempt(task_of(function), slides)
    assert result.fault is not None
    assert result.fault.fault_class is not FaultClass.SLIDE
    assert len(calls) == 1


@pytest.fixture
def short_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BACKOFF_S", (0.001, 0.001, 0.001))


@pytest.mark.usefixtures("short_breaks")
@pytest.mark.parametrize("error_of", [os_error, unreadable, said_by_openslide], ids=["ours", "slide", "OpenSlide"])
@pytest.mark.parametrize("number", sorted(TRANSIENT), ids=errno.errorcode.get)
def test_what_may_pass_is_tried_three_times_more(
    slides: SlideCache, number: int, error_of: Callable[[int], Exception]
) -> None:
    function, calls = raising(*[error_of(number)] * 3)
    assert attempt(task_of(function), slides).value == "done"
    assert len(calls) == 4


@pytest.mark.usefixtures("short_breaks")
@pytest.mark.parametrize(
    ("error", "fault_class"),
    [(unreadable(errno.EIO), FaultClass.SLIDE), (os_error(errno.EIO), FaultClass.ENVIRONMENT)],
    ids=["of a slide", "of our own files"],
)
def test_what_does_not_pass_ends_with_its_owner(slides: SlideCache, error: Exception, fault_class: FaultClass) -> None:
    function, calls = raising(*[error] * 9)
    fault = attempt(task_of(function), slides).fault
    assert fault is not None
    assert (fault.fault_class, fault.n_attempts, fault.errno_name, len(calls)) == (fault_class, 4, "EIO", 4)


@pytest.mark.usefixtures("short_breaks")
def test_attempts_are_bounded_whatever_comes_together(slides: SlideCache) -> None:
    function, calls = raising(*[SlideError("x."), unreadable(errno.EIO)] * 9)
    assert attempt(task_of(function), slides).fault is not None
    assert len(calls) <= 4


def test_a_full_disk_is_named_and_is_nobodys_fault(slides: SlideCache) -> None:
    def function(_item: object, _slides: SlideCache) -> None:
        Path("/dev/full").write_bytes(b"data")

    result = attempt(task_of(function), slides)
    assert result.fault is not None
    assert result.fault.message == "No space left on device (ENOSPC)"
    with pytest.raises(EnvironmentFaultError, match=r"^extract of slide s1: No space left .*ENOSPC\)\. Make room"):
        survivable_fault(result)


def test_breaks_grow_and_differ() -> None:
    breaks = [[tasks._break_s(os_error(errno.EIO), n_attempts=n) for n in (1, 2, 3, 4)] for _ in range(50)]
    for first, second, third, none in breaks:
        assert first is not None
        assert second is not None
        assert third is not None
        assert 0.3 < first < second < third < 3
        assert none is None
    assert len({each[0] for each in breaks}) > 1


def test_a_signal_ends_a_break_at_once(slides: SlideCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    calls: list[object] = []

    def function(item: object, _slides: SlideCache) -> None:
        calls.append(item)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        raise os_error(errno.EIO)

    monkeypatch.setattr(tasks, "BACKOFF_S", (600.0,))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            attempt(task_of(function), slides)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(calls) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_interrupts_are_not_failures(slides: SlideCache, stop: type[BaseException]) -> None:
    function, _ = raising(stop())
    with pytest.raises(stop):
        attempt(task_of(function), slides)


def test_the_second_attempt_has_a_fresh_handle(tmp_path: Path, slides: SlideCache) -> None:
    tifffile.imwrite(tmp_path / "s1.tif", np.full((128, 128, 3), 90, np.uint8), tile=(64, 64), photometric="rgb")
    info = describe_slide(SlideFile(slide_id="s1", path=tmp_path / "s1.tif"), override=None)
    seen: list[OpenedSlide] = []

    def function(item: object, cache: SlideCache) -> int:
        assert isinstance(item, SlideInfo)
        seen.append(cache.get(item))
        if len(seen) == 1:
            raise SlideError("hiccup.")
        return int(seen[-1].read_region(0, x_l0=0, y_l0=0, w_lv_px=4, h_lv_px=4).max())

    assert attempt(task_of(function, item=info), slides).value == 90
    assert seen[0] is not seen[1]


# --- serial execution ----------------------------------------------------------------------------------------------


def test_the_serial_executor_yields_every_task_once_and_in_order(slides: SlideCache) -> None:
    def function(item: object, _slides: SlideCache) -> object:
        if item in {2, 5}:
            raise SlideError(f"slide {item}.")
        return item

    all_tasks = [task_of(function, item=number, index=number) for number in range(7)]
    executor = SerialExecutor(slides=slides, worker_memory_bytes=10**9)
    results = list(executor.run(all_tasks))
    assert [result.task for result in results] == all_tasks
    assert [result.value for result in results] == [0, 1, None, 3, 4, None, 6]
    assert [result.fault.message for result in results if result.fault is not None] == ["slide 2.", "slide 5."]
    assert executor.n_workers == 1


def test_the_serial_executor_takes_tasks_as_it_goes(slides: SlideCache) -> None:
    taken = []

    def stream() -> Iterator[Task]:
        for number in range(5):
            taken.append(number)
            yield task_of(lambda item, _: item, item=number)

    results = SerialExecutor(slides=slides, worker_memory_bytes=10**9).run(stream())
    assert taken == []
    next(results)
    assert taken == [0]


def fail(_item: object, _slides: SlideCache) -> NoReturn:
    raise SlideError("slide s1: unreadable.", "Replace it.")


def test_tasks_and_results_can_be_sent_to_another_process(slides: SlideCache) -> None:
    task: Task = pickle.loads(pickle.dumps(task_of(fail)))
    result: TaskResult = pickle.loads(pickle.dumps(attempt(task, slides)))
    assert result.fault == Fault(
        slide_id="s1",
        stage="extract",
        fault_class=FaultClass.SLIDE,
        error_type="SlideError",
        message="slide s1: unreadable.",
        remedy="Replace it.",
        n_attempts=2,
    )
