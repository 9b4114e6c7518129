from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.formats import Payload
from benchmarks.loading import writing_table
from benchmarks.writing import CODEC_ALONE, OURS, compare_writers
from wsi_extract.arrays import RgbImage
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import PixelCodec


@pytest.mark.parametrize("name", [CodecName.ZSTD, CodecName.NONE])
def test_all_writers_are_compared(payload: Payload, tmp_path: Path, name: CodecName) -> None:
    costs = compare_writers(tmp_path, payload.patches, codec=PixelCodec.of(name), n_rounds=1, seed=0)
    assert [cost.name for cost in costs] == [CODEC_ALONE, OURS, "tensorstore", "zarr-python"]
    assert all(cost.timing.wall_ms > 0 for cost in costs)
    table = writing_table({"zstd": costs})
    assert "| zstd, codec alone " in table


def test_a_writer_that_loses_patches_is_refused(
    payload: Payload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_nothing(target: Path, patches: RgbImage, codec: PixelCodec) -> None:
        pass

    monkeypatch.setattr("benchmarks.writing.write_ours", write_nothing)
    with pytest.raises(RuntimeError, match="written by ours does not hold the patches"):
        compare_writers(tmp_path, payload.patches, codec=PixelCodec.of(CodecName.NONE), n_rounds=1, seed=0)
