"""What a dry run shows: the job, what is sent, the same job for Azure's own tools, and what speaks against it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from wsi_extract.azure_job.command import INPUT_NAME, OUTPUT_NAME
from wsi_extract.azure_job.job_config import OutputConfig
from wsi_extract.azure_job.job_plan import JobPlan, job_yaml, root_of
from wsi_extract.azure_job.job_warnings import SECRET_NAME
from wsi_extract.azure_job.next_steps import where_az_looks
from wsi_extract.azure_job.snapshot import Snapshot, SnapshotFile
from wsi_extract.printable import as_one_line

MODE_TEXTS: Mapping[str, str] = {
    "ro_mount": "mounted read-only (ro_mount)",
    "download": "downloaded to each node before the job starts (download)",
    "upload": "uploaded when the job has succeeded (upload)",
    "rw_mount": "written to the storage file by file (rw_mount)",
}
HIDDEN = "***"
TITLE_WIDTH = 13
YAML_BEGINS, YAML_ENDS = "# ----- job.yml begins -----", "# ----- job.yml ends -----"
YAML_NOTES = (
    "The same job for Azure's own tools. Save it as job.yml beside run_extraction.py: 'code: .' is the folder of",
    "job.yml, and .amlignore there lets the files above through and nothing else. These tools also note the git",
    "commit and the remote of that folder in the job.",
)


def describe(plan: JobPlan, *, is_verbose: bool = False) -> list[str]:
    """Return what a person wants to see before a job is submitted, as lines: warnings and problems come last.

    Parameters
    ----------
    is_verbose
        List every file, else those of the package by folder.
    """
    lines = []
    for title, texts in _describe_values(plan):
        for text, shown in zip(texts, [title, *[""] * len(texts)], strict=False):
            lines.append(as_one_line(f"{shown:<{TITLE_WIDTH}}{text}"))
    lines += ["", "The command, as the service gets it:", plan.command]
    lines += ["", *_describe_files(plan.snapshot, is_verbose=is_verbose)]
    lines += ["", *_describe_yaml(plan)]
    for kind, found in (("warning", plan.warnings), ("problem", plan.problems)):
        if found:
            lines += ["", *(as_one_line(f"{kind}: {text}") for text in found)]
    if not plan.problems:
        lines += ["", "It can be submitted. Compute, environment and data are looked up then."]
    return lines


def _describe_files(snapshot: Snapshot, *, is_verbose: bool) -> list[str]:
    root = root_of(snapshot)
    total = f"{len(snapshot.files):,} files, {snapshot.n_bytes / 1e6:,.1f} MB, are sent with the job"
    lines = [f"{total}:" if is_verbose else f"{total} (-v lists them all):"]
    folded: dict[str, list[SnapshotFile]] = defaultdict(list)
    for file in snapshot.files:
        is_of_program = file.path == root / file.name
        folder = str(PurePosixPath(file.name).parent)
        if is_of_program and folder != "." and not is_verbose:
            folded[folder].append(file)
        else:
            origin = "" if is_of_program else f"  from {file.path}"
            lines.append(as_one_line(f"  {file.n_bytes:>11,}  {file.name}{origin}"))
    for folder, files in folded.items():
        n_bytes = sum(file.n_bytes for file in files)
        many = "1 file" if len(files) == 1 else f"{len(files):,} files"
        lines.append(as_one_line(f"  {n_bytes:>11,}  {folder}/  {many}"))
    return lines


def _describe_yaml(plan: JobPlan) -> list[str]:
    """Return the job description between marks that are comments of it, so that they may be copied along."""
    hidden = [name for name in plan.environment_variables if SECRET_NAME.search(name)]
    shown = {name: _shown_value(name, value) for name, value in plan.environment_variables.items()}
    notes = [*YAML_NOTES, f"Then: az ml job create --file job.yml {where_az_looks(plan.workspace)}"]
    if hidden:
        notes.append(f"Not shown here, to be filled in: {', '.join(hidden)}")
    text = job_yaml(dataclasses.replace(plan, environment_variables=shown))
    return [YAML_BEGINS, *(as_one_line(f"# {note}") for note in notes), *text.splitlines(), YAML_ENDS]


def _describe_values(plan: JobPlan) -> list[tuple[str, list[str]]]:
    """Titles, with one or more lines of text each."""
    workspace = plan.workspace
    where = f"resource group {workspace.resource_group}, subscription {workspace.subscription_id}"
    values = [
        ("workspace", [workspace.workspace_name, where]),
        ("job", [f"{plan.display_name}, experiment {plan.experiment}"]),
        ("compute", [f"{plan.compute}, {plan.nodes} node{'s' if plan.nodes > 1 else ''}"]),
        ("environment", [plan.environment]),
        ("input", [f"{INPUT_NAME} = {plan.data}, {MODE_TEXTS[plan.data_mode]}"]),
        ("output", _describe_output(plan.output)),
        ("variables", [f"{name}={_shown_value(name, value)}" for name, value in plan.environment_variables.items()]),
        ("tags", [f"{name}={value}" for name, value in plan.tags.items()]),
        ("services", [", ".join(plan.services)] if plan.services else []),
        ("time limit", [] if plan.timeout_s is None else [f"{plan.timeout_s:,} s"]),
    ]
    return [(title, texts) for title, texts in values if texts]


def _shown_value(name: str, value: str) -> str:
    return HIDDEN if SECRET_NAME.search(name) else value  # what is shown is often kept, as by build servers


def _describe_output(output: OutputConfig) -> list[str]:
    lines = [f"{OUTPUT_NAME}, {MODE_TEXTS[output.mode]}"]
    if output.path is not None:
        lines.append(f"in {output.path}")
    if output.name is not None:
        version = f"version {output.version}" if output.version is not None else "its next version"
        lines.append(f"registered as data asset {output.name}, {version}, when the job has completed")
    return lines
