"""Whose folder it is stays known while what says so is written over in a store, where that takes more than one step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.state.test_claim import describe
from wsi_extract.disk.mounts import COMMIT_VARIABLE
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.state.claim import claim_folder
from wsi_extract.state.clearing import delete_output
from wsi_extract.state.layout import next_run_path, run_path


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "direct")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a folder with some work in it."""
    claim_folder(tmp_path, description=describe(), fresh=False)
    (tmp_path / "train2017").mkdir()
    return tmp_path


@pytest.mark.parametrize("left", [None, b"", b'{"settings": '], ids=["none", "nothing", "half"])
def test_the_second_copy_speaks_while_the_first_is_torn(out: Path, left: bytes | None) -> None:
    run_path(out).rename(next_run_path(out))
    if left is not None:
        run_path(out).write_bytes(left)
    with pytest.raises(IntegrityError, match="output of another run"):
        claim_folder(out, description={**describe(), "settings": {"seed": 9}}, fresh=False)
    claim_folder(out, description=describe(), fresh=False)
    assert json.loads(run_path(out).read_bytes()) == describe()
    assert not next_run_path(out).exists()


def test_a_torn_second_copy_is_of_no_account(out: Path) -> None:
    next_run_path(out).write_bytes(b'{"sett')
    claim_folder(out, description=describe(), fresh=False)
    assert not next_run_path(out).exists()
    run_path(out).write_bytes(b"")
    next_run_path(out).write_bytes(b"")
    with pytest.raises(IntegrityError, match="damaged"):
        claim_folder(out, description=describe(), fresh=False)


def test_half_of_the_first_thing_a_run_writes_is_no_claim(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    run_path(tmp_path).write_bytes(b'{"sett')
    claim_folder(tmp_path, description={**describe(), "settings": {"seed": 9}}, fresh=False)
    assert json.loads(run_path(tmp_path).read_bytes())["settings"] == {"seed": 9}


def test_half_of_both_copies_is_no_claim_where_nothing_was_done(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    run_path(tmp_path).write_bytes(b'{"sett')  # by a run that was killed ...
    next_run_path(tmp_path).write_bytes(b'{"s')  # ... as was the one that went on
    claim_folder(tmp_path, description=describe(), fresh=False)
    assert json.loads(run_path(tmp_path).read_bytes()) == describe()
    assert not next_run_path(tmp_path).exists()


def test_starting_over_keeps_to_the_end_what_says_whose_folder_it_is(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_path(out).rename(next_run_path(out))
    run_path(out).write_bytes(b'{"sett')
    for name in ("a", "faults", "z"):
        (run_path(out).parent / name).mkdir()
    removed: list[Path] = []
    unlink, rmdir = Path.unlink, Path.rmdir

    def note_unlink(path: Path, *, missing_ok: bool = False) -> None:
        removed.append(path)
        unlink(path, missing_ok=missing_ok)

    def note_rmdir(path: Path) -> None:
        removed.append(path)
        rmdir(path)

    monkeypatch.setattr(Path, "unlink", note_unlink)
    monkeypatch.setattr(Path, "rmdir", note_rmdir)
    delete_output(out)
    assert removed[-2:] == [next_run_path(out), run_path(out)]


def test_files_of_somebody_else_are_still_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="not written by this program"):
        claim_folder(tmp_path, description=describe(), fresh=False)
