"""Disks that are full, and writers that meet them."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.helpers import content_of, export, make_source
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.export.hdf5_output import PatientStream
from wsi_extract.export.options import Compression, Encoding, ExportFormat, ExportOptions, ExportRequest
from wsi_extract.export.room import check_room, expected_bytes, free_bytes, size_text, writing_fault
from wsi_extract.export.source import open_source, read_finished
from wsi_extract.model import Split

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from wsi_extract.__main__ import main
from wsi_extract.export import hdf5_files
hdf5_files.PATCHES_PER_PART = 20
sys.exit(main(sys.argv[2:]))
"""
"""The system refuses to let files grow beyond a limit, as a full disk does."""


def export_limited(limit_bytes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit_bytes), "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("export_format", [ExportFormat.HDF5, ExportFormat.LMDB, ExportFormat.WEBDATASET])
def test_a_file_that_cannot_grow_ends_the_export_with_one_line(tmp_path: Path, export_format: ExportFormat) -> None:
    out, dest = make_source(tmp_path / "out", slides={Split.TRAIN: {"a": 30}}), tmp_path / "dest"
    result = export_limited(20_000, out, "--to", export_format, "--dest", dest)
    assert result.returncode == 5, result.stderr
    assert re.fullmatch(
        rf"error: cannot write the export to {re.escape(str(dest))}: [^\n]* free there now\. "
        r"[^\n]*give the same command again[^\n]*\n",
        result.stderr,
    )
    assert not list(dest.rglob("*.partial"))
    assert not (dest / "export.json").exists()
    export(out, dest, export_format)
    export(out, tmp_path / "whole", export_format)
    assert content_of(dest) == content_of(tmp_path / "whole")


def test_a_join_that_fails_keeps_the_parts(tmp_path: Path) -> None:
    """Parts below the limit, joined file above it."""
    out, dest = make_source(tmp_path / "out", slides={Split.TRAIN: {"a": 30}}), tmp_path / "dest"
    result = export_limited(35_000, out, "--to", "hdf5", "--dest", dest, "--compression", "none")
    assert result.returncode == 5, result.stderr
    assert [path.name for path in sorted((dest / "train.parts").iterdir())] == ["000000000000.h5", "000000000020.h5"]
    assert not list(dest.rglob("*.partial"))
    assert export_limited(10_000_000, out, "--to", "hdf5", "--dest", dest, "--compression", "none").returncode == 0


def test_an_export_that_will_not_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    free = free_bytes(tmp_path)
    check_room(tmp_path / "dest", n_bytes=free // 2)
    with pytest.raises(EnvironmentFaultError, match=r"the export needs about .* more, but .* free\. Make room"):
        check_room(tmp_path / "dest", n_bytes=4 * free)
    assert not (tmp_path / "dest").exists()


def test_what_was_written_needs_no_room(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(bytes(10_000_000))
    check_room(tmp_path, n_bytes=10_000_000)
    with pytest.raises(EnvironmentFaultError, match="needs about"):
        check_room(tmp_path, n_bytes=2 * free_bytes(tmp_path) + 10_000_000)


@pytest.mark.parametrize(
    ("export_format", "options"),
    [
        (ExportFormat.COCO_PNG, ExportOptions()),
        (ExportFormat.LMDB, ExportOptions()),
        (ExportFormat.LMDB, ExportOptions(encoding=Encoding.PNG)),
        (ExportFormat.HDF5, ExportOptions()),
        (ExportFormat.HDF5, ExportOptions(compression=Compression.NONE)),
    ],
)
def test_the_room_expected_is_about_that_of_the_pixels(
    tmp_path: Path, export_format: ExportFormat, options: ExportOptions
) -> None:
    finished = read_finished(make_source(tmp_path / "out"))
    indexes = [open_source(finished, split).index for split in finished.documents]
    request = ExportRequest(
        output_dir=finished.output_dir, destination=tmp_path / "dest", format=export_format, options=options
    )
    raw_bytes = 15 * 16 * 24 * 3
    # LMDB stores whole pages of 4,096 bytes: four times as much for patches as small as these.
    assert 0.5 * raw_bytes < expected_bytes(request, indexes) < 4 * raw_bytes
    assert expected_bytes(request, []) == 0


def test_faults_say_in_one_line_what_to_do(tmp_path: Path) -> None:
    full = writing_fault(tmp_path / "dest", OSError(errno.ENOSPC, "No space left on device"))
    assert "Make room and give the same command again" in str(full)
    odd = writing_fault(tmp_path / "dest", OSError("first line\n, second line"))
    assert "first line , second line; " in str(odd)
    assert "give the same command again" in str(odd)
    assert full.exit_code == odd.exit_code == 5


@pytest.mark.parametrize(("n_bytes", "text"), [(0, "0 MB"), (999_000_000, "999 MB"), (2_340_000_000, "2.3 GB")])
def test_sizes_are_written_as_people_do(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


def test_a_stream_hides_its_first_failure_until_asked() -> None:
    with Path("/dev/full").open("w+b", buffering=0) as raw:
        stream = PatientStream(raw)
        assert stream.write(memoryview(b"abc")) == 3
        assert stream.write(memoryview(b"abc")) == 3
        stream.truncate(10)
        with pytest.raises(OSError, match="No space left"):
            stream.check()


def test_a_stream_reads_what_was_written_and_zeros_beyond(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as raw:
        stream = PatientStream(raw)
        stream.write(memoryview(b"abc"))
        assert stream.tell() == 3
        stream.seek(1)
        assert stream.read(4) == b"bc\0\0"
        stream.truncate(2)
        stream.check()
    assert (tmp_path / "file").read_bytes() == b"ab"
