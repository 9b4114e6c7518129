"""The private environment of the start step: found complete, or made, and never used half-made.

::

    <WSI_EXTRACT_ENV_DIR, else a local disk>/wsi_extract-<user id>/     mode 0700, ours
        <digest>.lock            held by the process that looks, and by every program it runs
        <digest>/
            complete             the name of an attempt; written last, when everything was imported once
            attempt-<random>/
                python/, tools/  an interpreter and uv, where the node had no Python that is new enough
                tmp/             where packages are unpacked
                venv/            the environment

Every attempt has a folder of its own: what a process that was killed has left running writes into no environment that
is used, and one that is complete is never changed. The digest covers requirements.txt, the machine and the Python that
started. Nodes may share the disk, and do where ``TMPDIR`` is a network folder: none removes what another has begun.

It runs on Python 3.8 and newer, before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_extract.node_start.commands import BAKE, Commands, SetupError, explain
from wsi_extract.node_start.folder import COMPLETE, locked, private_folder
from wsi_extract.node_start.interpreters import PIP_MAY_KNOW, find_python, pip_environ, pip_of_this_python
from wsi_extract.node_start.requirements import installed, read_requirements

FORMAT = "2"
"""Part of the digest: to be changed when environments are made in another way."""
ATTEMPT = f"attempt-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"
"""Of this node; other nodes' locks may not be seen here."""
TIME_LIMIT_S = 1200.0
IMPORT_LIMIT_S = 300.0
TRACKING_LIMIT_S = 300.0
TRACKING = ("mlflow-skinny>=3", "azureml-mlflow>=1.62,<2")
PIP_INSTALL = ("install", "--no-input", "--progress-bar", "off", "--prefer-binary")
NOT_FOR_US = ("PYTHONPATH", "PYTHONHOME", "PYTHONPLATLIBDIR", "PYTHONSAFEPATH", "PYTHONWARNINGS")
"""They belong to the environment that started; one that makes warnings errors fails pip and half of the packages."""
LOADER = ("LD_LIBRARY_PATH", "LD_PRELOAD")
IMPORT_ALL = """
import importlib, os, sys
from importlib.metadata import distribution
for name in sys.argv[1:]:
    for path in distribution(name).files or ():
        top, is_module = path.parts[0].split(".")[0], len(path.parts) == 1 and path.suffix in (".py", ".so")
        is_package = len(path.parts) == 2 and path.name == "__init__.py" and path.parts[0] == top
        if (is_module or is_package) and top.isidentifier() and not top.startswith("_"):
            file = importlib.import_module(top).__file__
            if file and not os.path.samefile(file, path.locate()):
                raise ImportError(f"{file} is not of {name}")
            print(name, top)
"""
"""Prints each package with the modules of it that were imported."""


@dataclass(frozen=True)
class Environment:  # slots and kw_only need Python 3.10
    """A Python that has everything, and the variables it runs with."""

    python: str
    environ: dict[str, str]


def open_environment(
    requirements: Path, *, environ: Mapping[str, str], say: Callable[[str], None], limit_s: float = TIME_LIMIT_S
) -> Environment:
    """Return the private environment for a requirements.txt; make it if it is not there.

    Parameters
    ----------
    say
        Takes one line about what goes on.
    limit_s
        After that much time it fails, so that no job waits for a day.

    Raises
    ------
    SetupError
        When it cannot be made: no network, no room, no Python.
    """
    started_s = time.monotonic()
    with_tracking = wants_tracking(environ)
    digest = _digest(requirements, with_tracking=with_tracking)
    folder = private_folder(environ, digest=digest) / digest
    with locked(folder.with_suffix(".lock"), say=say, ends_at_s=started_s + limit_s) as descriptor:
        commands = Commands(isolated(environ), started_s + limit_s, say, descriptor)
        names = [requirement.name for requirement in read_requirements(requirements)]
        return _reuse(folder, names, commands=commands) or _build(
            folder, names, requirements=requirements, commands=commands, with_tracking=with_tracking
        )


