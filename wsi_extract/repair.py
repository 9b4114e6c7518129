"""Mend a damaged data set from its slides: delete what is damaged, run the same job again, and prove the result.

Only what is damaged is made anew. Records of blocks are kept where they are whole, so that a block that now comes out
otherwise raises an alarm instead of replacing what was there. What a data set held before is its content digest; a
repair that does not reach it again is an error.

Nothing is deleted before it is certain that the slides are there, unchanged, and that the settings are known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_extract.config import RIVALS, RunConfig, load_config
from wsi_extract.disk.files import pretty_json, write_atomically
from wsi_extract.errors import ConfigError, InputError, IntegrityError, WsiExtractError
from wsi_extract.extraction import Reporter
from wsi_extract.gather import SlideStatus, gather_inputs
from wsi_extract.pipeline import run
from wsi_extract.preflight import describe_run, stain_target
from wsi_extract.slides.open_slides import find_slides
from wsi_extract.state.claim import CONVERSION, check_folder
from wsi_extract.state.folder_lock import locked, refuse_locked
from wsi_extract.state.layout import COMPLETE, MANIFEST, kept_manifest_path, run_path
from wsi_extract.storage import Store
from wsi_extract.tasks import Executor
from wsi_extract.verify import AuditReport, audit
from wsi_extract.verify.damage import DamagedFile, describe_damage, find_damage
from wsi_extract.verify.entries import find_unsafe_entries
from wsi_extract.verify.evidence import Evidence, dict_in, read_evidence
from wsi_extract.verify.findings import DAMAGE
from wsi_extract.verify.foreign import find_folders_as_files, find_foreign

FRESH = "Extract it again to another --output_dir."
MOVE_AWAY = "Remove that, or move it away, and repair again."
SAME_PROGRAM = "Repair it with the program and the libraries that it was made with."
COMMAND = "verify --repair"
MAX_NAMED = 20
"""Files or slides in a message."""
PLACES = {"wsi_dir": "SLIDES", "annotation_json": "ANNOTATIONS"}
"""What cannot be repaired without, and what stands for it in a command to be filled in."""
FACTS_OF_FILES = ("fingerprint", "um_per_px_xy")
"""What ``run.json`` says of a slide's file."""

OpenExecutor = Callable[[RunConfig], AbstractContextManager[Executor]]
ReporterOf = Callable[[RunConfig], Reporter]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRequest:
    """What is to be mended, and from where."""

    output_dir: Path
    locations: Mapping[str, Path]
    """Where slides and further input lie now, by names of `config.LOCATION_FIELDS`; else where they lay before."""
    n_workers: int = 0
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairResult:
    """What a repair found and did."""

    damage: tuple[DamagedFile, ...]
    report: AuditReport
    """Of the audit after the repair, or of the one before it when there was nothing to do, or after a dry run."""
    content_before: str
    """The content digest that the manifest stated; empty when the manifest itself was damaged."""
    was_damaged: bool = True

    @property
    def n_blocks(self) -> int:
        """Parts of slides that were made anew."""
        return len({(file.slide_id, file.part) for file in self.damage})


def repair(request: RepairRequest, *, open_executor: OpenExecutor, reporter_of: ReporterOf) -> RepairResult:
    """Audit a data set, make anew what is damaged, and audit it again.

    Parameters
    ----------
    open_executor
        Opens what runs the tasks.
    reporter_of
        Returns what shows the run.

    Raises
    ------
    InputError, ConfigError
        When the data set was converted, the slides are not there, or the settings cannot be told; nothing was touched.
    EnvironmentFaultError
        When somebody else is writing to the folder, or the machine failed.
    IntegrityError
        When the input is not that of the data set, files lie there that belong to nobody, or the data set came out
        with other content.
    """
    output_dir = request.output_dir
    refuse_locked(output_dir)
    before = audit(output_dir)
    evidence = read_evidence(output_dir)
    content_before = evidence.content_sha256
    if before.is_sound:
        if not request.is_dry_run:
            kept_manifest_path(output_dir).unlink(missing_ok=True)  # of a repair that was killed when all was done
        return RepairResult(damage=(), report=before, content_before=content_before, was_damaged=False)
    _refuse_hopeless(output_dir, evidence)
    _refuse_foreign(output_dir)
    config = _config_of(request, evidence)
    with open_executor(config) as executor:
        reporter = reporter_of(config)
        description = _describe(config, evidence, executor=executor, reporter=reporter)
        damage = tuple(find_damage(output_dir, store=Store(config.store), n_blocks=evidence.n_blocks))
        if request.is_dry_run:
            return RepairResult(damage=damage, report=before, content_before=content_before)
        with locked(output_dir, command=COMMAND):
            for path, _ in find_folders_as_files(output_dir):
                path.rmdir()
            if not evidence.run:
                write_atomically(run_path(output_dir), pretty_json(dict(description)))
            if evidence.is_manifest_sound:  # the run removes it first
                write_atomically(kept_manifest_path(output_dir), pretty_json(evidence.manifest))
            delete_damaged(output_dir, damage)
        run(config, executor=executor, reporter=reporter)
    after = audit(output_dir)
    _refuse_other_content(output_dir, before=content_before, after=after.content_sha256)
    kept_manifest_path(output_dir).unlink(missing_ok=True)
    return RepairResult(damage=damage, report=after, content_before=content_before)


