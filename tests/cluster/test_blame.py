"""Whose fault it is that workers died: a slide's, a node's, or the machine's whatever is read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from wsi_extract.cluster.blame import Blame
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.faults import refuse_silent_slide
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task


def nothing(_item: object, _slides: SlideCache) -> None:
    return None


def task_of(slide: int, index: int = 0) -> Task:
    return Task(stage="extract", slide_ordinal=slide, slide_id=f"s{slide}", index=index, function=nothing, item=None)


def never(_task: Task) -> bool:
    raise AssertionError("nothing was to be repeated")


def test_a_task_is_guilty_of_the_second_death_alone() -> None:
    blame = Blame()
    assert blame.place_of_death(task_of(0)) is None
    assert not blame.is_guilty(task_of(0), n_deaths=1, node=3)
    assert not blame.is_guilty(task_of(0, index=1), n_deaths=1, node=0), "another task"
    assert blame.place_of_death(task_of(0)) == 3
    assert blame.is_guilty(task_of(0), n_deaths=1, node=0)
    assert blame.place_of_death(task_of(0)) == 0


def test_a_scheduler_that_tries_again_itself_tells_of_several_deaths() -> None:
    assert Blame().is_guilty(task_of(0), n_deaths=4, node=0)


def test_slides_that_do_not_answer_are_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to stands for a mount that has stalled: opening it the plain way never returns."""
    slide = tmp_path / "slide.svs"
    os.mkfifo(slide)
    monkeypatch.setattr(os, "O_NONBLOCK", 0)
    monkeypatch.setattr(refuse_silent_slide, "__kwdefaults__", {"patience_s": 0.2})
    with pytest.raises(EnvironmentFaultError, match="the slides do not answer"):
        Blame().refuse_scapegoat(replace(task_of(0), path=slide), can_repeat=never)
    os.close(os.open(slide, os.O_WRONLY))  # lets the thread go


def test_slides_that_have_gone_are_not_blamed(tmp_path: Path) -> None:
    task = replace(task_of(0), path=tmp_path / "mount" / "slide.svs")
    with pytest.raises(EnvironmentFaultError, match="the slides have gone"):
        Blame().refuse_scapegoat(task, can_repeat=never)


def test_workers_that_die_of_whatever_they_read_end_the_run() -> None:
    blame = Blame()
    blame.refuse_scapegoat(task_of(0), can_repeat=never)
    blame.refuse_scapegoat(task_of(0, index=1), can_repeat=never)  # of the same slide
    with pytest.raises(EnvironmentFaultError, match="whatever they read, slides s0 and s1 at last"):
        blame.refuse_scapegoat(task_of(1), can_repeat=never)


@pytest.mark.parametrize("can_repeat", [True, False])
def test_what_went_well_before_tells_slides_from_the_machine(can_repeat: bool) -> None:
    blame = Blame()
    asked: list[Task] = []

    def repeat(task: Task) -> bool:
        asked.append(task)
        return can_repeat

    blame.note_end(task_of(9))
    blame.refuse_scapegoat(task_of(0), can_repeat=repeat)
    assert not asked
    if can_repeat:
        blame.refuse_scapegoat(task_of(1), can_repeat=repeat)
    else:
        with pytest.raises(EnvironmentFaultError, match="whatever they read"):
            blame.refuse_scapegoat(task_of(1), can_repeat=repeat)
    assert asked == [task_of(9)]


def test_a_task_that_ends_well_between_two_deadly_slides_is_proof_enough() -> None:
    blame = Blame()
    blame.refuse_scapegoat(task_of(0), can_repeat=never)
    blame.note_end(task_of(9))
    blame.refuse_scapegoat(task_of(1), can_repeat=never)
