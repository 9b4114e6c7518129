"""Settings: each one reachable by flag and by file, and every mistake named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers_config import REQUIRED, load, problems_of
from wsi_extract.config import (
    LOCATION_FIELDS,
    MIXTURES,
    RUN_FIELDS,
    SECTIONS,
    RunConfig,
    Sampling,
    SplitMode,
    load_config,
)
from wsi_extract.config_sources import PATH_FIELDS, parse_flag, read_extraction_object
from wsi_extract.errors import ConfigError

# Setting, text of the flag, value in JSON: one row per setting, or the test below fails.
SETTINGS: dict[str, tuple[str, object]] = {
    "wsi_dir": ("slides", "slides"),
    "annotation_json": ("b.sqlite", "b.sqlite"),
    "output_dir": ("/data/out", "/data/out"),
    "patches_per_slide": ("250", 250),
    "patch_size": ("512", 512),
    "mpp": ("0.5", 0.5),
    "level": ("1", 1),
    "slide_mpp": ("0.25", 0.25),
    "slide_mpp_csv": ("mpp.csv", "mpp.csv"),
    "stain_norm": ("reinhard", "reinhard"),
    "stain_target": ("target.png", "target.png"),
    "category_map": ("2=target, mitotic figure=ignore", {"2": "target", "mitotic figure": "ignore"}),
    "bbox_format": ("xywh", "xywh"),
    "point_box_px": ("40", 40.0),
    "point_box_um": ("12.5", 12.5),
    "annotation_types": ("spot, circle", ["spot", "circle"]),
    "slide_aliases_csv": ("aliases.csv", "aliases.csv"),
    "unannotated_slides": ("negative", "negative"),
    "tissue_method": ("hsv", "hsv"),
    "mask_magnification": ("5", 5.0),
    "min_tissue_fraction": ("0.25", 0.25),
    "sampling": ("grid", "grid"),
    "mixture": ("0.2, 0.3, 0.5", [0.2, 0.3, 0.5]),
    "jitter": ("0.25", 0.25),
    "min_margin_px": ("25", 25),
    "max_repeats_per_anchor": ("3", 3),
    "random_negatives_only": ("true", True),
    "overlap": ("0", 0.0),
    "stride_px": ("100", 100),
    "seed": ("0", 0),
    "train_val_split": ("0.5", 0.5),
    "split_mode": ("half", "half"),
    "guard_px": ("128", 128),
    "group_regex": (r"^(\d+)_", r"^(\d+)_"),
    "group_csv": ("groups.csv", "groups.csv"),
    "train_slides": ("a, b", ["a", "b"]),
    "val_slides": ("c", ["c"]),
    "test_slides": ("ccmct", ["ccmct"]),
    "test_regex": ("(^|_)test", "(^|_)test"),
    "label_hard_negatives": ("true", True),
    "label_visible_fraction": ("0.3", 0.3),
    "crowd_visible_fraction": ("0.5", 0.5),
    "store": ("zarr", "zarr"),
    "png_encoder": ("fpng", "fpng"),
    "codec": ("jpeg-xl", "jpeg-xl"),
    "codec_level": ("3", 3),
    "coverage": ("tissue", "tissue"),
    "reader": ("direct", "direct"),
    "workers": ("0", 0),
    "scheduler": ("tcp://host:8786", "tcp://host:8786"),
    "tls_ca_file": ("ca.pem", "ca.pem"),
    "tls_cert": ("cert.pem", "cert.pem"),
    "tls_key": ("key.pem", "key.pem"),
    "dashboard_address": ("0.0.0.0:80", "0.0.0.0:80"),
    "worker_memory_mb": ("2048", 2048),
    "task_timeout_s": ("60", 60),
    "on_partial": ("warn", "warn"),
    "dry_run": ("true", True),
    "fresh": ("true", True),
}
TLS_FILES = {"tls_ca_file": "a.pem", "tls_cert": "b.pem", "tls_key": "c.pem"}
NEEDS: dict[str, dict[str, object]] = {
    "codec": {"store": "zarr"},
    "codec_level": {"store": "zarr"},
    "coverage": {"store": "pixels"},
    "stain_target": {"stain_norm": "macenko"},
    **{name: {"scheduler": "tls://host:8786", **TLS_FILES} for name in TLS_FILES},
}
"""What a setting has a meaning with only."""


def needed_for(name: str) -> dict[str, object]:
    return NEEDS.get(name, {})


# --- one name, three places ----------------------------------------------------------------------------------------


def test_every_setting_is_in_the_table_of_this_test() -> None:
    assert list(SETTINGS) == list(RunConfig.model_fields)


@pytest.mark.parametrize("name", SETTINGS)
def test_flag_and_file_mean_the_same(name: str) -> None:
    text, value = SETTINGS[name]
    assert RunConfig.model_fields[name].description
    flag = parse_flag(name, text)
    # Paths become absolute at once: workers may have another working directory.
    assert flag == (str(Path(text).absolute()) if name in PATH_FIELDS else value)
    assert json.loads(json.dumps(flag)) == flag
    given = {**REQUIRED, **needed_for(name)}
    by_flag, by_file = load_config(given, {name: flag}), load_config({**given, name: value}, {})
    assert by_flag == by_file
    assert getattr(by_flag, name) != RunConfig.model_fields[name].default


def test_settings_survive_their_own_json() -> None:
    config = load(mixture=[0.2, 0.3, 0.5], category_map={"2": "target"}, sampling="grid", test_slides=[3, "x"])
    assert load_config(config.model_dump(mode="json"), {}) == config


def test_flags_win_over_the_file_and_the_file_over_defaults() -> None:
    config = load_config({**REQUIRED, "seed": 1, "patch_size": 512}, {"seed": 2})
    assert (config.seed, config.patch_size, config.jitter) == (2, 512, 0.5)


def test_the_defaults_are_those_of_the_published_law() -> None:
    config = load()
    assert (config.patches_per_slide, config.patch_size, config.train_val_split, config.seed) == (100, 256, 0.8, 42)
    assert (config.shares, config.jitter, config.overlap, config.min_tissue_fraction) == (
        (0.1, 0.4, 0.5),
        0.5,
        0.5,
        0.1,
    )
    assert (config.sampling, config.split_mode, config.crowd_visible_fraction) == (
        Sampling.ANCHORED,
        SplitMode.SLIDE,
        0.25,
    )


def test_shares_come_from_presets_or_numbers() -> None:
    assert all(load(mixture=name).shares == shares and sum(shares) == 1 for name, shares in MIXTURES.items())
    assert load(mixture=[0, 0, 1]).shares == (0, 0, 1)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 3  # type: ignore[misc]  # that it is read-only is the point


# --- what the output depends on ------------------------------------------------------------------------------------


def test_output_settings_hold_everything_but_paths_and_how_the_run_is_carried_out() -> None:
    settings = load().output_settings()
    assert set(settings) == set(RunConfig.model_fields) - LOCATION_FIELDS - RUN_FIELDS
    assert json.loads(json.dumps(settings, allow_nan=False)) == settings


@pytest.mark.parametrize("name", SETTINGS)
def test_output_settings_follow_exactly_what_changes_the_output(name: str) -> None:
    given = {**REQUIRED, **needed_for(name)}
    before = load_config(given, {}).output_settings()
    assert (load_config(given, {name: SETTINGS[name][1]}).output_settings() != before) == (
        name not in LOCATION_FIELDS | RUN_FIELDS
    )


def test_every_path_is_a_location_and_every_list_of_names_is_real() -> None:
    paths = {name for name, field in RunConfig.model_fields.items() if "Path" in str(field.annotation)}
    assert paths == PATH_FIELDS
    assert LOCATION_FIELDS | RUN_FIELDS | set(SECTIONS) <= set(RunConfig.model_fields)
    assert next(iter(SECTIONS)) == next(iter(RunConfig.model_fields))


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"pacth_size": 3}, "--pacth_size: unknown key; did you mean 'patch_size'?", id="a typing error"),
        pytest.param({"zzz": 3}, "--zzz: unknown key", id="nothing near"),
        pytest.param({"task_timeout_s": 604_801}, "--task_timeout_s: should be less than or equal", id="above a week"),
        pytest.param({"patch_size": True}, "--patch_size: should be a valid integer, got true", id="bool for int"),
        pytest.param({"patch_size": "256"}, '--patch_size: should be a valid integer, got "256"', id="text for int"),
        pytest.param({"patch_size": 256.0}, "--patch_size: should be a valid integer, got 256.0", id="float for int"),
        pytest.param({"mpp": True}, "--mpp: should be a valid number, got true", id="bool for float"),
        pytest.param({"mpp": "0.5"}, '--mpp: should be a valid number, got "0.5"', id="text for float"),
        pytest.param({"dry_run": "yes"}, '--dry_run: should be a valid boolean, got "yes"', id="text for bool"),
        pytest.param({"dry_run": 1}, "--dry_run: should be a valid boolean, got 1", id="int for bool"),
        pytest.param({"mpp": float("nan")}, "--mpp: should be a finite number, got NaN", id="not a number"),
        pytest.param({"mpp": float("inf")}, "--mpp: should be a finite number, got Infinity", id="infinity"),
        pytest.param({"overlap": float("nan")}, "--overlap: should be a finite number", id="NaN in a range"),
        pytest.param({"mixture": [float("nan"), 0, 1]}, "--mixture: should be a finite number", id="NaN in a list"),
        pytest.param({"seed": -1}, "--seed: should be greater than or equal to 0, got -1", id="out of range"),
        pytest.param({"overlap": 1}, "--overlap: should be less than 1, got 1", id="an open end"),
        pytest.param({"sampling": "Grid"}, "--sampling: should be 'anchored' or 'grid', got \"Grid\"", id="a choice"),
        pytest.param({"category_map": {"2": "mitosis"}}, "--category_map: should be 'target'", id="unknown role"),
        pytest.param({"test_slides": [True]}, "--test_slides: should be a valid string, got true", id="bool as name"),
        pytest.param({"test_slides": "a"}, "--test_slides: should be a valid array", id="text for a list"),
        pytest.param({"annotation_types": []}, "--annotation_types: tuple should have at least 1 item", id="none"),
        pytest.param({"scheduler": "http://host"}, "--scheduler: string should match pattern", id="no Dask address"),
        pytest.param({"mixture": [0.5, 0.5]}, "--mixture: ", id="two shares"),
        pytest.param({"output_dir": ""}, "--output_dir: ", id="an empty path"),
        pytest.param({"output_dir": "  "}, "--output_dir: ", id="a blank path"),
        pytest.param({"group_csv": ""}, "--group_csv: ", id="an empty optional path"),
        pytest.param({"patch_size": None}, "--patch_size: should be a valid integer, got null", id="null"),
    ],
)
def test_wrong_values_are_refused_with_their_name(values: dict[str, object], expected: str) -> None:
    text = problems_of(lambda: load_config(REQUIRED, values))
    assert expected in text
    assert "is required" not in text
    in_file = problems_of(lambda: load_config({**REQUIRED, **values}, {}))
    assert expected.replace("--", "extraction.") in in_file


def test_every_problem_is_listed_at_once() -> None:
    text = problems_of(lambda: load_config({"wsi_dir": "a", "pacth": 1, "seed": -1}, {"jitter": 2, "store": "tiff"}))
    for part in (
        "--annotation_json is required (or 'annotation_json' in the config file's extraction object)",
        "--output_dir is required",
        "extraction.seed: ",
        "--jitter: should be less than or equal to 0.5, got 2",
        "--store: should be 'png', 'zarr', 'both' or 'pixels', got \"tiff\"",
        "extraction.pacth: unknown key",
    ):
        assert part in text
    assert len(text.splitlines()) == 7


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"mpp": 0.5, "level": 0}, "mpp and level", id="two resolutions"),
        pytest.param({"mixture": [0.5, 0.4, 0.2]}, "must sum to 1, got 1.1", id="shares above 1"),
        pytest.param({"group_regex": "(a)", "group_csv": "g.csv"}, "group_regex and group_csv", id="two groupings"),
        pytest.param({"min_margin_px": 128}, "min_margin_px: 128 leaves no room", id="a margin as large as the patch"),
        pytest.param({"split_mode": "half", "val_slides": ["a"]}, "split_mode half", id="lists in half mode"),
    ],
)
def test_combinations_without_meaning_are_refused(values: dict[str, object], expected: str) -> None:
    assert expected in problems_of(lambda: load_config(REQUIRED, values))


def test_two_wrong_combinations_are_both_named() -> None:
    text = problems_of(lambda: load(mpp=0.5, level=0, min_margin_px=200))
    assert "mpp and level" in text
    assert "min_margin_px" in text


def test_values_at_their_limits_are_accepted() -> None:
    config = load(jitter=0, overlap=0, min_tissue_fraction=1, patch_size=16, min_margin_px=7, workers=0)
    assert config.min_margin_px == 7
    assert load(mixture=[0.1, 0.2, 0.7]).shares == (0.1, 0.2, 0.7)  # 0.1 + 0.2 + 0.7 is not 1 in floats


names = st.sampled_from(sorted(RunConfig.model_fields)) | st.text(max_size=10)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=4,
)


def refused(function: Callable[[], object]) -> str | None:
    """Return the message of the `ConfigError`, the only error allowed, or ``None`` without one."""
    try:
        function()
    except ConfigError as error:
        return str(error)
    return None


@given(values=st.dictionaries(names, json_values, max_size=5))
def test_whatever_a_file_holds_it_is_settings_or_a_config_error(values: dict[str, Any]) -> None:
    message = refused(lambda: load_config({**REQUIRED, **values}, {}))
    if message is None:
        assert set(values) <= set(RunConfig.model_fields)
        assert json.dumps(load_config({**REQUIRED, **values}, {}).output_settings(), allow_nan=False)
    else:
        assert message.startswith("the settings cannot be used:\n  ")


@given(
    name=st.sampled_from(sorted(RunConfig.model_fields)), text=st.text(max_size=12).filter(lambda text: "@" not in text)
)
def test_whatever_a_flag_says_it_is_a_value_or_a_config_error(name: str, text: str) -> None:
    message = refused(lambda: parse_flag(name, text))
    if message is None:
        value = parse_flag(name, text)
        assert json.loads(json.dumps(value, allow_nan=False)) == value
    else:
        assert f"--{name}" in message


# --- flags that read files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "as Windows writes it"])
def test_lists_of_slides_can_be_files(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes(mark + "sé 1.svs\r\n\n  b \n".encode())
    assert parse_flag("val_slides", f"@{path}") == ["sé 1.svs", "b"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "as Windows writes it"])
def test_the_category_map_can_be_a_file(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(mark + b'{"2": "target", "7": "hard_negative"}')
    assert parse_flag("category_map", str(path)) == {"2": "target", "7": "hard_negative"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"\xe9"])
@pytest.mark.parametrize(("name", "text"), [("test_slides", "@{}"), ("category_map", "{}")])
def test_files_of_flags_that_cannot_be_read_are_named(
    tmp_path: Path, content: bytes | None, name: str, text: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in problems_of(lambda: parse_flag(name, text.format(path)))


def test_a_class_with_two_roles_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"2": "target", "2": "ignore"}')
    assert "'2' occurs twice" in problems_of(lambda: parse_flag("category_map", str(path)))
    assert "'2' occurs twice" in problems_of(lambda: parse_flag("category_map", "2=target, 2 =ignore"))


# --- config files --------------------------------------------------------------------------------------------------


def config_file(folder: Path, content: object) -> Path:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_relative_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    values = {name: f"sub/{name}" for name in sorted(LOCATION_FIELDS)}
    read = read_extraction_object(config_file(tmp_path, {"extraction": {**values, "output_dir": "/abs", "seed": 1}}))
    expected: dict[str, object] = {name: str(tmp_path / value) for name, value in values.items()}
    assert read == {**expected, "output_dir": "/abs", "seed": 1}


def test_home_folders_in_a_file_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    read = read_extraction_object(config_file(tmp_path, {"extraction": {"wsi_dir": "~/WSI"}}))
    assert read == {"wsi_dir": "/home/somebody/WSI"}


def test_an_empty_path_in_a_file_does_not_become_the_folder_of_the_file(tmp_path: Path) -> None:
    read = read_extraction_object(config_file(tmp_path, {"extraction": {**REQUIRED, "output_dir": ""}}))
    assert "extraction.output_dir" in problems_of(lambda: load_config(read, {}))


def test_settings_of_other_programs_in_the_file_are_left_alone(tmp_path: Path) -> None:
    assert read_extraction_object(config_file(tmp_path, {"tenant_id": "t", "job": {"compute": "c"}})) == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("{", "not valid JSON", id="no JSON"),
        pytest.param("[]", "expected an object", id="a list"),
        pytest.param({"extraction": [1]}, "expected an object", id="extraction is a list"),
        pytest.param('{"extraction": {"seed": 1, "seed": 2}}', "'seed' occurs twice", id="a key twice"),
        pytest.param('{"extraction": {}, "extraction": {"seed": 2}}', "'extraction' occurs twice", id="twice"),
        pytest.param({"patch_size": 512}, "'patch_size'", id="a setting outside extraction"),
        pytest.param({"extractions": {"seed": 2}}, "did you mean 'extraction'?", id="a typing error"),
    ],
)
def test_config_files_that_would_be_misread_are_refused(tmp_path: Path, content: object, expected: str) -> None:
    path = config_file(tmp_path, content)
    text = problems_of(lambda: read_extraction_object(path))
    assert expected in text
    assert str(path) in text


def test_config_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.json") in problems_of(lambda: read_extraction_object(tmp_path / "none.json"))
    assert str(tmp_path) in problems_of(lambda: read_extraction_object(tmp_path))
