from __future__ import annotations

import os
import resource
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from tests.azure.helpers_job import PROGRAM_NAMES, ROOT, program
from tests.helpers_config import problems_of
from wsi_extract.azure_job.snapshot import MOST_FILES, Snapshot, list_snapshot, snapshot_warnings, staged

pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")


def listed(root: Path, **extra: Path) -> Snapshot:
    return list_snapshot(root, config_path=root / "config.json", extra=extra)


def names_of(snapshot: Snapshot) -> list[str]:
    return [file.name for file in snapshot.files]


def test_only_the_program_is_listed(tmp_path: Path) -> None:
    snapshot = listed(program(tmp_path))
    assert names_of(snapshot) == PROGRAM_NAMES
    assert snapshot.n_bytes == sum((tmp_path / name).stat().st_size for name in PROGRAM_NAMES)
    assert snapshot_warnings(snapshot) == []


def test_azures_own_tools_find_the_same_files(tmp_path: Path) -> None:
    from azure.ai.ml._utils import _asset_utils  # noqa: PLC0415  # takes seconds

    root = program(tmp_path)  # with junk around it
    edited = shutil.ignore_patterns("__pycache__", ".*", "*.tmp")  # what editors and linters write meanwhile
    shutil.copytree(ROOT / "wsi_extract", root / "wsi_extract", dirs_exist_ok=True, ignore=edited)
    shutil.copy(ROOT / ".amlignore", root)
    (root / ".gitignore").write_text("config.json\n")
    ignored = _asset_utils.get_ignore_file(root)
    found = _asset_utils.get_upload_files_from_folder(root, ignore_file=ignored)
    assert sorted(str(names[1]) for names in found) == names_of(listed(root))


def test_another_config_file_travels_under_the_usual_name(tmp_path: Path) -> None:
    root = program(tmp_path / "program")
    other = tmp_path / "other.json"
    other.write_text('{"job": {}}')
    with staged(list_snapshot(root, config_path=other)) as folder:
        assert (folder / "config.json").read_bytes() == other.read_bytes()


def test_files_that_settings_name_travel_along(tmp_path: Path) -> None:
    root = program(tmp_path / "program")
    groups = tmp_path / "groups.csv"
    groups.write_text("slide,group\n")
    snapshot = list_snapshot(root, config_path=root / "config.json", extra={"lists/groups.csv": groups})
    with staged(snapshot) as folder:
        assert (folder / "lists" / "groups.csv").read_bytes() == groups.read_bytes()


def test_a_setting_cannot_send_what_git_keeps(tmp_path: Path) -> None:
    root = program(tmp_path)  # whose .git/config holds a password
    message = problems_of(lambda: listed(root, **{"lists/.git/config": root / ".git" / "config"}))
    assert f"{root / '.git' / 'config'}: " in message


def test_a_staged_copy_holds_these_files_and_nothing_else(tmp_path: Path) -> None:
    snapshot = listed(program(tmp_path))
    with staged(snapshot) as folder:
        copies = [path for path in folder.rglob("*") if not path.is_dir()]
        assert sorted(path.relative_to(folder).as_posix() for path in copies) == PROGRAM_NAMES
        assert all(stat.S_ISREG(path.lstat().st_mode) for path in copies)
        assert all(path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes() for path in copies)
        assert folder.name == "wsi_extract_job"
    assert not folder.parent.exists()


def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = listed(program(tmp_path / "program"))
    full = tmp_path / "full"
    full.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        found = problems_of(lambda: staged(snapshot).__enter__())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found == (
        f"cannot copy the code of the job to {full}: File too large. Make room there, or set TMPDIR to another folder."
    )
    assert list(full.iterdir()) == []
    full.rmdir()
    assert "cannot copy the code of the job" in problems_of(lambda: staged(snapshot).__enter__())


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    snapshot = listed(program(tmp_path))
    (tmp_path / "run_extraction.py").write_text("print('another')\n")
    assert "changed while they were copied" in problems_of(lambda: staged(snapshot).__enter__())


def test_the_digest_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    first, second = program(tmp_path / "a"), program(tmp_path / "b")
    os.utime(second / "run_extraction.py", (0, 0))
    (second / "run_extraction.py").chmod(0o700)
    assert listed(first).digest == listed(second).digest
    (second / "wsi_extract" / "stores" / "png.py").write_text("x = 2\n")
    changed = listed(second).digest
    assert changed != listed(first).digest
    (second / "wsi_extract" / "stores" / "png.py").rename(second / "wsi_extract" / "stores" / "jpg.py")
    assert listed(second).digest not in (changed, listed(first).digest)


@pytest.mark.parametrize(
    "name", ["run_extraction.py", "config.json", "requirements.txt", "wsi_extract/__init__.py", "wsi_extract"]
)
def test_an_incomplete_program_is_refused(tmp_path: Path, name: str) -> None:
    path = program(tmp_path) / name
    path.rename(tmp_path / "elsewhere")
    missing = "wsi_extract/__init__.py" if name == "wsi_extract" else name
    assert f"is incomplete: {missing} missing" in problems_of(lambda: listed(tmp_path))


def test_links_and_other_oddities_in_the_package_are_refused(tmp_path: Path) -> None:
    package = program(tmp_path) / "wsi_extract"
    (tmp_path / "secret").write_text("secret")
    oddity = package / "odd"
    for target in (tmp_path / "secret", tmp_path / "nowhere", package):
        oddity.symlink_to(target)
        assert f"{oddity} is a link" in problems_of(lambda: listed(tmp_path))
        oddity.unlink()
    os.mkfifo(oddity)
    assert "a named pipe" in problems_of(lambda: listed(tmp_path))
    oddity.unlink()
    (package / "a\nb.py").write_text("")
    assert r"wsi_extract/a\\nb.py' cannot be sent" in problems_of(lambda: listed(tmp_path))
    (package / "a\nb.py").unlink()
    (package / ".git").write_text("gitdir: elsewhere")
    assert "history is not sent" in problems_of(lambda: listed(tmp_path))


def test_a_file_may_not_replace_one_of_the_program(tmp_path: Path) -> None:
    root = program(tmp_path / "program")
    mine = tmp_path / "requirements.txt"
    mine.write_text("slide,group\n")
    extra = {"requirements.txt": mine}
    found = problems_of(lambda: list_snapshot(root, config_path=root / "config.json", extra=extra))
    assert "would replace the program's own requirements.txt" in found
    same = {"requirements.txt": root / "requirements.txt"}
    assert names_of(list_snapshot(root, config_path=root / "config.json", extra=same)) == PROGRAM_NAMES


def test_much_is_warned_about_and_too_much_refused(tmp_path: Path) -> None:
    package = program(tmp_path) / "wsi_extract"
    with (package / "weights.bin").open("wb") as stream:
        stream.truncate(11_000_000)
    assert "11.0 MB, are sent with the job; the largest is wsi_extract/w" in snapshot_warnings(listed(tmp_path))[0]
    with (package / "weights.bin").open("wb") as stream:
        stream.truncate(300_000_001)
    assert "the service takes 2,000 files, 300 MB" in problems_of(lambda: listed(tmp_path))
    (package / "weights.bin").unlink()
    for number in range(MOST_FILES - len(PROGRAM_NAMES)):
        (package / f"{number}.txt").touch()
    assert "2,000 files" in snapshot_warnings(listed(tmp_path))[0]
    (package / "one_more.txt").touch()
    assert "2,001 files would be sent" in problems_of(lambda: listed(tmp_path))