def can_repair(output_dir: Path) -> bool:
    """Tell whether a data set that is not sound says enough of itself to be made anew; raises nothing.

    A run that did not finish is to be continued instead, by the command that began it.
    """
    evidence = read_evidence(output_dir)
    if not evidence.manifest and not (output_dir / MANIFEST).exists():
        return False
    try:
        _refuse_hopeless(output_dir, evidence)
    except WsiExtractError:
        return False
    return True


def damage_of(output_dir: Path) -> list[str]:
    """Return, one line per slide, what a repair would make anew; only for folders that `can_repair` accepts."""
    evidence = read_evidence(output_dir)
    with suppress(*DAMAGE):
        store = Store(evidence.settings["store"])
        return describe_damage(find_damage(output_dir, store=store, n_blocks=evidence.n_blocks))
    return []


def _refuse_hopeless(output_dir: Path, evidence: Evidence) -> None:
    for path, message in find_unsafe_entries(output_dir):
        raise IntegrityError(f"{path} {message}.", "Remove it, if it is not yours, and repair again.")
    if not evidence.settings:
        raise IntegrityError(
            f"{output_dir}: manifest.json and run.json are both damaged or missing, so nobody knows with what settings "
            "it was made.",
            FRESH,
        )
    conversion = dict_in(dict_in(evidence.manifest, "run"), CONVERSION)
    if conversion:
        raise InputError(
            f"{output_dir} was converted from {conversion.get('source_dir', 'another data set')}, and has no slides.",
            "Repair that one, if it is damaged too, and convert it again to another folder.",
        )


def _refuse_foreign(output_dir: Path) -> None:
    """Refuse what stays wrong whatever is made anew, and is not ours to delete."""
    for path, is_empty in find_folders_as_files(output_dir):
        if not is_empty:
            raise IntegrityError(f"{path} is a folder, but has to be a file, and holds something.", MOVE_AWAY)
    if foreign := find_foreign(output_dir):
        raise IntegrityError(f"{describe_foreign(foreign)}. Nothing was changed.", MOVE_AWAY)


def describe_foreign(foreign: Sequence[Path]) -> str:
    """Return in words which files belong to nobody."""
    n_more = len(foreign) - MAX_NAMED
    named = ", ".join(str(path) for path in foreign[:MAX_NAMED]) + (f" and {n_more:,} more" if n_more > 0 else "")
    what = "1 file belongs" if len(foreign) == 1 else f"{len(foreign):,} files belong"
    return f"{what} to nobody, as no record of the data set names {'it' if len(foreign) == 1 else 'them'}: {named}"


def missing_locations(locations: Container[str]) -> list[str]:
    """Return the locations that a repair cannot do without and that are not known, by their names in the settings."""
    return [name for name in PLACES if name not in locations]


def _config_of(request: RepairRequest, evidence: Evidence) -> RunConfig:
    """Return the settings of the run that made the data set, with the locations asked for.

    Raises
    ------
    ConfigError
        When a location is unknown, or this version of the program has other settings.
    """
    locations = {**evidence.locations, **{name: str(path) for name, path in request.locations.items()}}
    if missing := [f"--{name}" for name in missing_locations(locations)]:
        raise ConfigError(
            f"{request.output_dir}: its manifest is damaged or missing, so nobody knows where its input lies.",
            f"Give {' and '.join(missing)}.",
        )
    settings = {name: value for name, value in evidence.settings.items() if value is not None}
    for first, second in RIVALS:  # settings that were left at their default beside one that replaces them
        if first in settings:
            settings.pop(second, None)
    config = load_config(
        {}, {**settings, **locations, "output_dir": str(request.output_dir), "workers": request.n_workers}
    )
    if config.output_settings() != evidence.settings:
        raise ConfigError(
            f"{request.output_dir} was made with settings of another version of this program.",
            "Repair it with that version.",
        )
    return config


