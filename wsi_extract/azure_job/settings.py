"""Everything that a job is made of, read from config.json and ``--set`` and checked before anybody logs in.

The ``extraction`` object is checked as the node will check it, so that no job waits for a machine only to say that a
setting cannot be used.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError

from wsi_extract.azure_job.job_config import JobConfig, OutputConfig
from wsi_extract.azure_job.overrides import NOT_FOR_JOBS, Overrides, read_overrides, with_overrides
from wsi_extract.azure_job.workspace import WORKSPACE_KEYS, Workspace, read_tenant, read_workspace
from wsi_extract.config import RunConfig, load_config
from wsi_extract.config_problems import shortened
from wsi_extract.config_sources import (
    ON_PARTIAL_VARIABLE,
    PATH_FIELDS,
    defaults_of_job,
    extraction_object,
    read_config_file,
)
from wsi_extract.errors import ConfigError
from wsi_extract.printable import as_one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["ExtractionFile", "JobConfig", "JobSettings", "OutputConfig", "load_job_settings"]

COMMAND_VALUES = ("patches_per_slide", "patch_size", "train_val_split", "seed")
"""Settings that always stand on the command line, in this order."""
OVERRULED = frozenset({"wsi_dir", "annotation_json", "output_dir"})
"""Paths of this machine that the command replaces: they may stand in a config file that also serves local runs."""
STAND_IN = {"wsi_dir": "/data/WSI", "annotation_json": "/data/annotations.json", "output_dir": "/data/output"}
MAX_PROBLEMS = 20
NAME_RULE = "should be a name of letters, digits and _ . -, beginning with a letter or digit"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionFile:
    """A file that a setting names; ``name`` is what it is called on the node, relative to config.json."""

    setting: str
    name: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Settings of one job.

    Attributes
    ----------
    run
        The settings of the extraction on the node; its paths of slides, annotations and output are stand-ins.
    flags
        Names and texts on the command line after the paths; an empty text belongs to a switch.
    files
        Files beside config.json that the settings name and the node needs.
    config_path
        Absolute path of the file that travels as config.json.
    """

    workspace: Workspace
    tenant_id: str | None
    job: JobConfig
    run: RunConfig
    flags: tuple[tuple[str, str], ...]
    files: tuple[ExtractionFile, ...]
    config_path: Path


def load_job_settings(path: Path, *, overrides: Sequence[str] = ()) -> JobSettings:
    """Read and check the settings of a job.

    Parameters
    ----------
    path
        config.json, or a file that takes its place.
    overrides
        Texts as ``job.nodes=4`` and ``extraction.seed=7``.

    Raises
    ------
    ConfigError
        Listing every problem, one per line. A workspace that is not filled in yet is none.
    """
    try:
        path = path.expanduser().absolute()
    except RuntimeError as error:  # ~somebody, who is unknown here
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    document = read_config_file(path)
    changes, problems = read_overrides(overrides)
    workspace, found = read_workspace(document)
    tenant_id, found_of_tenant = read_tenant(document)
    problems += [*found, *found_of_tenant, *_misplaced(document)]
    job, found = _read_job(document, changes)
    problems += found
    run, found = _read_run(document, changes, job=job or JobConfig(), path=path)
    problems += found
    files, found = _read_files(document, changes, run=run, folder=path.parent)
    problems += found
    if problems or job is None or run is None:
        lines = [as_one_line(shortened(problem, most=600)) for problem in dict.fromkeys(problems)]
        more = [f"and {len(lines) - MAX_PROBLEMS:,} more"] if len(lines) > MAX_PROBLEMS else []
        listed = "\n".join(f"  {line}" for line in [*lines[:MAX_PROBLEMS], *more])
        raise ConfigError(f"the job cannot be made from {path}:\n{listed}")
    return JobSettings(
        workspace=workspace,
        tenant_id=tenant_id,
        job=job,
        run=run,
        flags=_flags_of_command(run, changes),
        files=files,
        config_path=path,
    )


