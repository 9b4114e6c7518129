import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.errors import InputError, SlideError
from wsi_extract.geometry import Scale
from wsi_extract.model import SlideFile, SlideInfo, SlideLevel
from wsi_extract.resolution import (
    MAX_UM_PER_PX,
    MIN_UM_PER_PX,
    RUN_OVERRIDE,
    SLIDE_OVERRIDE,
    ResolutionOverride,
    choose_frame,
    choose_overview,
    objective_power_of,
    read_overrides,
    resolve_um_per_px,
)


def make_info(*downsamples: float, um: tuple[float, float] | None = (0.25, 0.25)) -> SlideInfo:
    levels = [SlideLevel(width_px=int(80_000 / d), height_px=int(60_000 / d), downsample=d) for d in downsamples]
    return SlideInfo(
        slide_id="s",
        path=Path("s.svs"),
        vendor="aperio",
        levels=tuple(levels),
        um_per_px_xy=um,
        um_per_px_source="property" if um else "unknown: the slide states no resolution",
        bounds_l0=None,
        objective_power=None,
        fingerprint="0",
    )


def mpp(x: str, y: str) -> dict[str, str]:
    return {"openslide.mpp-x": x, "openslide.mpp-y": y}


def test_the_property_is_used_as_it_is() -> None:
    assert resolve_um_per_px(mpp("0.499", "0.5"), None) == ((0.499, 0.5), "property")


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({}, "unknown: the slide states no resolution"),
        ({"openslide.mpp-x": "0.5"}, "unknown: openslide.mpp-x = 0.5, openslide.mpp-y = None is not a pair"),
        (mpp("a", "0.5"), "unknown: openslide.mpp-x = a"),
        (mpp("352.8", "352.8"), r"refused: openslide.mpp-x = 352.8, .* outside 0.05 .. 20"),
        (mpp("0.5", "0.0499"), "refused"),
        (mpp("nan", "0.5"), "refused"),
        (mpp("inf", "0.5"), "refused"),
        (mpp("-0.5", "-0.5"), "refused"),
    ],
)
def test_an_unusable_resolution_is_unknown_with_its_reason(properties: dict[str, str], reason: str) -> None:
    um_per_px, source = resolve_um_per_px(properties, None)
    assert um_per_px is None
    assert re.match(reason, source)


def test_an_override_wins_and_must_be_plausible() -> None:
    override = ResolutionOverride(um_per_px_x=0.25, um_per_px_y=0.26, source=RUN_OVERRIDE)
    assert resolve_um_per_px(mpp("352.8", "352.8"), override) == ((0.25, 0.26), "run override")
    for value in (MIN_UM_PER_PX / 1.01, MAX_UM_PER_PX * 1.01, float("nan")):
        with pytest.raises(InputError, match="outside"):
            ResolutionOverride(um_per_px_x=value, um_per_px_y=0.25, source=RUN_OVERRIDE)


def test_objective_power() -> None:
    texts = ("40", "20.0", "", "x", "0", "nan")
    powers = [objective_power_of({"openslide.objective-power": text}) for text in texts]
    assert powers == [40.0, 20.0, None, None, None, None]
    assert objective_power_of({}) is None


SLIDES = [
    SlideFile(slide_id="a__1", path=Path("a/1.svs")),
    SlideFile(slide_id="b__1", path=Path("b/1.svs")),
    SlideFile(slide_id="c__x.ome", path=Path("c/x.ome.tif")),
]


def test_overrides_by_id_name_and_stem(tmp_path: Path) -> None:
    path = tmp_path / "mpp.csv"
    path.write_text("\ufeffslide,um_per_px_x,um_per_px_y\na__1,0.25,0.26\n\nx.ome.tif, 0.5,0.5\n", encoding="utf-8")
    assert read_overrides(path, slides=SLIDES) == {
        "a__1": ResolutionOverride(um_per_px_x=0.25, um_per_px_y=0.26, source=SLIDE_OVERRIDE),
        "c__x.ome": ResolutionOverride(um_per_px_x=0.5, um_per_px_y=0.5, source=SLIDE_OVERRIDE),
    }
    path.write_text("slide,um_per_px\nx.ome,0.5\n")
    assert read_overrides(path, slides=SLIDES)["c__x.ome"].um_per_px_y == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,um_per_px\n1.svs,0.5\n", r"line 2: '1.svs' fits several slides: a/1.svs, b/1.svs"),
        ("slide,um_per_px\nx,0.5\n", "line 2: no slide is called 'x'"),  # part of a name is no match
        ("slide,um_per_px\na__1,0.5\nx.ome,0.5\na__1,0.5\n", "line 4: a second row for slide a__1"),
        ("slide,um_per_px\nx.ome,0.5\nx.ome.tif,0.6\n", "line 3: a second row for slide c__x.ome"),
        ("slide,um_per_px\na__1,352.8\n", "line 2: 352.8 um per px is outside"),
        ("slide,um_per_px\na__1,nan\n", "line 2: nan um per px is outside"),
        ("slide,um_per_px\na__1,fine\n", "line 2: 'fine' is not a number"),
        ("slide,um_per_px\na__1\n", "line 2: 1 columns instead of 2"),
        ("slide,mpp\na__1,0.5\n", "first line is 'slide,mpp'"),
        ("", "first line is ''"),
    ],
)
def test_overrides_are_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mpp.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_overrides(path, slides=SLIDES)


