"""Interpreters for the start step: one that is on the node already, else one of our own, by way of uv.

It runs on Python 3.8 and newer, before anything is installed, and changes nothing that it has not made itself.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from wsi_extract.node_start.commands import BAKE, Commands, SetupError, explain

MINORS = (12, 11, 13, 14)
"""Of Python 3, the one that most packages have been tried with first."""
OWN_VERSION = "3.12"
HOMES = ("/opt/conda", "/opt/miniconda", "/opt/miniconda3", "/opt/anaconda3", "/usr/local", "/usr")
SYSTEM_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
PROBE = """
import platform, sys, sysconfig, ssl, sqlite3, ctypes, bz2, lzma, zlib, venv
good = platform.python_implementation() == "CPython" and sys.maxsize > 2**32
good = good and not sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info >= (3, 11)
print("good" if good else "other", platform.python_version())
"""
PROBE_LIMIT_S = 60.0
PIP_MAY_KNOW = frozenset(
    f"PIP_{name}"
    for name in (
        *("INDEX_URL", "EXTRA_INDEX_URL", "NO_INDEX", "FIND_LINKS", "TRUSTED_HOST", "CERT", "CLIENT_CERT", "PROXY"),
        *("TIMEOUT", "DEFAULT_TIMEOUT", "RETRIES", "KEYRING_PROVIDER", "CACHE_DIR", "NO_CACHE_DIR"),
    )
)
"""How an index is reached. All else, such as ``PIP_PYTHON`` or ``PIP_TARGET``, may send packages to somewhere else."""
UV_MAY_KNOW = frozenset(
    f"UV_{name}"
    for name in (
        *("PYTHON_INSTALL_MIRROR", "PYTHON_DOWNLOADS_JSON_URL", "NATIVE_TLS", "SYSTEM_CERTS"),
        *("HTTP_TIMEOUT", "INSECURE_HOST", "OFFLINE", "CONFIG_FILE"),
    )
)


def find_python(commands: Commands, *, own_folder: Path) -> str:
    """Return the path of an interpreter that can make environments, Python 3.11 or newer; make one if need be.

    Parameters
    ----------
    own_folder
        Where one of our own, and uv, go.

    Raises
    ------
    SetupError
        When there is none and none can be had.
    """
    for candidate in candidates(commands.environ):
        if is_good(commands, candidate):
            return candidate
    uv = _find_uv(commands, tools_folder=own_folder / "tools")
    private = replace(commands, environ=uv_environ(commands.environ, own_folder=own_folder))
    private.insist([uv, "python", "install", OWN_VERSION], what=f"fetching Python {OWN_VERSION} with uv")
    for candidate in _own_pythons(own_folder):
        if is_good(commands, candidate):
            return candidate
    raise SetupError(f"the Python {OWN_VERSION} that uv has fetched does not run on this node.", BAKE)


def is_good(commands: Commands, python: str) -> bool:
    """Tell whether an interpreter really runs here and has what an environment is made of."""
    finished = commands.run([python, "-I", "-B", "-c", PROBE], limit_s=PROBE_LIMIT_S)
    return finished.is_good and finished.output.split()[:1] == ["good"]


def candidates(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths of interpreters that may be good, the best first, each once."""
    seen = set()
    for candidate in _all_candidates(environ):
        if os.access(candidate, os.X_OK) and os.path.realpath(candidate) not in seen:
            seen.add(os.path.realpath(candidate))
            yield candidate


def _all_candidates(environ: Mapping[str, str]) -> Iterator[str]:
    if sys.version_info >= (3, 11) and sys.executable:
        yield sys.executable
    for minor in MINORS:
        found = shutil.which(f"python3.{minor}", path=environ.get("PATH"))
        if found is not None:
            yield found
    conda = environ.get("CONDA_EXE")
    homes = [Path(home) for home in HOMES] + ([Path(conda).resolve().parent.parent] if conda else [])
    for minor in MINORS:
        yield from (str(home / "bin" / f"python3.{minor}") for home in homes)
        for pattern in (f".pyenv/versions/3.{minor}.*", f".local/share/uv/python/cpython-3.{minor}.*"):
            root = Path(environ.get("HOME") or "/nonexistent")
            yield from sorted(str(path) for path in root.glob(f"{pattern}/bin/python3.{minor}"))


