from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.codec_cases import CodecCase, all_cases, readers_of
from benchmarks.codecs import CodecResult, compare_codecs, main, pareto_names, report_of
from benchmarks.formats import Payload

EVERYONE = ("zarr-python", "tensorstore", "zarrs")


def test_all_codecs_are_compared(payload: Payload) -> None:
    results = {result.name: result for result in compare_codecs(payload.patches[:2], n_rounds=1, seed=0)}
    assert list(results) == [case.name for case in all_cases(patch_px=128)]
    assert all(result.n_bytes > 0 and result.encode_ms > 0 and result.decode_ms > 0 for result in results.values())
    for name in ("none + crc32c", "zstd 1", "zstd -5", "blosc lz4 1 bitshuffle"):
        assert results[name].readers == EVERYONE
    assert results["JPEG quality 90, 4:4:4, lossy"].n_bytes < results["JPEG XL lossless, effort 1"].n_bytes
    assert results["JPEG XL lossless, effort 1"].n_bytes < results["zstd 9"].n_bytes
    report = report_of(tuple(results.values()))
    assert all(name in report for name in results)


def test_a_lossless_codec_that_changes_pixels_is_refused(payload: Payload, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = CodecCase(name="wrong", encode=lambda rgb: b"x", decode=lambda data: payload.patches[1], chain=())
    monkeypatch.setattr("benchmarks.codecs.all_cases", lambda patch_px: (wrong,))
    with pytest.raises(RuntimeError, match="wrong does not give back the same pixels"):
        compare_codecs(payload.patches[:1], n_rounds=1, seed=0)


def test_a_reader_counts_only_when_it_gives_the_same_pixels(payload: Payload, tmp_path: Path) -> None:
    case = next(case for case in all_cases(patch_px=128) if case.name == "zstd 1")
    chain = ({"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}})
    mislabelled = CodecCase(name="mislabelled", encode=case.encode, decode=case.decode, chain=chain)
    assert readers_of(case, rgb=payload.patches[0], folder=tmp_path / "right") == EVERYONE
    assert readers_of(mislabelled, rgb=payload.patches[0], folder=tmp_path / "wrong") == ()


def result_of(name: str, n_bytes: float, decode_ms: float, *, is_lossless: bool = True) -> CodecResult:
    return CodecResult(
        name=name, n_bytes=n_bytes, encode_ms=1.0, decode_ms=decode_ms, is_lossless=is_lossless, readers=()
    )


def test_pareto_front_holds_what_nothing_beats_in_both() -> None:
    results = [
        result_of("raw", 10, 1),
        result_of("small", 2, 9),
        result_of("beaten", 5, 5),
        result_of("middle", 4, 4),
        result_of("lossy", 1, 0.1, is_lossless=False),
    ]
    assert pareto_names(results, cost=lambda r: r.decode_ms) == ("small", "middle", "raw")


def test_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--patches", "2", "--repeats", "1", "--patch-px", "128", "--tissue-fraction", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "2 patches of 128 px, generated texture, seed 1" in printed
    assert "| zstd 1 " in printed


def test_patches_are_what_the_codecs_see(payload: Payload) -> None:
    for case in all_cases(patch_px=128):
        decoded = case.decode(case.encode(payload.patches[0]))
        assert decoded.shape == (128, 128, 3)
        if not case.is_lossless:
            assert not np.array_equal(decoded, payload.patches[0])
