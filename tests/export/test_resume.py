"""Exports that are stopped, continued, finished already, or refused."""

from __future__ import annotations

import multiprocessing
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.export.helpers import (
    Countdown,
    StoppedError,
    content_of,
    die,
    export,
    make_source,
    read_json,
)
from wsi_extract.disk.files import pretty_json
from wsi_extract.errors import EnvironmentFaultError, InputError, IntegrityError
from wsi_extract.export import hdf5_files, lmdb_files, loose_files
from wsi_extract.export.destination import EXPORT, UNFINISHED, held_destination
from wsi_extract.export.options import ExportFormat
from wsi_extract.model import Split
from wsi_extract.storage import Store

SPLITS = {Split.TRAIN: {"a": 5, "b.v1": 4}, Split.VAL: {"a": 3}, Split.TEST: {}}
N_PATCHES = 12
SMALL_SHARD: dict[ExportFormat, dict[str, Any]] = {ExportFormat.WEBDATASET: {"shard_mb": 3 * 24 * 16 * 3 / 1e6}}
FORMATS = list(ExportFormat)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three patches, so that a few patches make several."""
    monkeypatch.setattr(loose_files, "FILES_PER_BATCH", 3)
    monkeypatch.setattr(lmdb_files, "MAX_BATCH_PATCHES", 3)
    monkeypatch.setattr(hdf5_files, "PATCHES_PER_PART", 3)


@pytest.mark.parametrize("export_format", FORMATS)
def test_an_export_stopped_anywhere_is_continued(tmp_path: Path, export_format: ExportFormat) -> None:
    out = make_source(tmp_path / "out", store=Store.ZARR, slides=SPLITS)
    options = SMALL_SHARD.get(export_format, {})
    export(out, tmp_path / "whole", export_format, **options)
    expected = content_of(tmp_path / "whole")
    for n_before in range(N_PATCHES):
        dest = tmp_path / f"stopped_{n_before}"
        with pytest.raises(StoppedError):
            export(out, dest, export_format, open_split=Countdown(n_left=n_before), **options)
        assert not (dest / EXPORT).exists()
        # Whole batches that came before are not made again.
        rest = Countdown(n_left=N_PATCHES)
        assert not export(out, dest, export_format, open_split=rest, **options).was_finished
        n_made_again = (N_PATCHES - rest.n_left) - (N_PATCHES - n_before)
        assert 0 <= n_made_again <= 2
        assert content_of(dest) == expected


@pytest.mark.parametrize("export_format", FORMATS)
def test_an_export_stopped_at_every_patch_in_turn_gets_there(tmp_path: Path, export_format: ExportFormat) -> None:
    out = make_source(tmp_path / "out", slides=SPLITS)
    options = SMALL_SHARD.get(export_format, {})
    export(out, tmp_path / "whole", export_format, **options)
    n_stops = 0
    while not (tmp_path / "dest" / EXPORT).exists():
        try:
            export(out, tmp_path / "dest", export_format, open_split=Countdown(n_left=3), **options)
        except StoppedError:
            n_stops += 1
    assert n_stops == 3
    assert content_of(tmp_path / "dest") == content_of(tmp_path / "whole")


@pytest.mark.parametrize("export_format", FORMATS)
@pytest.mark.parametrize("n_before", [0, 4, 10])
def test_a_killed_export_is_continued(tmp_path: Path, export_format: ExportFormat, n_before: int) -> None:
    out = make_source(tmp_path / "out", store=Store.ZARR, slides=SPLITS)
    options = SMALL_SHARD.get(export_format, {})
    killed = multiprocessing.get_context("fork").Process(
        target=partial(export, open_split=Countdown(n_left=n_before, end=die), **options),
        args=(out, tmp_path / "dest", export_format),
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (tmp_path / "dest" / EXPORT).exists()
    export(out, tmp_path / "dest", export_format, **options)
    export(out, tmp_path / "whole", export_format, **options)
    assert content_of(tmp_path / "dest") == content_of(tmp_path / "whole")


@pytest.mark.parametrize("export_format", FORMATS)
def test_a_finished_export_is_left_alone(tmp_path: Path, export_format: ExportFormat) -> None:
    out = make_source(tmp_path / "out", slides=SPLITS)
    first = export(out, tmp_path / "dest", export_format)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "dest").rglob("*")}
    again = export(out, tmp_path / "dest", export_format, open_split=Countdown(n_left=0))
    assert (first.was_finished, again.was_finished) == (False, True)
    assert again.counts == first.counts
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "dest").rglob("*")} == times


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"out": "other"}, "source_manifest_sha256"),
        ({"export_format": ExportFormat.LMDB}, "format: was 'hdf5', now 'lmdb'"),
        ({"splits": (Split.VAL,)}, "splits: was ['train', 'val', 'test'], now ['val']"),
        ({"compression": "gzip"}, "options"),
    ],
    ids=["data set", "format", "splits", "options"],
)
def test_another_export_is_refused(tmp_path: Path, is_finished: bool, change: dict[str, object], named: str) -> None:
    out = make_source(tmp_path / "out", slides=SPLITS)
    make_source(tmp_path / "other", slides=SPLITS, seed=43)
    dest = tmp_path / "dest"
    if is_finished:
        export(out, dest, ExportFormat.HDF5)
    else:
        with pytest.raises(StoppedError):
            export(out, dest, ExportFormat.HDF5, open_split=Countdown(n_left=4))
    before = content_of(dest) if is_finished else sorted(dest.rglob("*"))
    changed: dict[str, Any] = {"out": "out", "export_format": ExportFormat.HDF5, **change}
    source = tmp_path / changed.pop("out")
    with pytest.raises(IntegrityError, match="holds another export") as caught:
        export(source, dest, **changed)
    assert named in str(caught.value)
    assert (content_of(dest) if is_finished else sorted(dest.rglob("*"))) == before


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out", slides=SPLITS)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("precious")
    for name, reason in (("file", "is a file"), ("full", "already holds precious.txt"), ("out/x", "lies inside")):
        with pytest.raises(InputError, match=reason):
            export(out, tmp_path / name, ExportFormat.YOLO)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious.txt"]


def test_a_marker_that_was_never_finished_does_not_block(tmp_path: Path) -> None:
    """An export killed in its very first write leaves the temporary of the marker alone."""
    out = make_source(tmp_path / "out", slides=SPLITS)
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / f"{UNFINISHED}.0123456789ab.partial").write_bytes(b"{")
    export(out, tmp_path / "dest", ExportFormat.HDF5)
    assert sorted(path.name for path in (tmp_path / "dest").iterdir()) == [EXPORT, "test.h5", "train.h5", "val.h5"]


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out", slides=SPLITS)
    export(out, tmp_path / "dest", ExportFormat.HDF5)
    path = tmp_path / "dest" / EXPORT
    whole = path.read_bytes()
    for damaged in (whole[:40], b"[]", pretty_json({**read_json(path), "counts": {}})):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"export\.json is damaged"):
            export(out, tmp_path / "dest", ExportFormat.HDF5)


def test_a_data_set_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out", slides=SPLITS)

    def change() -> None:
        make_source(out, slides=SPLITS, seed=43)

    with pytest.raises(IntegrityError, match="extracted again while"):
        export(out, tmp_path / "dest", ExportFormat.LMDB, open_split=Countdown(n_left=5, end=change))
    assert not (tmp_path / "dest" / EXPORT).exists()


def test_a_second_export_to_the_same_folder_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    with (
        held_destination(tmp_path / "out"),
        pytest.raises(EnvironmentFaultError, match="another export is writing"),
        held_destination(tmp_path / "out"),
    ):
        pass
    with held_destination(tmp_path / "out"):  # the lock is gone with the one who held it
        assert list((tmp_path / "out").iterdir()) == []
