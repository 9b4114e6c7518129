"""What settings of a job may not be meant: said before it is submitted, and no reason to refuse it."""

from __future__ import annotations

import re

from wsi_extract.azure_job.settings import JobSettings

SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|CONNECTION_STRING|_KEY$|_SAS$", re.IGNORECASE)
OF_EACH_JOB = "${{name}}"
"""Stands for the name of the job in the path of an output."""


def warnings_of(settings: JobSettings) -> list[str]:
    """Return what a user may want to change, one line each."""
    of_output = _of_upload(settings) if settings.job.output.mode == "upload" else _of_mount(settings)
    return [*of_output, *_of_machines(settings), *_of_variables(settings)]


def _of_upload(settings: JobSettings) -> list[str]:
    found = []
    path = settings.job.output.path
    if path is not None and OF_EACH_JOB not in path:
        found.append(
            f"job.output.mode is upload, and job.output.path is {path}: files that an earlier job has left there stay "
            f"among those of this one. Give each job a folder of its own, or one with {OF_EACH_JOB} in its name"
        )
    if settings.run.on_partial == "fail":
        found.append(
            "extraction.on_partial is fail, and job.output.mode is upload: if one slide fails, the job fails and "
            "nothing at all is uploaded; warn keeps the other slides"
        )
    if settings.job.nodes > 1:
        found.append(
            f"job.output.mode is upload, and job.nodes is {settings.job.nodes}: everything is kept on the first node "
            "until the job has succeeded; rw_mount keeps what is finished if that node is lost"
        )
    return found


def _of_mount(settings: JobSettings) -> list[str]:
    found = []
    if settings.run.store.has_png:
        found.append(
            f"job.output.mode is rw_mount, and extraction.store is {settings.run.store.value}: every patch is a file, "
            "and every file a request to the storage, which is slow; store zarr puts many patches into one file"
        )
    path = settings.job.output.path
    if path is None or OF_EACH_JOB in path:
        how = "without job.output.path" if path is None else f"and job.output.path holds {OF_EACH_JOB}"
        found.append(
            f"job.output.mode is rw_mount {how}: each job gets a folder of its own, so that no later job can resume "
            "this one"
        )
    if settings.run.fresh:
        found.append(
            "extraction.fresh is true, and job.output.mode is rw_mount: a job that the service restarts deletes what "
            "it had finished"
        )
    return found


def _of_machines(settings: JobSettings) -> list[str]:
    if settings.run.workers is None:
        return []
    text = f"extraction.workers is {settings.run.workers}: every node starts that many processes"
    return [f"{text}, however many cores it has; leave it out for one per core"]


def _of_variables(settings: JobSettings) -> list[str]:
    names = [name for name in settings.job.environment_variables if SECRET_NAME.search(name)]
    if not names:
        return []
    return [f"job.environment_variables: everybody who sees the job can read {', '.join(names)}"]
