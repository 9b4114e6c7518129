"""Copies of the program as users have them: beside history, environments, data and results."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.azure.emulator import TRIPLE

ROOT = Path(__file__).resolve().parents[2]
SECRET = "ghp_secretOfTheRepository"
"""Stands in every file that must not travel."""


def read_shipped() -> dict[str, object]:
    """Return the config file as it is shipped, with the emulated workspace filled in."""
    document: dict[str, object] = json.loads((ROOT / "config.json").read_bytes())
    return {**document, **TRIPLE}


def write_program(folder: Path, **settings: object) -> Path:
    """Copy the program into a folder, with its config file; ``settings`` replace top-level keys, None removes one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("run_extraction.py", "submit_job.py", "requirements.txt", ".amlignore"):
        if (ROOT / name).exists():
            shutil.copyfile(ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.tmp")  # and what is being edited meanwhile
    shutil.copytree(ROOT / "wsi_extract", folder / "wsi_extract", ignore=ignored, dirs_exist_ok=True)
    document = {key: value for key, value in {**read_shipped(), **settings}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    return folder


def add_junk(folder: Path) -> None:
    """Fill a copy of the program with everything a working copy collects."""
    files = (
        ".git/HEAD",
        ".git/objects/ab/cdef",
        ".gitignore",
        ".venv/bin/python",
        ".venv/lib/config.json",
        ".venv/lib/wsi_extract/__init__.py",
        ".env",
        "__pycache__/run_extraction.cpython-311.pyc",
        "wsi_extract/__pycache__/model.cpython-311.pyc",
        "wsi_extract/stores/__pycache__/png.cpython-311.pyc",
        "wsi_extract/stray.pyc",
        "data/WSI/slide.svs",
        "output/manifest.json",
        "sub/config.json",
        "sub/run_extraction.py",
        "sub/wsi_extract/__init__.py",
        "tests/test_something.py",
        "config.json.orig",
        "my_config.json",
        "requirements-dev.txt",
        "README.md",
    )
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET, encoding="utf-8")
    (folder / ".gitignore").write_text("config.json\n", encoding="utf-8")


def add_links(folder: Path) -> None:
    """Add links to a working copy, one of them to itself: a walk that follows them does not come to an end."""
    (folder / "data" / "loop").symlink_to(folder)
    (folder / "link_to_data").symlink_to(folder / "data")
    (folder / "data" / "broken").symlink_to(folder / "nowhere")


def make_git_repository(folder: Path) -> None:
    """Put a folder under version control, with a remote whose address holds a secret."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["remote", "add", "origin", f"https://user:{SECRET}@example.org/code.git"],
        ["commit", "--quiet", "--allow-empty", "--message", "start"],
    ):
        subprocess.run([*git, *command], cwd=folder, check=True, capture_output=True)
