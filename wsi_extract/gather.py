"""From a folder of slides and an annotation file to what is done with each slide, before any plan is made.

Opens every slide once, reads the annotations, decides which slides take part and in which split, and proves that no
patient or slide is in two splits. Every slide found ends with a status and a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from wsi_extract.annotations import AnnotationOptions, LoadedAnnotations, load_annotations
from wsi_extract.config import LOCATION_FIELDS, RunConfig, Sampling
from wsi_extract.csv_table import read_pairs
from wsi_extract.errors import InputError, SlideError, SplitError
from wsi_extract.faults import refuse_lost_slides
from wsi_extract.geometry import out_from_l0_domain
from wsi_extract.in_work import run_watched
from wsi_extract.input_places import refuse_input_in_output
from wsi_extract.model import AnnotationTable, Fault, OutputFrame, SlideFile, SlideInfo
from wsi_extract.resolution import ResolutionOverride, choose_frame, read_overrides
from wsi_extract.sampling import check_grid, stride_from_overlap
from wsi_extract.slides.open_slides import FoundSlides, SlideCache, describe_slide, dicom_series_of, find_slides
from wsi_extract.splits import (
    LeakageReport,
    SplitDecision,
    SplitOptions,
    SplitSubject,
    assign_splits,
    check_leakage,
    group_slides,
)
from wsi_extract.tasks import Executor, Progress, Task, fault_from, survivable_fault

TOO_SMALL = "slide_smaller_than_patch"


class SlideStatus(StrEnum):
    """What becomes of a slide."""

    PLANNED = "planned"
    """Takes part."""
    SKIPPED = "skipped"
    """Cannot hold a patch."""
    UNLABELLED = "unlabelled"
    """Nobody annotated it, so it says nothing about negatives; see ``--unannotated_slides``."""
    FAILED = "failed"
    """Cannot be read, or not as asked."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideEntry:
    """One slide found on disk and what was decided about it."""

    file: SlideFile
    status: SlideStatus
    reason: str
    """Why it is not planned; empty for planned slides."""
    info: SlideInfo | None
    frame: OutputFrame | None
    annotations: AnnotationTable
    decision: SplitDecision | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """Everything known before the slides are surveyed."""

    found: FoundSlides
    entries: tuple[SlideEntry, ...]
    """All slides found, ordered by slide id."""
    annotations: LoadedAnnotations
    leakage: LeakageReport
    faults: tuple[Fault, ...]

    @property
    def planned(self) -> tuple[SlideEntry, ...]:
        """The slides that take part."""
        return tuple(entry for entry in self.entries if entry.status is SlideStatus.PLANNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeJob:
    """One slide to open for the first time."""

    file: SlideFile
    override: ResolutionOverride | None


def describe(job: DescribeJob, _slides: SlideCache) -> SlideInfo:
    """Open a slide and return what it says of itself."""
    return describe_slide(job.file, override=job.override)


def read_series(path: Path, _slides: SlideCache) -> str | None:
    """Open a DICOM file and return the series it belongs to."""
    return dicom_series_of(path)


def gather_inputs(config: RunConfig, *, executor: Executor, progress: Progress) -> Inputs:
    """Find and open the slides, read the annotations, decide what takes part and in which split.

    Raises
    ------
    InputError
        When the input as a whole cannot be used, or lies where a run would delete it.
    EnvironmentFaultError
        When not one slide can be read, because of the disk or the network.
    """
    if not config.annotation_json.is_file():
        raise InputError(f"there is no annotation file {config.annotation_json}.", "Check --annotation_json.")
    found = find_slides(config.wsi_dir, series_of=partial(read_all_series, executor=executor))
    refuse_input_in_output(_locations(config), slides=found.slides, output_dir=config.output_dir)
    infos, faults = _describe_all(found, config=config, executor=executor, progress=progress)
    unreadable = [file for file in found.slides if file.slide_id not in infos]
    annotations = load_annotations(
        config.annotation_json,
        options=_annotation_options(config),
        slides=[infos[file.slide_id] for file in found.slides if file.slide_id in infos],
        unreadable=unreadable,
    )
    entries = []
    for file in found.slides:
        entry, fault = _decide(file, infos.get(file.slide_id), config=config, annotations=annotations, faults=faults)
        entries.append(entry)
        if fault is not None:
            faults[file.slide_id] = fault
            progress.fail(fault)
    _refuse_copies(entries)
    if not any(entry.status is SlideStatus.PLANNED for entry in entries):
        reasons = "\n".join(f"  {entry.file.slide_id}: {entry.status}, {entry.reason}" for entry in entries[:20])
        raise InputError(f"no slide in {config.wsi_dir} can be extracted:\n{reasons}")
    decided = _assign(entries, config=config, annotations=annotations)
    leakage = check_leakage([entry.decision for entry in decided if entry.decision is not None])
    if leakage.n_groups_in_two_splits and not leakage.same_slide_halves:
        raise SplitError(f"{leakage.n_groups_in_two_splits} groups are in two splits: {'; '.join(leakage.details)}.")
    return Inputs(
        found=found,
        entries=tuple(decided),
        annotations=annotations,
        leakage=leakage,
        faults=tuple(faults[slide_id] for slide_id in sorted(faults)),
    )


def read_all_series(paths: Sequence[Path], *, executor: Executor) -> dict[Path, str | None]:
    """Open DICOM files where slides are opened; one that ends its process belongs to no series, as a damaged one."""
    if not paths:
        return {}
    tasks = (
        Task(stage="find", slide_ordinal=at, slide_id=path.stem, index=0, function=read_series, item=path, path=path)
        for at, path in enumerate(paths)
    )
    series: dict[Path, str | None] = {}
    for result in executor.run(tasks):
        if result.fault is not None:
            survivable_fault(result)
        series[paths[result.task.slide_ordinal]] = result.value if isinstance(result.value, str) else None
    return series


def _describe_all(
    found: FoundSlides, *, config: RunConfig, executor: Executor, progress: Progress
) -> tuple[dict[str, SlideInfo], dict[str, Fault]]:
    overrides = _resolution_overrides(config, slides=found.slides)
    tasks = (
        Task(
            stage="describe",
            slide_ordinal=ordinal,
            slide_id=file.slide_id,
            index=0,
            function=describe,
            item=DescribeJob(file=file, override=overrides.get(file.slide_id)),
            path=file.path,
        )
        for ordinal, file in enumerate(found.slides)
    )
    infos: dict[str, SlideInfo] = {}
    faults: dict[str, Fault] = {}
    progress.begin("describe", total=len(found.slides), unit="slides")
    for result in run_watched(executor, tasks, progress=progress):
        progress.advance(1)
        if isinstance(result.value, SlideInfo):
            infos[result.task.slide_id] = result.value
        else:
            faults[result.task.slide_id] = survivable_fault(result)
            progress.fail(faults[result.task.slide_id])
    progress.end()
    refuse_lost_slides(faults.values(), n_slides=len(found.slides), folder=config.wsi_dir)
    return infos, faults


def _locations(config: RunConfig) -> dict[str, Path]:
    """Return the files and folders that a run reads, by flag."""
    found = {f"--{name}": getattr(config, name) for name in sorted(LOCATION_FIELDS - {"output_dir"})}
    return {flag: path for flag, path in found.items() if path is not None}


def _resolution_overrides(config: RunConfig, *, slides: Sequence[SlideFile]) -> Mapping[str, ResolutionOverride]:
    overrides: dict[str, ResolutionOverride] = {}
    if config.slide_mpp is not None:
        common = ResolutionOverride(um_per_px_x=config.slide_mpp, um_per_px_y=config.slide_mpp, source="run override")
        overrides = {file.slide_id: common for file in slides}
    if config.slide_mpp_csv is not None:
        overrides |= read_overrides(config.slide_mpp_csv, slides=slides)
    return overrides


def _annotation_options(config: RunConfig) -> AnnotationOptions:
    return AnnotationOptions(
        category_map=config.category_map,
        bbox_format=config.bbox_format,
        point_box_px=config.point_box_px,
        point_box_um=config.point_box_um,
        annotation_types=config.annotation_types,
        slide_aliases=None
        if config.slide_aliases_csv is None
        else read_pairs(config.slide_aliases_csv, header=("annotation_name", "slide")),
    )


def _decide(
    file: SlideFile,
    info: SlideInfo | None,
    *,
    config: RunConfig,
    annotations: LoadedAnnotations,
    faults: Mapping[str, Fault],
) -> tuple[SlideEntry, Fault | None]:
    """Return the status of one slide, and the fault when it is found only now."""
    entry = SlideEntry(
        file=file,
        status=SlideStatus.FAILED,
        reason="",
        info=info,
        frame=None,
        annotations=annotations.tables.get(file.slide_id, AnnotationTable.empty()),
        decision=None,
    )
    if info is None:
        return replace(entry, reason=faults[file.slide_id].message), None
    try:
        frame = choose_frame(info, patch_size_px=config.patch_size, target_um_per_px=config.mpp, level=config.level)
        if config.sampling is Sampling.GRID:
            stride_px = config.stride_px or stride_from_overlap(config.patch_size, overlap=config.overlap)
            check_grid(info, frame, stride_px=stride_px)
    except SlideError as error:
        return replace(entry, reason=error.message), fault_from(error, slide_id=file.slide_id, stage="describe")
    entry = replace(entry, frame=frame)
    domain = out_from_l0_domain(info.domain_l0, scale=frame.scale)
    if domain.width < frame.patch_w_out_px or domain.height < frame.patch_h_out_px:
        size = f"{TOO_SMALL}: {domain.width} x {domain.height} px at the output resolution"
        return replace(entry, status=SlideStatus.SKIPPED, reason=size), None
    if file.slide_id not in annotations.annotated and config.unannotated_slides == "exclude":
        listed = (
            "listed without any annotation" if file.slide_id in annotations.listed else "not in the annotation file"
        )
        return replace(entry, status=SlideStatus.UNLABELLED, reason=listed), None
    return replace(entry, status=SlideStatus.PLANNED), None


def _refuse_copies(entries: Sequence[SlideEntry]) -> None:
    """Refuse two files with the same content: under two names a slide could end up in two splits."""
    seen: dict[str, Path] = {}
    for entry in entries:
        if entry.status is not SlideStatus.PLANNED or entry.info is None:
            continue
        first = seen.setdefault(entry.info.fingerprint, entry.info.path)
        if first != entry.info.path:
            raise SplitError(
                f"{first} and {entry.info.path} have the same content.", "Remove one of them from the slide folder."
            )


def _assign(entries: Sequence[SlideEntry], *, config: RunConfig, annotations: LoadedAnnotations) -> list[SlideEntry]:
    """Give the planned slides their splits, together with the slides that would take part if they could.

    Those that cannot be read, and those that are too small, keep their places: splits depend on names and annotations
    alone, so that a slide that is mended, or damaged, does not move the others to another split.
    """
    expected = set(annotations.targets_in_file)
    if config.unannotated_slides == "negative":
        expected |= {entry.file.slide_id for entry in entries}
    meant = [entry for entry in entries if entry.file.slide_id in expected]
    table = None if config.group_csv is None else read_pairs(config.group_csv, header=("slide", "group"))
    groups = group_slides([entry.file for entry in meant], regex=config.group_regex, table=table)
    subjects = [
        SplitSubject(
            slide_id=entry.file.slide_id,
            file_name=entry.file.path.name,
            group=groups[entry.file.slide_id],
            n_targets=annotations.targets_in_file.get(entry.file.slide_id, 0),
        )
        for entry in meant
    ]
    options = SplitOptions(
        mode=config.split_mode.value,
        train_fraction=config.train_val_split,
        seed=config.seed,
        train_slides=tuple(str(name) for name in config.train_slides),
        val_slides=tuple(str(name) for name in config.val_slides),
        test_slides=tuple(str(name) for name in config.test_slides),
        test_regex=config.test_regex,
        guard_px=config.guard_px,
    )
    taking_part = {subject.slide_id for subject in subjects}
    bystanders = {
        entry.file.slide_id: entry.file.path.name for entry in entries if entry.file.slide_id not in taking_part
    }
    decisions = {
        decision.slide_id: decision for decision in assign_splits(subjects, options=options, bystanders=bystanders)
    }
    return [replace(entry, decision=decisions.get(entry.file.slide_id)) for entry in entries]