def _describe(config: RunConfig, evidence: Evidence, *, executor: Executor, reporter: Reporter) -> Mapping[str, Any]:
    """Return what the data set depends on, from the slides and annotations as they are now; they must be the same.

    Raises
    ------
    InputError
        When slides of the data set are missing or cannot be read.
    IntegrityError
        When the slides, the annotations or the libraries are others than those the data set was made with.
    """
    # Before all slides are opened, and splits are drawn from those that are left.
    _refuse_lost_slides(config, evidence, present={file.slide_id for file in find_slides(config.wsi_dir).slides})
    inputs = gather_inputs(config, executor=executor, progress=reporter)
    _refuse_lost_slides(config, evidence, present={entry.file.slide_id for entry in inputs.planned})
    description = describe_run(config, inputs, target=stain_target(config))
    if evidence.run:
        failed = [entry.file.slide_id for entry in inputs.entries if entry.status is SlideStatus.FAILED]
        _refuse_changed_input(config, description, run=evidence.run, failed=failed)
        return _checked(config.output_dir, description=description, failed=failed)
    _refuse_other_input(config, description, manifest=evidence.manifest)
    return description


def _checked(output_dir: Path, *, description: Mapping[str, Any], failed: Sequence[str]) -> Mapping[str, Any]:
    try:
        return check_folder(output_dir, description=description, failed=failed, fresh=False)
    except IntegrityError as error:
        raise IntegrityError(error.message, SAME_PROGRAM) from error


def _refuse_changed_input(
    config: RunConfig, description: Mapping[str, Any], *, run: Mapping[str, Any], failed: Collection[str]
) -> None:
    """Refuse input that is not what ``run.json`` says."""
    slides, now = run["slides"], description["slides"]
    changed = [
        f"slide {slide_id}"
        for slide_id in sorted(slides.keys() & now.keys() - set(failed))
        if any(dict_in(slides, slide_id).get(key) != now[slide_id][key] for key in FACTS_OF_FILES)
    ]
    if run.get("annotations") != description["annotations"]:
        changed.append(str(config.annotation_json))
    if changed:
        raise _other_input(changed)


def _other_input(changed: Sequence[str]) -> IntegrityError:
    more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
    return IntegrityError(
        "the slides or annotations are not those the data set was made from: "
        f"{', '.join(changed[:MAX_NAMED])}{more}. Nothing was changed.",
        "Give the originals with --wsi_dir and --annotation_json.",
    )


def _refuse_lost_slides(config: RunConfig, evidence: Evidence, *, present: Set[str]) -> None:
    if lost := sorted(evidence.n_blocks.keys() - present):
        named = ", ".join(lost[:20]) + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        raise InputError(
            f"slides of the data set are missing in {config.wsi_dir}, or cannot be read: {named}. Nothing was deleted.",
            "Give the folder that holds them as --wsi_dir.",
        )


def _refuse_other_input(config: RunConfig, description: Mapping[str, Any], *, manifest: Mapping[str, Any]) -> None:
    """Refuse input that is not what the manifest says, where ``run.json`` cannot tell any more."""
    slides = {row["slide_id"]: row.get("fingerprint") for row in manifest["slides"] if row["status"] == COMPLETE}
    changed = [
        f"slide {slide_id}"
        for slide_id, fingerprint in slides.items()
        if description["slides"][slide_id]["fingerprint"] != fingerprint
    ]
    if description["annotations"] != dict_in(manifest, "annotations").get("sha256"):
        changed.append(str(config.annotation_json))
    if changed:
        raise _other_input(changed)


def delete_damaged(output_dir: Path, damage: tuple[DamagedFile, ...]) -> None:
    """Delete damaged files; only such as lie below the output folder, and no link is followed.

    Raises
    ------
    IntegrityError
        When a file lies elsewhere; then none was deleted.
    """
    root = output_dir.resolve()
    there = [file.path for file in damage if not file.is_missing]
    for path in there:
        if not path.parent.resolve().is_relative_to(root):
            raise IntegrityError(f"{path} lies outside of {output_dir}, because a folder is a link.", FRESH)
    for path in there:
        if not path.is_dir():  # empty folders in the place of files are gone by now
            path.unlink(missing_ok=True)


def _refuse_other_content(output_dir: Path, *, before: str, after: str) -> None:
    if before and after != before:
        found = f"has the content digest {after}" if after else "has no content digest"
        raise IntegrityError(
            f"{output_dir} {found} after the repair, but had {before}: the slides, or what reads them, are not what "
            "they were.",
            FRESH,
        )
