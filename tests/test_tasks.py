"""Failures become values, and the class of a failure decides what the run does."""

import errno
import pickle
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import tifffile

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
from wsi_extract.files import canonical_json
from wsi_extract.model import Fault, FaultClass, SlideFile, SlideInfo
from wsi_extract.slides import OpenedSlide, SlideCache, describe_slide
from wsi_extract.tasks import SerialExecutor, Task, TaskResult, attempt, fault_from


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

CASES = [
    pytest.param(SlideError("slide s1: unreadable.", "Replace it."), FaultClass.SLIDE, "Replace it.", id="slide"),
    pytest.param(os_error(errno.ENOSPC), FaultClass.ENVIRONMENT, "same command", id="disk full"),
    pytest.param(os_error(errno.EDQUOT), FaultClass.ENVIRONMENT, "same command", id="quota"),
    pytest.param(os_error(errno.EROFS), FaultClass.ENVIRONMENT, "same command", id="read-only"),
    pytest.param(os_error(errno.EACCES), FaultClass.ENVIRONMENT, "same command", id="no permission"),
    pytest.param(os_error(errno.EMFILE), FaultClass.ENVIRONMENT, "same command", id="too many files"),
    pytest.param(RuntimeError("can't start new thread"), FaultClass.ENVIRONMENT, "same command", id="too many threads"),
    pytest.param(os_error(errno.EIO), FaultClass.SLIDE, "", id="a read error"),
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
    assert "/out/file" in fault_from(os_error(errno.ENOSPC), slide_id="s1", stage="extract").message


def test_a_read_error_is_not_called_a_bug() -> None:
    assert "bug" not in fault_from(os_error(errno.EIO), slide_id="s1", stage="extract").remedy


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


@pytest.mark.parametrize("error", [SlideError("hiccup."), os_error(errno.EIO), KeyError("x")])
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


@pytest.mark.parametrize("error", [os_error(errno.ENOSPC), IntegrityError("differs."), EnvironmentFaultError("x.")])
def test_what_a_second_attempt_cannot_mend_is_not_tried_again(slides: SlideCache, error: Exception) -> None:
    function, calls = raising(error)
    result = attempt(task_of(function), slides)
    assert result.fault is not None
    assert result.fault.fault_class is not FaultClass.SLIDE
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

    tasks = [task_of(function, item=number, index=number) for number in range(7)]
    executor = SerialExecutor(slides=slides, worker_memory_bytes=10**9)
    results = list(executor.run(tasks))
    assert [result.task for result in results] == tasks
    assert [result.value for result in results] == [0, 1, None, 3, 4, None, 6]
    assert [result.fault.message for result in results if result.fault is not None] == ["slide 2.", "slide 5."]
    assert executor.n_workers == 1


def test_the_serial_executor_takes_tasks_as_it_goes(slides: SlideCache) -> None:
    taken = []

    def tasks() -> Iterator[Task]:
        for number in range(5):
            taken.append(number)
            yield task_of(lambda item, _: item, item=number)

    results = SerialExecutor(slides=slides, worker_memory_bytes=10**9).run(tasks())
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
    )
