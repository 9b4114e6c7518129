"""Defaults that a job sets through the environment, and who overrules them."""

from __future__ import annotations

import pytest

from wsi_extract.config import load_config
from wsi_extract.config_sources import defaults_of_job
from wsi_extract.errors import ConfigError

REQUIRED = {"wsi_dir": "w", "annotation_json": "a", "output_dir": "o"}


@pytest.mark.parametrize(
    ("environ", "in_file", "flags", "expected"),
    [
        ({}, {}, {}, "fail"),
        ({"WSI_EXTRACT_ON_PARTIAL": "warn"}, {}, {}, "warn"),
        ({"WSI_EXTRACT_ON_PARTIAL": "warn"}, {"on_partial": "fail"}, {}, "fail"),
        ({"WSI_EXTRACT_ON_PARTIAL": "warn"}, {}, {"on_partial": "fail"}, "fail"),
        ({}, {"on_partial": "fail"}, {"on_partial": "warn"}, "warn"),
    ],
)
def test_the_environment_is_overruled_by_file_and_flags(
    environ: dict[str, str], in_file: dict[str, object], flags: dict[str, object], expected: str
) -> None:
    assert load_config(REQUIRED | defaults_of_job(environ) | in_file, flags).on_partial == expected


def test_a_default_that_is_no_value_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="WSI_EXTRACT_ON_PARTIAL must be fail or warn, got 'no'"):
        defaults_of_job({"WSI_EXTRACT_ON_PARTIAL": "no"})
