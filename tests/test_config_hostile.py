"""Config files, lists and tables that harm, or are damaged: one message, at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import config_json as fuzzed
from tests.helpers_config import REQUIRED, problems_of
from wsi_extract.config import RunConfig, load_config
from wsi_extract.config_sources import LARGEST_FILE_BYTES, parse_flag, read_extraction_object
from wsi_extract.printable import as_printable

VALID = json.dumps({"extraction": REQUIRED})

FILES = {
    "empty": ("", "not valid JSON"),
    "truncated": (VALID[:-2], "not valid JSON"),
    "deep": ('{"extraction":' + "[" * 100_000, "nested too deep"),
    "deep and whole": ('{"extraction":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
    "a key twice": (VALID.replace('"wsi_dir"', '"wsi_dir": "x", "wsi_dir"'), "the key 'wsi_dir' occurs twice"),
    "extraction twice": (VALID[:-1] + ', "extraction": {}}', "the key 'extraction' occurs twice"),
    "an escaped key twice": (VALID.replace('"wsi_dir"', '"w\\u0073i_dir": "x", "wsi_dir"'), "occurs twice"),
    "many keys twice": ("{" + ",".join(f'"{i}": 1, "{i}": 2' for i in range(30_000)) + "}", "and 29995 more keys"),
    "NaN": (VALID.replace('"WSI"', "NaN"), "NaN is not JSON"),
    "1e400": (VALID.replace('"WSI"', "1e400"), "the number 1e400 is too large"),
    "more digits than Python reads": (VALID.replace('"WSI"', "9" * 5000), "not valid JSON"),
    "NUL": (VALID.replace("WSI", "W\\u0000SI"), "holds NUL"),
    "half a character": (VALID.replace("WSI", "W\\ud800SI"), "is not Unicode"),
    "a long path": (VALID.replace("WSI", "x" * 5000), "longer than 4096 characters"),
    "a long key": (VALID.replace("wsi_dir", "x" * 5000), "longer than 4096 characters"),
    "UTF-16": (VALID.encode("utf-16"), "not valid JSON"),
    "the home of nobody": (VALID.replace("WSI", "~nobody-of-that-name/WSI"), "wsi_dir"),
    "a list": ("[]", "expected an object"),
    "extraction is a list": ('{"extraction": []}', "expected an object"),
    "extraction is null": ('{"extraction": null}', "expected an object"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("data", "message"), FILES.values(), ids=FILES)
def test_files_that_are_refused(tmp_path: Path, data: bytes | str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    found = problems_of(lambda: read_extraction_object(path))
    assert message in found
    assert len(found) < 1000 + len(str(path))


@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with large.open("wb") as stream:
        stream.truncate(LARGEST_FILE_BYTES + 1)
    cases = {pipe: "a named pipe", Path("/dev/zero"): "a device", tmp_path: "Is a directory", large: "at most 16 MB"}
    for path, message in cases.items():
        assert message in problems_of(lambda path=path: read_extraction_object(path))  # type: ignore[misc]
        assert message in problems_of(lambda path=path: parse_flag("train_slides", f"@{path}"))  # type: ignore[misc]
        assert message in problems_of(lambda path=path: parse_flag("category_map", str(path)))  # type: ignore[misc]


FLAGS = {
    "the home of nobody": ("wsi_dir", "~nobody-of-that-name/WSI", "home directory"),
    "half a character": ("wsi_dir", "a\udcffb", "is not Unicode"),
    "a long regex": ("group_regex", "(" * 5000, "longer than 4096 characters"),
    "a long name": ("train_slides", "a," + "1" * 5000, "longer than 4096 characters"),
    "a long number": ("mpp", "1" * 4000, "finite number"),
}


@pytest.mark.parametrize(("name", "text", "message"), FLAGS.values(), ids=FLAGS)
def test_flags_that_are_refused(name: str, text: str, message: str) -> None:
    found = problems_of(lambda: parse_flag(name, text))
    assert message in found
    assert f"--{name}" in found
    assert len(found) < 1000


def test_paths_of_certificates_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"extraction": {"tls_ca_file": "ca.pem"}}))
    assert read_extraction_object(path) == {"tls_ca_file": str(tmp_path / "ca.pem")}


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert fuzzed.check(data) is None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["~", "~x/y", "@", "/"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(RunConfig.model_fields)) | st.text(max_size=9), VALUES, max_size=4))
def test_any_values_of_settings_are_refused_or_read(values: dict[str, Any]) -> None:
    fuzzed.check(json.dumps({"extraction": {**REQUIRED, **values}}).encode())


@given(
    st.sampled_from(list(RunConfig.model_fields)),
    st.text(max_size=12) | st.sampled_from(["@/dev/zero", "~x", "=", ","]),
)
def test_any_text_of_a_flag_is_refused_or_read(name: str, text: str) -> None:
    fuzzed.check_flag(name, text)


SETTINGS = {
    "the home of nobody": ({"wsi_dir": "~nobody-of-that-name/WSI"}, "--wsi_dir: value error, could not determine home"),
    "NUL": ({"wsi_dir": "a\0b"}, "must not hold nul"),
    "half a character": ({"wsi_dir": "a\udcffb"}, "text that is not Unicode"),
    "a long text": ({"patch_size": "9" * 3000}, '--patch_size: should be a valid integer, got "999'),
    "a long list": ({"mixture": [0.1] * 5000}, "got [0.1, 0.1"),
    "a long key": ({"x" * 3000: 1}, "...: unknown key"),
    "a long address": ({"scheduler": "tls://" + "x" * 3000}, "tls_ca_file, tls_cert, tls_key missing"),
    "a long number": ({"codec_level": 10**4000, "store": "zarr"}, "zstd has levels -7 to 19, got 1000"),
    "more digits than Python writes": ({"mpp": 10**5000}, "the settings cannot be used"),
    "an order for a terminal": ({"k\x1b[2J\ny": 1}, "--k\\x1b[2J\\ny: unknown key"),
}


@pytest.mark.parametrize(("values", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_are_refused_with_a_short_message(values: dict[str, object], message: str) -> None:
    found = problems_of(lambda: load_config(REQUIRED, values))
    assert message in found
    assert len(found) < 500
    assert as_printable(found) == found


def test_of_many_problems_the_first_are_listed() -> None:
    lines = problems_of(lambda: load_config(REQUIRED, {f"k{i}": i for i in range(1100)})).splitlines()
    assert lines[1] == "  --k0: unknown key"
    assert lines[20:] == ["  --k19: unknown key", "  and 1,080 more"]
