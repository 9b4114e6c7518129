"""Settings that depend on each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers_config import REQUIRED, load, problems_of
from wsi_extract.config import load_config
from wsi_extract.config_sources import parse_flag


@pytest.mark.parametrize(
    ("values", "named"),
    [
        pytest.param({"overlap": 0.999, "patch_size": 256}, "no step", id="overlap without step"),
        pytest.param({"overlap": 0.5, "stride_px": 64}, "stride_px and overlap", id="two steps"),
        pytest.param({"point_box_px": 40.0, "point_box_um": 10.0}, "point_box_um and point_box_px", id="two box sizes"),
        pytest.param({"dashboard_address": "127.0.0.1:99999"}, "99999 is no port", id="port"),
        pytest.param({"scheduler": "tcp://h:1", "workers": 0}, "scheduler and workers", id="cluster and no cluster"),
    ],
)
def test_settings_that_exclude_each_other(values: dict[str, object], named: str) -> None:
    assert named in problems_of(lambda: load(**values))


def test_the_same_mixture_in_two_spellings_is_the_same_setting() -> None:
    spelled = load(mixture=[0.1, 0.4, 0.5], annotation_types=["spot", "area"])
    named = load(mixture="ccmct", annotation_types=["area", "spot"])
    assert spelled.output_settings() == named.output_settings()


@pytest.mark.parametrize("text", ["", " , ", "@{empty}"])
def test_an_empty_list_of_slides_is_a_mistake(tmp_path: Path, text: str) -> None:
    """An unset shell variable must not move the test slides into training."""
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert "is empty" in problems_of(lambda: parse_flag("test_slides", text.format(empty=empty)))


def test_a_flag_takes_back_its_rival_in_the_file() -> None:
    config = load_config({**REQUIRED, "workers": 2, "level": 1}, {"scheduler": "tcp://h:1", "mpp": 0.5})
    assert (config.workers, config.level, config.mpp) == (None, None, 0.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"codec": "zstd"}, "codec and codec_level: they belong to --store zarr", id="codec of png files"),
        pytest.param({"store": "zarr", "png_encoder": "fpng"}, "png_encoder: it belongs to --store png", id="encoder"),
        pytest.param({"stain_target": "a.png"}, "stain_target: it belongs to --stain_norm", id="target"),
        pytest.param({"codec_level": 3}, "codec and codec_level: they belong", id="level of png files"),
        pytest.param({"store": "zarr", "coverage": "tissue"}, "coverage: it belongs to --store pixels", id="coverage"),
        pytest.param({"store": "zarr", "codec_level": 20}, "zstd has levels -7 to 19, got 20", id="zstd level"),
        pytest.param(
            {"store": "both", "codec": "jpeg", "codec_level": 0}, "jpeg has levels 1 to 100, got 0", id="jpeg level"
        ),
    ],
)
def test_settings_of_another_store_are_refused(values: dict[str, object], expected: str) -> None:
    assert expected in problems_of(lambda: load(**values))


def test_codec_level_and_coverage_have_defaults_where_they_mean_something() -> None:
    assert load(store="zarr").pixel_codec == ("zstd", -1)
    assert load(store="both", codec="jpeg").pixel_codec == ("jpeg", 95)
    assert load(store="pixels").pixel_coverage == "anchors"
    assert load().output_settings()["codec"] is None
    # What is meant counts, not whether it was written down.
    assert (
        load(store="pixels").output_settings()
        == load(store="pixels", codec="zstd", codec_level=-1, coverage="anchors").output_settings()
    )