def _flags_of_command(run: RunConfig, changes: Overrides) -> tuple[tuple[str, str], ...]:
    values = [(name, str(getattr(run, name))) for name in COMMAND_VALUES]
    return (*values, *((flag.name, flag.text) for flag in changes.flags.values() if flag.name not in COMMAND_VALUES))


def _objects(document: Mapping[str, object]) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Return the objects ``job`` and ``extraction``, empty where they are something else."""
    job, extraction = document.get("job", {}), document.get("extraction", {})
    return (job if isinstance(job, dict) else {}), (extraction if isinstance(extraction, dict) else {})


def _misplaced(document: Mapping[str, object]) -> list[str]:
    """Settings that stand where nobody looks for them."""
    job, extraction = _objects(document)
    only_job = JobConfig.model_fields.keys() - RunConfig.model_fields.keys()
    only_run = RunConfig.model_fields.keys() - JobConfig.model_fields.keys()
    places = (
        ("", document, only_job, "in the object 'job'"),
        ("job.", job, only_run, "in the object 'extraction'"),
        ("job.", job, {*WORKSPACE_KEYS, "tenant_id"}, "at the top level"),
        ("extraction.", extraction, only_job, "in the object 'job'"),
        ("extraction.", extraction, {*WORKSPACE_KEYS, "tenant_id"}, "at the top level"),
    )
    return [
        f"{where}{key}: it belongs {right}"
        for where, values, wrong, right in places
        for key in sorted(values.keys() & wrong)
    ]


def _without(values: Mapping[str, object], keys: Collection[str]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in keys}


def _read_job(document: Mapping[str, object], changes: Overrides) -> tuple[JobConfig | None, list[str]]:
    if not isinstance(document.get("job", {}), dict):
        return None, [f"job: expected an object, got {shortened(json.dumps(document['job']))}"]
    job, _ = _objects(document)
    elsewhere = {*RunConfig.model_fields, *WORKSPACE_KEYS, "tenant_id"} - JobConfig.model_fields.keys()
    try:
        return JobConfig.model_validate_json(json.dumps(with_overrides(_without(job, elsewhere), changes.job))), []
    except ValidationError as error:
        return None, [_describe(problem) for problem in error.errors()]
    except (ValueError, RecursionError) as error:  # numbers and depths that JSON cannot have here
        return None, [f"job: {error}"]


def _describe(problem: ErrorDetails) -> str:
    """Say what pydantic has found wrong in ``job``."""
    keys = [str(key) for key in problem["loc"] if key != "[key]"]
    where = shortened(".".join(["job", *keys]), most=120)
    match problem["type"]:
        case "extra_forbidden":
            known = OutputConfig.model_fields if len(keys) > 1 else JobConfig.model_fields
            near = difflib.get_close_matches(keys[-1][:80], known, n=1, cutoff=0.5)
            return f"{where}: unknown key" + (f"; did you mean '{near[0]}'?" if near else "")
        case "value_error" if len(keys) == 0 or keys == ["output"]:
            return f"{where}.{problem['ctx']['error']}"
        case "json_invalid":
            return f"{where}: text that is not Unicode"
        case "value_error":
            message = str(problem["ctx"]["error"])
        case "string_pattern_mismatch":
            message = "should be azureml://datastores/NAME/paths/FOLDER/" if keys[-1] == "path" else NAME_RULE
        case _:
            message = problem["msg"].lower().replace("input should", "should").replace("string should", "should")
    if keys == ["ssh_public_key"]:  # a private key, given instead, is not to be shown
        return f"{where}: expected the text of a public key, as in ~/.ssh/id_ed25519.pub"
    if keys[:1] == ["environment_variables"]:  # one of them may hold a secret
        return f"{where}: {message}"
    return f"{where}: {message}, got {shortened(json.dumps(problem['input']))}"


def _read_run(
    document: Mapping[str, object], changes: Overrides, *, job: JobConfig, path: Path
) -> tuple[RunConfig | None, list[str]]:
    """Return the settings that the node will find: defaults of the job, config.json, flags."""
    _, given = _objects(document)
    problems = [
        f"extraction.{key}: {NOT_FOR_JOBS[key]}"
        for key in sorted(NOT_FOR_JOBS.keys() & given.keys() - OVERRULED)
        if given[key] not in (None, False)
    ]
    of_job = {key: getattr(job, key) for key in COMMAND_VALUES if getattr(job, key) is not None}
    for key in COMMAND_VALUES:
        if (key,) in changes.job and key in changes.flags:
            problems.append(f"--set job.{key} and --set extraction.{key}: give one of them")
    flags = {
        name: str(path.parent / flag.text) if name in PATH_FIELDS else flag.value
        for name, flag in changes.flags.items()
    }
    elsewhere = JobConfig.model_fields.keys() - RunConfig.model_fields.keys() | {*WORKSPACE_KEYS, "tenant_id"}
    try:
        in_file = _without(extraction_object(document, path=path), {*elsewhere, *NOT_FOR_JOBS})
        defaults = defaults_of_job({ON_PARTIAL_VARIABLE: "warn"} if job.output.mode == "upload" else {})
        run = load_config(defaults | in_file, {**STAND_IN, **of_job, **flags})
    except ConfigError as error:
        lines = [line.strip().removeprefix(f"{path}: ") for line in error.message.splitlines()]
        origin = {f"--{key}": f"job.{key}" for key in of_job} | {f"--{key}": f"extraction.{key}" for key in flags}
        return None, [
            *problems,
            *(_with_origin(line, origin) for line in lines if line != "the settings cannot be used:"),
        ]
    return run, [*problems, *_problems_on_node(run, n_nodes=job.nodes)]


def _problems_on_node(run: RunConfig, *, n_nodes: int) -> list[str]:
    """Return what the settings themselves allow, but ends the program on the node."""
    problems = []
    if n_nodes > 1 and run.workers == 0:
        problems.append(f"extraction.workers: 0 stands for a run without workers, but job.nodes is {n_nodes}")
    for name in ("group_regex", "test_regex"):
        pattern = getattr(run, name)
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            problems.append(f"extraction.{name}: {shortened(repr(pattern))} is no regular expression: {error}")
    return problems


def _with_origin(line: str, origin: Mapping[str, str]) -> str:
    """Name the setting as it was given, not as the flag that it becomes."""
    flag, colon, rest = line.partition(":")
    return f"{origin.get(flag, flag)}{colon}{rest}"


def _read_files(
    document: Mapping[str, object], changes: Overrides, *, run: RunConfig | None, folder: Path
) -> tuple[tuple[ExtractionFile, ...], list[str]]:
    """Return the files that settings name, and what keeps them from being found on the node."""
    _, extraction = _objects(document)
    files, problems = [], []
    for setting in sorted(PATH_FIELDS - NOT_FOR_JOBS.keys()):
        flag = changes.flags.get(setting)
        text = extraction.get(setting) if flag is None else flag.text
        is_used = run is None or getattr(run, setting) is not None  # a flag takes back its rival in the file
        if not isinstance(text, str) or not text.strip() or not is_used:
            continue
        pure = PurePosixPath(text)
        if pure.is_absolute() or text.startswith("~") or ".." in pure.parts:
            problems.append(
                f"extraction.{setting}: {text} is not below the folder of config.json, and a node sees nothing else of "
                "this machine. Put the file there and give its path relative to config.json; it then travels along"
            )
        elif not (folder / pure).is_file():
            problems.append(f"extraction.{setting}: there is no file {folder / pure}")
        else:
            files.append(ExtractionFile(setting=setting, name=pure.as_posix(), path=folder / pure))
    return tuple(files), problems
