"""What a job will be, decided before anything is sent: to be shown, written as a job description, or submitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from wsi_extract import __version__
from wsi_extract.azure_job.command import INPUT_NAME, OUTPUT_NAME, build_command
from wsi_extract.azure_job.job_config import PREFIX, JobConfig, OutputConfig
from wsi_extract.azure_job.job_warnings import warnings_of
from wsi_extract.azure_job.settings import JobSettings
from wsi_extract.azure_job.snapshot import CONFIG_NAME, PROGRAM_NAME, Snapshot, list_snapshot, snapshot_warnings
from wsi_extract.azure_job.workspace import Workspace, describe_placeholders
from wsi_extract.config_sources import ON_PARTIAL_VARIABLE
from wsi_extract.printable import as_one_line

SCHEMA = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
SERVICE_TYPES: Mapping[str, str] = {"vscode": "vs_code", "jupyterlab": "jupyter_lab", "ssh": "ssh"}
"""Our names of services -> those of job descriptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A job with all its values, as the service gets them.

    Attributes
    ----------
    environment, data
        As the SDK wants them: environments without ``azureml:``, data assets with it.
    files_by_setting
        Names on the node of files that settings name, by setting; they are part of the snapshot.
    tags
        Which program it runs, then what the settings add or replace.
    problems
        What keeps the job from being submitted, one line each.
    warnings
        What may not be meant, one line each.
    """

    workspace: Workspace
    command: str
    display_name: str
    experiment: str
    compute: str
    environment: str
    data: str
    data_mode: str
    output: OutputConfig
    environment_variables: Mapping[str, str]
    nodes: int
    timeout_s: int | None
    tags: Mapping[str, str]
    services: tuple[str, ...]
    ssh_public_key: str | None
    snapshot: Snapshot
    files_by_setting: Mapping[str, str]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def plan_job(settings: JobSettings, *, root: Path) -> JobPlan:
    """Decide everything about a job.

    Parameters
    ----------
    root
        Folder of the program that is sent along.

    Raises
    ------
    ConfigError
        When the command or the files of the job cannot be sent.
    """
    job = settings.job
    snapshot = list_snapshot(
        root, config_path=settings.config_path, extra={file.name: file.path for file in settings.files}
    )
    return JobPlan(
        workspace=settings.workspace,
        command=build_command(settings),
        display_name=job.display_name or f"extract-patches-{settings.run.patches_per_slide}pps",
        experiment=job.experiment,
        compute=job.compute,
        environment=job.environment,
        data=job.data,
        data_mode=job.data_mode,
        output=job.output,
        environment_variables=_environment_variables(job),
        nodes=job.nodes,
        timeout_s=job.timeout_s,
        tags={"wsi_extract": __version__, "wsi_extract_files": snapshot.digest[:16], **job.tags},
        services=job.services,
        ssh_public_key=job.ssh_public_key,
        snapshot=snapshot,
        files_by_setting={file.setting: file.name for file in settings.files},
        problems=tuple(describe_placeholders(settings.workspace, settings.tenant_id, path=settings.config_path)),
        warnings=(*warnings_of(settings), *snapshot_warnings(snapshot)),
    )


def _environment_variables(job: JobConfig) -> dict[str, str]:
    """Return what the node is told beside the command; every value is a text, as the service wants."""
    variables = {"PYTHONUNBUFFERED": "1", "DATASET_MOUNT_BLOCK_BASED_CACHE_ENABLED": "false"}
    if job.setup == "auto":
        variables["WSI_EXTRACT_SETUP"] = "auto"
    if job.output.mode == "upload":
        variables[ON_PARTIAL_VARIABLE] = "warn"  # a job that fails uploads nothing, not even its good slides
    else:
        variables["WSI_EXTRACT_COMMIT"] = "direct"
    if job.nodes > 1:
        variables["WSI_EXTRACT_NODES"] = str(job.nodes)
    return {**variables, **job.environment_variables}


def job_yaml(plan: JobPlan) -> str:
    """Return a job description for ``az ml job create --file``, to be given in the folder of the program.

    Beginning with comments on what ``.amlignore`` there does not let through, if a setting names such a file.
    """
    output = {"type": "uri_folder", **plan.output.model_dump(exclude_none=True)}
    document: dict[str, object] = {
        "$schema": SCHEMA,
        "type": "command",
        "display_name": plan.display_name,
        "experiment_name": plan.experiment,
        "code": ".",
        "command": plan.command,
        "environment": PREFIX + plan.environment,
        "compute": PREFIX + plan.compute,
        "inputs": {INPUT_NAME: {"type": "uri_folder", "path": plan.data, "mode": plan.data_mode}},
        "outputs": {OUTPUT_NAME: output},
        "environment_variables": dict(plan.environment_variables),
    }
    if plan.tags:
        document["tags"] = dict(plan.tags)
    if plan.nodes > 1:
        document["resources"] = {"instance_count": plan.nodes}
        document["distribution"] = {"type": "pytorch", "process_count_per_instance": 1}
    if plan.timeout_s is not None:
        document["limits"] = {"timeout": plan.timeout_s}
    if plan.services:
        document["services"] = {name: _service(name, plan) for name in plan.services}
    text: str = yaml.safe_dump(document, sort_keys=False, width=1_000_000)  # with allow_unicode, U+0085 would be lost
    return _notes(plan) + text


def _notes(plan: JobPlan) -> str:
    """Say in comments what a job made from the description would lack."""
    paths = {file.name: file.path for file in plan.snapshot.files}
    notes = []
    if paths[CONFIG_NAME] != root_of(plan.snapshot) / CONFIG_NAME:
        notes.append(f"copy {paths[CONFIG_NAME]} to {CONFIG_NAME} here")
    for setting, name in plan.files_by_setting.items():
        notes.append(f"extraction.{setting}: {name} must lie here, and .amlignore must let it through")
    return "".join(f"# {as_one_line(note)}\n" for note in notes)


def root_of(snapshot: Snapshot) -> Path:
    """Return the folder of the program."""
    return next(file.path.parent for file in snapshot.files if file.name == PROGRAM_NAME)


def _service(name: str, plan: JobPlan) -> dict[str, object]:
    key = {"ssh_public_keys": plan.ssh_public_key} if name == "ssh" else {}
    return {"type": SERVICE_TYPES[name], **key}