def import_here(requirements: Path, *, say: Callable[[str], None]) -> str:
    """Import every package of a requirements.txt with this Python, in another process; return why one fails or ``""``.

    Raises
    ------
    SetupError
        When that takes longer than a few minutes.
    """
    found = [installed(requirement.name) for requirement in read_requirements(requirements)]
    commands = Commands(os.environ, time.monotonic() + IMPORT_LIMIT_S, say)
    finished = commands.run([sys.executable, "-c", IMPORT_ALL, *(item[0] for item in found if item is not None)])
    return "" if finished.is_good else _last_line(finished.output)


def isolated(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that would mix the environment that started into ours, or ours into that.

    Of pip's own only those stay that are about reaching an index: ``PIP_PYTHON`` would have pip change the environment
    that started, and images for training pin NumPy with ``PIP_CONSTRAINT``.
    """
    for_pip = PIP_MAY_KNOW | {"PIP_CONFIG_FILE"}
    result = {
        name: value
        for name, value in environ.items()
        if name not in NOT_FOR_US and (name in for_pip or not name.startswith("PIP_"))
    }
    result.update(PYTHONNOUSERSITE="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    return result


def _digest(requirements: Path, *, with_tracking: bool) -> str:
    python = f"{platform.python_implementation()} {sys.version} {os.path.realpath(sys.executable or '')}"
    parts = (FORMAT, str(with_tracking), python, platform.system(), platform.machine(), *platform.libc_ver())
    text = os.fsencode("\0".join(parts)) + b"\0" + requirements.read_bytes()
    return hashlib.sha256(text).hexdigest()[:16]


def _reuse(folder: Path, names: Sequence[str], *, commands: Commands) -> Environment | None:
    attempt = _complete_attempt(folder)
    if attempt is None:
        return None
    environment, problem = import_all(_python_of(attempt), names, commands=commands)
    if environment is None:
        commands.say(f"the environment in {attempt} is damaged, another is made: {problem}")
    return environment


def _complete_attempt(folder: Path) -> Path | None:
    try:
        return folder / (folder / COMPLETE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _python_of(attempt: Path) -> str:
    return str(attempt / "venv" / "bin" / "python")


def import_all(python: str, names: Sequence[str], *, commands: Commands) -> tuple[Environment | None, str]:
    """Import every package in a new process, and return what it takes to run there, or the last line of the error.

    Libraries of the environment that started can break others by way of ``LD_LIBRARY_PATH``: if so, it goes.
    """
    output = ""
    without_loader = {name: value for name, value in commands.environ.items() if name not in LOADER}
    for environ in (dict(commands.environ), without_loader):
        finished = replace(commands, environ=environ).run([python, "-c", IMPORT_ALL, *names])
        if finished.is_good:
            return Environment(python, environ), ""
        output = output or finished.output
        if environ == without_loader:
            break
    return None, _last_line(output)


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["it printed nothing"])[-1]


def _build(
    folder: Path, names: Sequence[str], *, requirements: Path, commands: Commands, with_tracking: bool
) -> Environment:
    started_s = time.monotonic()
    folder.mkdir(mode=0o700, exist_ok=True)
    if commands.lock_descriptor is not None:
        _remove_incomplete(folder)
    attempt = Path(tempfile.mkdtemp(prefix=ATTEMPT, dir=str(folder)))
    commands.say(f"making an environment in {attempt}; it takes a minute or two")
    try:
        environment = _fill(attempt, names, requirements=requirements, commands=commands, with_tracking=with_tracking)
        if environment is not None:
            (attempt / COMPLETE).write_text(attempt.name, encoding="utf-8")
            (attempt / COMPLETE).replace(folder / COMPLETE)
    except (SetupError, OSError):
        shutil.rmtree(attempt, ignore_errors=True)  # its room may be what others lack
        raise
    if environment is not None:
        commands.say(f"ready in {time.monotonic() - started_s:.0f} s")
        return environment
    commands.say("MLflow has left the environment unfit, another is made without")
    shutil.rmtree(attempt, ignore_errors=True)
    return _build(folder, names, requirements=requirements, commands=commands, with_tracking=False)


def _fill(
    attempt: Path, names: Sequence[str], *, requirements: Path, commands: Commands, with_tracking: bool
) -> Environment | None:
    """Make the environment of an attempt and try it out; return ``None`` when it is MLflow that has spoilt it."""
    (attempt / "tmp").mkdir(mode=0o700)
    installing = replace(commands, environ=pip_environ(commands, temporary_folder=attempt / "tmp"))
    python = find_python(installing, own_folder=attempt)
    pip = _make_venv(attempt, python=python, commands=installing)
    install = [*PIP_INSTALL, "-r", str(requirements)]
    installing.insist([*pip, *install], what=f"installing the packages of {requirements.name}")
    is_whole = not with_tracking or add_tracking(attempt, requirements=requirements, commands=installing)
    environment, problem = import_all(_python_of(attempt), names, commands=commands)
    if with_tracking and not (is_whole and environment):
        return None
    if environment is None:
        raise SetupError(
            f"the packages were installed, but cannot be used on this node: {problem}",
            f"Where a library of the system is missing, add it to the environment's image. {BAKE}",
        )
    return environment


def _remove_incomplete(folder: Path) -> None:
    """Remove what dead processes have left, but no environment that was complete once: programs may run in it."""
    complete = _complete_attempt(folder)
    for attempt in folder.glob(f"{ATTEMPT}*"):
        if attempt != complete:
            shutil.rmtree(attempt, ignore_errors=True)  # a program that is still dying may write into it


def _make_venv(attempt: Path, *, python: str, commands: Commands) -> list[str]:
    """Make the environment's folders, and return the command of a pip that installs into it."""
    venv = attempt / "venv"
    own_pip = [_python_of(attempt), "-m", "pip"]
    finished = commands.run([python, "-m", "venv", str(venv)])
    if finished.is_good and commands.run([*own_pip, "--version"]).is_good:
        return own_pip
    # Distributions take ensurepip out of Python; then a pip is brought in from outside.
    finished = commands.run([python, "-m", "venv", "--clear", "--without-pip", str(venv)])
    if not finished.is_good:
        raise explain(finished, what="making a virtual environment")
    pip = pip_of_this_python(commands)
    if pip is None:
        raise SetupError("the environment has no pip.", "Add pip to the environment's image.")
    tools = attempt / "tools" / "pip"
    commands.insist([*pip, *PIP_INSTALL, "--target", str(tools), "pip"], what="fetching pip")
    # It sees itself; without --ignore-installed there would be nothing to do.
    install = [str(tools / "pip"), *PIP_INSTALL, "--ignore-installed", "pip"]
    commands.insist([_python_of(attempt), *install], what="installing pip")
    return own_pip


def wants_tracking(environ: Mapping[str, str]) -> bool:
    """Tell whether the job's metrics are kept by MLflow: the platform offers it, and the environment had it."""
    is_offered = bool(environ.get("MLFLOW_TRACKING_URI") or environ.get("AZUREML_RUN_ID"))
    return is_offered and installed("mlflow-skinny") is not None


def add_tracking(attempt: Path, *, requirements: Path, commands: Commands) -> bool:
    """Install MLflow beside the packages. The job does not depend on it: a failure is one warning.

    The packages of requirements.txt keep their versions. What they need may get another one that they accept: MLflow
    is behind dask's importlib-metadata.

    Returns
    -------
    bool
        Whether the environment is whole: as it was, or with MLflow.
    """
    pip = [_python_of(attempt), "-m", "pip"]
    names = {requirement.name.lower() for requirement in read_requirements(requirements)}
    before = commands.run([*pip, "freeze"]).output
    pins = [line for line in before.splitlines() if line.partition("==")[0].lower().replace("_", "-") in names]
    (attempt / "pins.txt").write_text("\n".join(pins), encoding="utf-8")
    install = [*PIP_INSTALL, "-r", str(requirements), "-c", str(attempt / "pins.txt"), *TRACKING]
    ends_at_s = min(commands.ends_at_s, time.monotonic() + TRACKING_LIMIT_S)
    try:
        replace(commands, ends_at_s=ends_at_s).insist([*pip, *install], what="installing MLflow")
    except SetupError as error:
        commands.say(f"warning: no metrics in the studio, the job goes on without: {error.message.splitlines()[0]}")
        return commands.run([*pip, "freeze"]).output == before
    return True
