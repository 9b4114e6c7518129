from __future__ import annotations

from pathlib import Path

from benchmarks.caches import bytes_read_from_disk, drop_from_page_cache, folder_bytes


def test_dropped_files_keep_their_content(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "data"
    path.write_bytes(b"x" * 100_000)
    drop_from_page_cache(tmp_path)
    assert path.read_bytes() == b"x" * 100_000


def test_bytes_on_disk_are_whole_blocks(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 5000)
    drop_from_page_cache(tmp_path)  # some file systems give out blocks when the content is synchronised
    assert folder_bytes(tmp_path) >= 5000
    assert folder_bytes(tmp_path) % 512 == 0


def test_bytes_read_never_shrink() -> None:
    first, second = bytes_read_from_disk(), bytes_read_from_disk()
    assert first is None or (second is not None and second >= first)
