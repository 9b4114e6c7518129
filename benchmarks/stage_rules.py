"""Which stage of the extraction a stack of functions belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.sampled_run import SEPARATOR


class Stage(StrEnum):
    """What the program is busy with."""

    START = "start"
    """Python and its imports."""
    PREPARE = "prepare"
    """Find, open and fingerprint slides, read annotations, split, check machine and folder."""
    SURVEY = "survey"
    """Tissue masks, sampling, the proof that a reader is exact."""
    DECODE = "decode"
    """Read tiles and decode them, or have OpenSlide do it."""
    CUT = "cut"
    """Choose what is read for which patch, cut it out, resample."""
    STAIN = "stain"
    ENCODE = "encode"
    DIGEST = "digest"
    WRITE = "write"
    SYNC = "sync"
    """Make files durable and give them their names."""
    LABEL = "label"
    RECORD = "record"
    """Describe the patches of a block in its record."""
    SCHEDULE = "schedule"
    """Cut blocks, hand them out, take results, show progress."""
    FINISH = "finish"
    """COCO, index, tables, manifest."""
    OTHER = "other"


_PACKAGE = "wsi_extract/"
RULES: tuple[tuple[Stage, tuple[str, ...]], ...] = (
    (Stage.START, ("<frozen importlib._bootstrap>:", "python:start", "run_extraction.py:read_settings")),
    (Stage.SURVEY, (f"{_PACKAGE}survey.py:",)),
    (Stage.FINISH, (f"{_PACKAGE}finish.py:", f"{_PACKAGE}publish.py:", f"{_PACKAGE}splits/leakage.py:")),
    (Stage.PREPARE, (f"{_PACKAGE}gather.py:", f"{_PACKAGE}state/claim.py:", f"{_PACKAGE}preflight.py:")),
    (Stage.STAIN, (f"{_PACKAGE}stain/",)),
    (Stage.DECODE, (f"{_PACKAGE}slides/",)),
    (Stage.DIGEST, (f"{_PACKAGE}disk/files.py:sha256_of", "line:self._digest.update")),
    (Stage.ENCODE, (f"{_PACKAGE}stores/png.py:encode_png", f"{_PACKAGE}stores/codecs.py:")),
    (Stage.LABEL, (f"{_PACKAGE}targets.py:",)),
    (
        Stage.RECORD,
        (
            f"{_PACKAGE}extract.py:_describe",
            f"{_PACKAGE}state/records.py:",
            f"{_PACKAGE}disk/files.py:write_atomically",
        ),
    ),
    (
        Stage.SYNC,
        (
            f"{_PACKAGE}disk/durable.py:",
            *(f"{_PACKAGE}disk/files.py:{name}" for name in ("_RenamedFiles.publish", "commit_together")),
        ),
    ),
    (
        Stage.CUT,
        (f"{_PACKAGE}extract.py:read_patches", f"{_PACKAGE}windows.py:", f"{_PACKAGE}resample.py:"),
    ),
    (Stage.WRITE, (f"{_PACKAGE}stores/", f"{_PACKAGE}disk/files.py:")),
    (
        Stage.SCHEDULE,
        (
            *(
                f"{_PACKAGE}{name}"
                for name in ("extraction.py:", "survey_loop.py:", "tasks.py:", "pipeline.py:", "console/")
            ),
            "run_extraction.py:",
        ),
    ),
)
"""A stack belongs to the first stage of which it holds a beginning of ``file:function`` or ``line:source``.

The order decides between stages that call each other: a generator of patches runs inside the function that writes
them, so what decodes stands before what writes.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds of each stage of one run, of its main thread unless said otherwise."""

    cpu_s: Mapping[Stage, float]
    wall_s: Mapping[Stage, float]
    other_threads_cpu_s: float
    """CPU time of all other threads: those that make files durable."""

    @property
    def total_cpu_s(self) -> float:
        """CPU time of the process."""
        return sum(self.cpu_s.values()) + self.other_threads_cpu_s


def stage_of(stack: str) -> Stage:
    """Return the stage a stack belongs to.

    >>> stage_of("/x/wsi_extract/survey.py:survey_slide;/x/wsi_extract/slides/open_slides.py:read_overview")
    <Stage.SURVEY: 'survey'>
    """
    frames = stack.split(SEPARATOR)
    for stage, beginnings in RULES:
        if any(_is_at(frame, beginning) for frame in frames for beginning in beginnings):
            return stage
    return Stage.OTHER


def _is_at(frame: str, beginning: str) -> bool:
    return frame.startswith(beginning) or f"/{beginning}" in frame


def sum_stages(document: Mapping[str, Mapping[str, float] | float]) -> StageTimes:
    """Add up what `benchmarks.sampled_run` noted.

    Raises
    ------
    TypeError
        When the document is another.
    """
    cpu, wall, others = document["cpu_s"], document["wall_s"], document["other_threads_cpu_s"]
    if not isinstance(cpu, Mapping) or not isinstance(wall, Mapping) or isinstance(others, Mapping):
        raise TypeError("the document does not hold samples of a run")
    return StageTimes(cpu_s=_by_stage(cpu), wall_s=_by_stage(wall), other_threads_cpu_s=others)


def _by_stage(by_stack: Mapping[str, float]) -> dict[Stage, float]:
    sums = dict.fromkeys(Stage, 0.0)
    for stack, seconds in by_stack.items():
        sums[stage_of(stack)] += seconds
    return sums
