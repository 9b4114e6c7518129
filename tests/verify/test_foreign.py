"""What no repair can make right: files of nobody, and folders in the place of files, are named and left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers_bit_flips import committed_files, make_tiny_dataset
from tests.helpers_run import content_of
from wsi_extract.__main__ import main
from wsi_extract.model import Split
from wsi_extract.state.layout import INDEX, MANIFEST, instances_name, record_path, run_path
from wsi_extract.storage import Store
from wsi_extract.verify import audit
from wsi_extract.verify.foreign import find_folders_as_files, find_foreign

SLIDE = "slide_1"
Says = pytest.CaptureFixture[str]
FOREIGN = {
    Store.PNG: (
        "{split}2017/slide_1/mine.txt",
        "{split}2017/mine.png",
        "{split}2017/nobody/mine.png",
        "annotations/mine.json",
        ".wsi_extract/records/slide_1/000077.json",
        ".wsi_extract/plans/nobody.json",
        "patches.zarr/{split}/slide_1/c/0/0/0/0",
    ),
    Store.ZARR: (
        "patches.zarr/{split}/slide_1/c/99/0/0/0",
        "patches.zarr/{split}/slide_1/mine.txt",
        "patches.zarr/mine.txt",
        "{split}2017/slide_1/mine.png",
    ),
    Store.PIXELS: (
        "pixels.zarr/slide_1/0/c/0/99/99",
        "pixels.zarr/slide_1/mine.txt",
        "pixels.zarr/nobody/zarr.json",
        ".wsi_extract/pixels/nobody/0_0.json",
    ),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[Store, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    return {store: make_tiny_dataset(folder / store.value, store) for store in FOREIGN}


@pytest.fixture
def out(originals: dict[Store, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals[Store.PNG], tmp_path / "out"))


def split_of_slide(out: Path) -> str:
    return next(
        split.value
        for split in Split
        for top in (f"{split.value}2017", f"patches.zarr/{split.value}")
        if (out / top / SLIDE).is_dir() or split is Split.TEST
    )


@pytest.mark.parametrize("store", FOREIGN)
def test_nothing_of_a_data_set_is_foreign(originals: dict[Store, Path], store: Store) -> None:
    assert find_foreign(originals[store]) == []
    assert list(find_folders_as_files(originals[store])) == []


@pytest.mark.parametrize(("store", "name"), [(store, name) for store, names in FOREIGN.items() for name in names])
def test_a_file_of_nobody_is_named_and_no_repair_is_recommended(
    originals: dict[Store, Path], tmp_path: Path, capsys: Says, store: Store, name: str
) -> None:
    out = Path(shutil.copytree(originals[store], tmp_path / "out"))
    path = out / name.format(split=split_of_slide(out))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    before = content_of(out)
    assert find_foreign(out) == [path]
    assert main(["verify", str(out)]) == 6
    said = capsys.readouterr().out
    assert f"1 file belongs to nobody, as no record of the data set names it: {path}" in said
    assert "remove them, or move them away" in said
    # A further record looks like a part of its slide, whose digest is another one then.
    assert ("--repair" in said) == (path.parent.name == SLIDE and "records" in name)
    assert main(["verify", str(out), "--repair"]) == 6
    assert f"belongs to nobody, as no record of the data set names it: {path}. Nothing was" in capsys.readouterr().err
    assert content_of(out) == before
    path.unlink()
    assert main(["verify", str(out)]) == 3


@pytest.mark.parametrize(
    "lost", [MANIFEST, instances_name(Split.TRAIN), "train2017", record_path(Path(), slide_id=SLIDE, index=0)]
)
def test_what_is_damaged_makes_no_file_foreign(out: Path, lost: str) -> None:
    path = out / lost
    shutil.rmtree(path) if path.is_dir() else path.write_bytes(path.read_bytes()[:-9])
    assert not audit(out).is_sound
    assert find_foreign(out) == []


def test_a_slide_whose_name_the_manifest_lost_is_not_foreign(out: Path) -> None:
    path = out / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"slide_id": "slide_1"', b'"slide_id": "slide_9"'))
    assert find_foreign(out) == []


def put_folder(path: Path, *, content: str = "") -> None:
    path.unlink()
    path.mkdir()
    if content:
        (path / content).write_text("mine")


@pytest.mark.parametrize("store", FOREIGN)
def test_empty_folders_in_the_place_of_files_are_damage(
    originals: dict[Store, Path], tmp_path: Path, store: Store
) -> None:
    out = Path(shutil.copytree(originals[store], tmp_path / "out"))
    for path in committed_files(out):
        if path not in {run_path(out), out / MANIFEST} and path.exists():
            put_folder(path)
    found = {path.relative_to(out) for path, is_empty in find_folders_as_files(out) if is_empty}
    files = {path.relative_to(originals[store]) for path in committed_files(originals[store])}
    assert found == {path for path in files if path.parts[0] != INDEX} - {Path(MANIFEST), run_path(Path())}
    assert main(["verify", str(out), "--repair"]) == 3
    assert content_of(out) == content_of(originals[store])


@pytest.mark.parametrize("path_of", [run_path, lambda out: out / MANIFEST], ids=["run.json", "manifest"])
def test_one_of_the_two_that_know_the_settings_may_be_a_folder(
    originals: dict[Store, Path], out: Path, path_of: Callable[[Path], Path]
) -> None:
    put_folder(path_of(out))
    assert main(["verify", str(out)]) == 6
    source = originals[Store.PNG].parent / "input"
    places = ["--wsi_dir", str(source / "WSI"), "--annotation_json", str(source / "annotations.sqlite")]
    assert main(["verify", str(out), "--repair", *places]) == 3
    assert content_of(out) == content_of(originals[Store.PNG])


@pytest.mark.parametrize("name", [instances_name(Split.TRAIN), "slides.csv", ".wsi_extract/plans/slide_1.npz"])
def test_a_folder_that_holds_something_is_refused_by_its_name(out: Path, capsys: Says, name: str) -> None:
    put_folder(out / name, content="mine.txt")
    before = content_of(out)
    assert main(["verify", str(out), "--repair"]) == 6
    assert f"{out / name} is a folder, but has to be a file, and holds something" in capsys.readouterr().err
    assert content_of(out) == before


def test_what_the_system_refuses_is_one_message(out: Path, capsys: Says) -> None:
    """A folder in the place of the lock, which is no part of the data set."""
    lock = out / ".wsi_extract" / "lock"
    put_folder(lock)
    next(out.glob("train2017/*/*.png")).unlink()
    assert main(["verify", str(out), "--repair"]) == 5
    assert str(lock) in capsys.readouterr().err
