"""A small program with the real start step, and packages for it that are made on the spot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_START = ("__init__", "commands", "environment", "folder", "interpreters", "prepare", "requirements")
MODULES = ("__init__", *(f"node_start/{name}" for name in OF_START))
PROGRAM = """
from wsi_extract.node_start.prepare import prepare_node
if __name__ == "__main__":
    prepare_node()
import json, os, sys
import tiny_thing
print(json.dumps({"argv": sys.argv, "cwd": os.getcwd(), "prefix": sys.prefix, "path": sys.path,
                  "tiny": tiny_thing.__file__, "environ": dict(os.environ)}))
sys.exit(7)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with the start step, a program that ends with 7, and the packages that an index would have."""

    folder: Path

    @property
    def environments(self) -> Path:
        """Where environments are made."""
        return self.folder / "envs" / f"wsi_extract-{os.geteuid()}"

    def environ(self, **more: str) -> dict[str, str]:
        """Return the variables of a node without a network."""
        names = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
        inherited = {name: os.environ[name] for name in names if name in os.environ}
        own = {
            "WSI_EXTRACT_SETUP": "auto",
            "WSI_EXTRACT_ENV_DIR": str(self.folder / "envs"),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.folder / "index"),
            "PIP_CONFIG_FILE": os.devnull,
        }
        return inherited | own | more

    def start(self, *arguments: str, environ: Mapping[str, str], python: str = sys.executable) -> subprocess.Popen[str]:
        """Start the program."""
        command = [python, "-u", "program.py", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, env=dict(environ), text=True, **streams)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program has ended."""

    code: int
    told: dict[str, object]
    """What it printed about itself; empty when it did not come so far."""
    errors: str


def finish(process: subprocess.Popen[str]) -> Ended:
    """Wait for a program."""
    output, errors = process.communicate(timeout=600)
    return Ended(code=process.returncode, told=json.loads(output) if output else {}, errors=errors)


def make_project(folder: Path) -> Project:
    """Write the program, its requirements.txt, and a package index of one package."""
    (folder / "wsi_extract" / "node_start").mkdir(parents=True)
    for name in MODULES:
        shutil.copy(ROOT / "wsi_extract" / f"{name}.py", folder / "wsi_extract" / f"{name}.py")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "requirements.txt").write_text("tiny-thing>=1.0  # of no use\n")
    (folder / "index").mkdir()
    (folder / "envs").mkdir()
    write_wheel(folder / "index", "tiny-thing", "1.2")
    return Project(folder=folder)


def write_wheel(folder: Path, name: str, version: str, *, needs: str = "") -> None:
    """Write a package of one module."""
    module = name.replace("-", "_")
    described = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{module}.py": f"version = {version!r}\n",
        f"{described}/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{described}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{described}/RECORD"])
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in [*files.items(), (f"{described}/RECORD", record)]:
            archive.writestr(file, text)


def unpack_wheels(index: Path, folder: Path) -> None:
    """Install all packages of an index into a folder, as into ``PYTHONPATH``."""
    for wheel in index.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