def _own_pythons(own_folder: Path) -> list[str]:
    return sorted(str(path) for path in own_folder.glob(f"python/cpython-{OWN_VERSION}*/bin/python{OWN_VERSION}"))


def pip_of_this_python(commands: Commands) -> list[str] | None:
    """Return the command for a pip that the starting Python has, be it only in a wheel for others; ``None`` if none.

    It writes no bytecode into the environment that started.
    """
    bundled = [
        *(Path(sysconfig.get_path("stdlib")) / "ensurepip" / "_bundled").glob("pip-*.whl"),
        *Path("/usr/share/python-wheels").glob("pip-*.whl"),
    ]
    for command in (["-B", "-m", "pip"], *(["-B", str(wheel / "pip")] for wheel in sorted(bundled, reverse=True))):
        if sys.executable and commands.run([sys.executable, *command, "--version"]).is_good:
            return [sys.executable, *command]
    return None


def _find_uv(commands: Commands, *, tools_folder: Path) -> str:
    found = shutil.which("uv", path=commands.environ.get("PATH"))
    if found is not None and commands.run([found, "--version"]).is_good:
        return found
    pip = pip_of_this_python(commands)
    if pip is None:
        raise SetupError(
            f"the environment has neither pip nor uv, and {sys.executable} is Python {sys.version.split()[0]}: there "
            "is nothing to get a newer Python with.",
            "Add pip to the environment's image, or Python 3.11 with the packages of requirements.txt.",
        )
    commands.insist(
        [*pip, "install", "--no-input", "--upgrade", "--target", str(tools_folder), "uv"], what="installing uv"
    )
    uv = str(tools_folder / "bin" / "uv")
    finished = commands.run([uv, "--version"])
    if not finished.is_good:
        raise explain(finished, what="starting uv")
    return uv


def pip_environ(commands: Commands, *, temporary_folder: Path) -> dict[str, str]:
    """Return the variables for pip: it knows how the index is reached, as the pip of the environment that started does.

    pip's own files are read once, here, and by that pip: those of conda and of virtual environments lie beside it.

    Parameters
    ----------
    temporary_folder
        Where packages are unpacked: 250 MB, for which there may be no room in ``TMPDIR``.
    """
    environ = dict(commands.environ, TMPDIR=str(temporary_folder))
    pip = pip_of_this_python(commands)
    if pip is None:
        return environ
    lines = commands.run([*pip, "config", "list"]).output.splitlines()
    in_files = {}
    for section in ("global", "install"):  # the later wins
        for match in filter(None, (re.fullmatch(rf"{section}\.([\w-]+)=(['\"])(.*)\2", line) for line in lines)):
            name = f"PIP_{match[1].upper().replace('-', '_')}"
            if name in PIP_MAY_KNOW:
                in_files[name] = " ".join(match[3].replace("\\n", " ").split())
    return {**in_files, **environ, "PIP_CONFIG_FILE": os.devnull}


def uv_environ(environ: Mapping[str, str], *, own_folder: Path) -> dict[str, str]:
    """Return the environment for uv: everything it writes stays in our folder; proxy and certificates are pip's.

    >>> uv_environ({"PIP_PROXY": "http://p:1"}, own_folder=Path("/o"))["HTTPS_PROXY"]
    'http://p:1'
    """
    result = {name: value for name, value in environ.items() if not name.startswith("UV_") or name in UV_MAY_KNOW}
    result["UV_PYTHON_INSTALL_DIR"] = str(own_folder / "python")
    result["UV_PYTHON_BIN_DIR"] = str(own_folder / "tools" / "bin")
    result["UV_PYTHON_INSTALL_BIN"] = "0"  # else python3.12 appears in ~/.local/bin
    result["UV_CACHE_DIR"] = str(own_folder / "tools" / "cache")
    result["UV_NO_PROGRESS"] = "1"
    proxy = environ.get("PIP_PROXY")
    if proxy and not {"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} & set(environ):
        result["HTTPS_PROXY"] = result["HTTP_PROXY"] = proxy
    if not {"SSL_CERT_FILE", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS"} & set(environ):
        named = (environ.get("PIP_CERT"), environ.get("REQUESTS_CA_BUNDLE"))
        certificates = next((path for path in (*named, *SYSTEM_CERTIFICATES) if path and Path(path).is_file()), None)
        if certificates is not None:
            result["SSL_CERT_FILE"] = certificates
    return result
