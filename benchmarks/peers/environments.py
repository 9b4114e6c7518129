"""A virtual environment for each program, made once and kept, or the reason why there is none.

<cache>/<script>-<digest>/bin/python      made by `ensure_environment`; the digest is of what is installed
<cache>/<script>-<digest>/ready           the version of the program; written last
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.catalogue import Peer
from wsi_extract.disk.files import write_atomically

INSTALL_LIMIT_S = 1800
"""A program whose installation takes longer counts as one that does not install."""
_READY = "ready"
_REASON_CHARACTERS = 300


class UnavailablePeerError(RuntimeError):
    """A program cannot be run here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a program is installed."""

    python: Path
    version: str
    """Of the program."""


def default_cache() -> Path:
    """Return where environments are kept unless the user says otherwise: below ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsi_extract" / "peers"


def ensure_environment(peer: Peer, *, cache: Path) -> Environment:
    """Return the environment of a program; make it unless it is there.

    An environment that was begun and not finished is made anew.

    Raises
    ------
    UnavailablePeerError
        When its Python is missing, or something cannot be installed or imported.
    """
    folder = cache / _folder_name(peer)
    python, ready = folder / "bin" / "python", folder / _READY
    if ready.is_file():
        return Environment(python=python, version=ready.read_text().strip())
    interpreter = find_python(peer.python)
    shutil.rmtree(folder, ignore_errors=True)
    sys.stderr.write(f"installing {peer.distribution} in {folder}\n")
    try:
        _run((str(interpreter), "-m", "venv", str(folder)))
        for arguments in peer.pip:
            _run((str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments))
        # Importing the script imports the program: what is installed need not be what can be used.
        _run((str(python), "-W", "ignore", "-c", f"import benchmarks.peers.scripts.{peer.script}"))
        ask = f"import importlib.metadata; print(importlib.metadata.version({peer.distribution!r}))"
        version = _run((str(python), "-c", ask)).strip()
    except UnavailablePeerError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_atomically(ready, f"{version}\n".encode())
    return Environment(python=python, version=version)


def _folder_name(peer: Peer) -> str:
    wanted = repr((peer.pip, peer.distribution, peer.python or platform.python_version()))
    return f"{peer.script}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"


def find_python(version: str | None) -> Path:
    """Return an interpreter of a version such as ``3.10``, from the ``PATH`` or from pyenv; ``None``: this one.

    Raises
    ------
    UnavailablePeerError
        When there is none.
    """
    if version is None or platform.python_version().startswith(f"{version}."):
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = shutil.which(f"python{version}")
    candidates = [Path(on_path)] if on_path else []
    candidates += sorted((pyenv / "versions").glob(f"{version}.*/bin/python"))
    for candidate in candidates:
        # A shim of pyenv is on the PATH for versions, too, that it then refuses to run.
        answer = subprocess.run((str(candidate), "--version"), capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.startswith(f"Python {version}."):
            return candidate
    raise UnavailablePeerError(f"there is no Python {version}, which it needs")


def _run(command: Sequence[str]) -> str:
    """Run one step in the root of this checkout and return what it printed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
            check=True,
            cwd=Path(__file__).resolve().parents[2],
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailablePeerError(f"installing took longer than {INSTALL_LIMIT_S} s") from error
    except subprocess.CalledProcessError as error:
        raise UnavailablePeerError(reason_of(f"{error.stdout}\n{error.stderr}")) from error
    return done.stdout


def reason_of(printed: str) -> str:
    """Return the line of a failed installation or import that says most: the last one that names an error."""
    lines = [line.strip() for line in printed.splitlines() if line.strip() and "WARNING" not in line]
    errors = [line for line in lines if "error" in line.lower() and "This error originates" not in line]
    chosen = errors[-1] if errors else (lines[-1] if lines else "it failed without a word")
    return chosen[:_REASON_CHARACTERS]
