"""The sub-command, as users call it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.helpers import content_of, decoded, export, make_source
from tests.helpers_run import extract, make_inputs
from wsi_extract.__main__ import main
from wsi_extract.dataset import open_dataset
from wsi_extract.export.options import ExportFormat
from wsi_extract.model import Split
from wsi_extract.storage import Store

HIDE_AND_EXPORT = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"lmdb", "h5py", "webdataset"}:
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Hidden())
from wsi_extract.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("export_format", list(ExportFormat))
def test_export_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], export_format: ExportFormat
) -> None:
    out, dest = make_source(tmp_path / "out", store=Store.ZARR), tmp_path / "dest"
    arguments = ["export", str(out), "--to", export_format, "--dest", str(dest)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == f"{dest} is finished: patches: train 12, val 3, test 0"
    assert main(arguments) == 0
    assert "was finished already" in capsys.readouterr().out
    export(out, tmp_path / "same", export_format)
    assert content_of(dest) == content_of(tmp_path / "same")


def test_splits_and_options_are_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_source(tmp_path / "out")
    arguments = ["export", str(out), "--to", "imagefolder", "--dest", str(tmp_path / "dest"), "--split", "val", "train"]
    assert main([*arguments, "--classes", "three"]) == 0
    assert "train 12, val 3" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "dest" / "val").iterdir()) == ["hard_negative", "mitosis", "other"]
    assert not (tmp_path / "dest" / "test").exists()
    assert main(arguments) == 6
    assert "holds another export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "known"), [("--to", "coco-png, imagefolder"), ("--split", "train, val, test"), ("--encoding", "raw, png")]
)
def test_a_value_that_there_is_not_gets_those_that_there_are(
    capsys: pytest.CaptureFixture[str], flag: str, known: str
) -> None:
    with pytest.raises(SystemExit):
        main(["export", "out", "--dest", "dest", "--to", "lmdb", flag, "nonsense"])
    assert f"argument {flag}: 'nonsense' is none of {known}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--to", "hdf5", "--encoding", "png"], "--encoding does not belong to --to hdf5"),
        (["--to", "yolo", "--shuffle_seed", "0"], "--shuffle_seed does not belong"),
        (["--to", "webdataset", "--shard_mb", "0"], "shard_mb must be greater than 0"),
        (["--to", "webdataset", "--shard_mb", "nan"], "shard_mb must be greater than 0"),
        (["--to", "webdataset", "--shard_mb", "inf"], "shard_mb must be greater than 0"),
        (["--to", "webdataset", "--shuffle_seed", "-1"], "shuffle_seed must be at least 0"),
        (["--to", "lmdb", "--split", "test"], "has no split test"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    out = make_source(tmp_path / "out", slides={Split.TRAIN: {"a": 2}})
    assert main(["export", str(out), "--dest", str(tmp_path / "dest"), *more]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "dest").exists()


def test_a_destination_that_cannot_be_written_is_the_machines_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make_source(tmp_path / "out")
    (tmp_path / "file").write_text("")
    assert main(["export", str(out), "--to", "yolo", "--dest", str(tmp_path / "file" / "dest")]) == 5
    assert "cannot write the export" in capsys.readouterr().err


@pytest.mark.parametrize(("export_format", "name"), [("lmdb", "lmdb"), ("hdf5", "h5py")])
def test_a_missing_package_is_named_before_anything_is_written(tmp_path: Path, export_format: str, name: str) -> None:
    out = make_source(tmp_path / "out")
    arguments = ["export", str(out), "--to", export_format, "--dest", str(tmp_path / "dest")]
    result = subprocess.run(
        [sys.executable, "-c", HIDE_AND_EXPORT, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert f"pip install {name}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "dest").exists()


def test_the_other_formats_need_no_further_package(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    arguments = ["export", str(out), "--to", "webdataset", "--dest", str(tmp_path / "dest")]
    result = subprocess.run(
        [sys.executable, "-c", HIDE_AND_EXPORT, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("store", list(Store))
def test_extracted_data_sets_are_exported(tmp_path: Path, store: Store) -> None:
    """The same slides through every store give the same files, and they hold the same pixels."""
    inputs = make_inputs(tmp_path / "input", n_slides=2)
    extract(inputs, tmp_path / "out", store=store, train_val_split=0.5)
    assert main(["export", str(tmp_path / "out"), "--to", "coco-png", "--dest", str(tmp_path / "dest")]) == 0
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path / "out", split)
        found = decoded(sorted((tmp_path / "dest" / f"{split}2017").glob("*/*.png")))
        assert len(found) == len(dataset) == 20
        for i in range(len(dataset)):
            assert (found[Path(dataset.index.file_name(i)).stem] == dataset.read(i)).all()
