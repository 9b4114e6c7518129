"""Slides and annotations are only read: nothing is written beside them, also for a moment, and read-only mounts do."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.helpers_mounts import StoreRules
from tests.helpers_run import Inputs, make_inputs

ROOT = Path(__file__).resolve().parents[2]
CHANGE = "UPDATE Annotations SET agreedClass = agreedClass"


def coco(inputs: Inputs) -> Path:
    return inputs.coco


def closed_database(inputs: Inputs) -> Path:
    return inputs.sqlite


def database_of_a_dead_writer(inputs: Inputs, *, mode: str) -> Path:
    """Return a copy of a database that a program was writing to, with what stood beside it."""
    folder = inputs.folder / mode
    folder.mkdir()
    with closing(sqlite3.connect(inputs.sqlite)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute(f"PRAGMA journal_mode = {mode}")
        writer.create_function("pycurrent_time", 0, lambda: 0.0)
        writer.execute("BEGIN")
        writer.execute(CHANGE)
        if mode == "WAL":
            writer.commit()
        else:  # more than is kept in memory, so that the journal and the half-done change are on disk
            writer.execute("CREATE TABLE Filler (data)")
            writer.executemany("INSERT INTO Filler VALUES (randomblob(?))", [(1000,)] * 500)
        for file in inputs.folder.glob("annotations.sqlite*"):
            shutil.copyfile(file, folder / file.name)
        writer.rollback()
    assert len(list(folder.iterdir())) > 1
    return folder / "annotations.sqlite"


FORMATS: dict[str, Callable[[Inputs], Path]] = {
    "COCO": coco,
    "SlideRunner": closed_database,
    "SlideRunner, write-ahead log": partial(database_of_a_dead_writer, mode="WAL"),
    "SlideRunner, rollback journal": partial(database_of_a_dead_writer, mode="DELETE"),
}


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return facts of all files and folders; a folder's time changes with any file that comes or goes in it."""
    found = {str(path): path.stat() for path in (folder, *folder.rglob("*"))}
    return {name: (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_mode) for name, facts in found.items()}


def command(inputs: Inputs, annotations: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "run_extraction.py"), "--workers", "0", "--patch_size", "64"),
        *("--wsi_dir", str(inputs.wsi_dir), "--annotation_json", str(annotations), "--output_dir", str(out)),
        *("--patches_per_slide", "6", "--train_val_split", "0.5"),
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_written_beside_the_input_and_a_read_only_mount_will_do(tmp_path: Path, name: str) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=2)
    annotations = FORMATS[name](inputs)
    before = snapshot(inputs.folder)
    is_mounted = can_mount()
    arguments = command(inputs, annotations, tmp_path / "out")
    if is_mounted:
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" 2>/dev/null && exec "$@"'
        arguments = ["unshare", "-m", "sh", "-c", script, str(inputs.folder), *arguments]
    end = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    assert snapshot(inputs.folder) == before
    assert (tmp_path / "out" / "manifest.json").exists()


def can_mount() -> bool:
    """Tell whether this user may mount; without that, only what is left behind is seen."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-m", "true"], check=False, capture_output=True).returncode == 0


def test_a_write_beside_the_input_would_be_noticed(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    (tmp_path / "a.sqlite-journal").touch()
    (tmp_path / "a.sqlite-journal").unlink()
    assert snapshot(tmp_path) != before


def test_the_rules_of_a_store_are_broken_by_what_they_name(tmp_path: Path) -> None:
    rules = StoreRules(tmp_path)
    rules.watch()
    (tmp_path / "a").write_bytes(b"once")
    assert rules.broken == []
    (tmp_path / "a").write_bytes(b"twice")
    (tmp_path / "a").open("ab").close()
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b").chmod(0o600)
    (tmp_path / "b").unlink()
    (tmp_path / "b").write_bytes(b"anew")
    (tmp_path.parent / "elsewhere").write_bytes(b"")
    found = [each.split()[0] for each in rules.broken]
    assert found == ["open", "open", "open", "os.rename", "os.rename", "os.chmod"]