def test_overrides_that_are_no_csv(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_overrides(tmp_path / "none.csv", slides=SLIDES)
    (tmp_path / "latin.csv").write_bytes(b"slide,um_per_px\n\xe9,0.5\n")
    with pytest.raises(InputError, match="not a CSV file in UTF-8"):
        read_overrides(tmp_path / "latin.csv", slides=SLIDES)


def test_without_a_wish_level_0_is_read_as_it_is() -> None:
    frame = choose_frame(make_info(1.0, 4.0), patch_size_px=256, target_um_per_px=None, level=None)
    assert (frame.level, frame.scale, frame.is_resampled) == (0, Scale(x=1.0, y=1.0), False)
    assert frame.um_per_px_out_xy == (0.25, 0.25)


def test_b26_patch_extent_is_its_width_times_the_downsample_at_level_3() -> None:
    info = make_info(1.0, 2.0, 4.0163, 8.0863, um=None)
    frame = choose_frame(info, patch_size_px=256, target_um_per_px=None, level=3)
    assert frame.patch_w_out_px * frame.scale.x == 256 * 8.0863
    assert frame.patch_h_out_px * frame.scale.y == 256 * 8.0863
    assert (frame.level, frame.is_resampled, frame.um_per_px_out_xy) == (3, False, None)


@pytest.mark.parametrize(
    ("target", "level", "scale", "resampled"),
    [
        (0.25, 0, 1.0, False),
        (0.2, 0, 0.8, True),  # finer than the slide
        (0.5, 0, 2.0, True),
        (0.99, 0, 3.96, True),  # level 1 would be coarser than the output
        (1.0, 1, 4.0, False),
        (1.3, 1, 5.2, True),
        (40.0, 2, 160.0, True),
    ],
)
def test_the_coarsest_level_that_is_fine_enough(target: float, level: int, scale: float, resampled: bool) -> None:
    frame = choose_frame(make_info(1.0, 4.0, 16.0), patch_size_px=256, target_um_per_px=target, level=None)
    assert (frame.level, frame.is_resampled) == (level, resampled)
    assert frame.scale.x == frame.scale.y == pytest.approx(scale, rel=1e-12)
    assert frame.um_per_px_out_xy == pytest.approx((target, target))


def test_rounding_is_no_resampling() -> None:
    """0.3 / 0.1 is not 3 in floating point; the level's own pixels are wanted all the same."""
    assert 0.3 / 0.1 != 3.0
    frame = choose_frame(make_info(1.0, 3.0, um=(0.1, 0.1)), patch_size_px=64, target_um_per_px=0.3, level=None)
    assert (frame.level, frame.scale.x, frame.is_resampled) == (1, 3.0, False)


def test_axes_are_scaled_apart() -> None:
    frame = choose_frame(make_info(1.0, 2.0, um=(0.25, 0.2)), patch_size_px=64, target_um_per_px=0.5, level=None)
    assert (frame.level, frame.scale, frame.is_resampled) == (1, Scale(x=2.0, y=2.5), True)


def test_what_cannot_be_had_is_an_error_with_a_remedy() -> None:
    with pytest.raises(SlideError, match=r"slide s: resolution unknown.*s\.svs.*--slide_mpp") as caught:
        choose_frame(make_info(1.0, um=None), patch_size_px=64, target_um_per_px=0.5, level=None)
    assert "--slide_mpp_csv" in caught.value.remedy
    with pytest.raises(SlideError, match=r"has no level 2, only 0 to 1 \(s\.svs\)"):
        choose_frame(make_info(1.0, 4.0), patch_size_px=64, target_um_per_px=None, level=2)
    with pytest.raises(SlideError, match="more than 2 times"):
        choose_frame(make_info(1.0), patch_size_px=64, target_um_per_px=0.124, level=None)
    assert choose_frame(make_info(1.0), patch_size_px=64, target_um_per_px=0.125, level=None).scale.x == 0.5


@pytest.mark.parametrize(("size", "target", "level"), [(0, None, None), (64, 0.5, 1), (64, 0.0, None)])
def test_settings_without_meaning_are_refused(size: int, target: float | None, level: int | None) -> None:
    with pytest.raises(ValueError, match="got"):
        choose_frame(make_info(1.0, 4.0), patch_size_px=size, target_um_per_px=target, level=level)


@settings(deadline=None)
@given(st.floats(1, 200), st.integers(1, 2_000_000))
def test_overviews_are_not_coarser_than_asked_unless_they_would_be_too_large(target: float, max_px: int) -> None:
    levels = make_info(1.0, 4.0, 16.01).levels
    index, factor = choose_overview(levels, target_downsample=target, max_px=max_px)
    width, height = -(-levels[index].width_px // factor), -(-levels[index].height_px // factor)
    assert width * height <= max_px
    reached = levels[index].downsample * factor
    if reached > target * 1.16:  # then the size forced it: one step finer would have too many pixels
        finer = factor - 1
        assert -(-levels[index].width_px // finer) * -(-levels[index].height_px // finer) > max_px
    else:
        assert reached > target / 2  # near the target


def test_a_level_of_16_01_serves_a_wish_for_16() -> None:
    levels = make_info(1.0, 4.0, 16.01).levels
    assert choose_overview(levels, target_downsample=16.0, max_px=10**9) == (2, 1)
    # 2.5x of a slide of 0.2533 um per px: the 4x level would be sixteen times the pixels for nothing.
    assert choose_overview(levels, target_downsample=4 / 0.2533, max_px=10**9) == (2, 1)
    assert choose_overview(levels, target_downsample=13.0, max_px=10**9) == (1, 3)
    with pytest.raises(ValueError, match="positive downsample"):
        choose_overview(levels, target_downsample=0.0, max_px=1)
