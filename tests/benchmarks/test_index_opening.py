from __future__ import annotations

from pathlib import Path

from benchmarks.index_opening import PATCHES_PER_SLIDE, compare_opening
from benchmarks.loading import opening_table
from wsi_extract.index import read_index
from wsi_extract.model import Split


def test_index_and_json_hold_the_same(tmp_path: Path) -> None:
    n_patches = PATCHES_PER_SLIDE + 1500
    times = compare_opening(tmp_path, n_patches=n_patches, n_rounds=1)
    assert (times.n_patches, times.n_boxes) == (n_patches, n_patches)
    assert times.index_s > 0
    assert times.json_s > 0
    assert 0 < times.index_bytes < times.json_bytes
    index = read_index(tmp_path, Split.TRAIN)
    assert [slide.n_patches for slide in index.slides] == [PATCHES_PER_SLIDE, 1500]
    assert "11,500 patches" in opening_table(times)
