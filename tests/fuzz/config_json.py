"""Any bytes as a config file, and its texts as flags: settings, or `ConfigError`."""

from __future__ import annotations

import contextlib
import json

from tests.fuzz.runner import fuzz
from tests.fuzz.scratch import scratch
from tests.helpers_config import REQUIRED
from wsi_extract.config import RunConfig, load_config
from wsi_extract.config_sources import parse_flag, read_extraction_object
from wsi_extract.errors import ConfigError


def check(data: bytes) -> RunConfig | None:
    """Return the settings, ``None`` when they were refused; every other error is a finding."""
    path = scratch() / "config.json"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        return load_config(read_extraction_object(path), {})
    return None


def check_flag(name: str, text: str) -> object:
    """Return the value of a flag, ``None`` when it was refused."""
    with contextlib.suppress(ConfigError):
        return parse_flag(name, text)
    return None


def seeds() -> list[bytes]:
    """Return config files of every kind of value."""
    full = {**REQUIRED, "mpp": 0.5, "category_map": {"2": "target"}, "train_slides": ["a", 1], "fresh": True}
    more = {**REQUIRED, "mixture": [0.5, 0, 0.5], "group_regex": "(a+)", "annotation_types": ["spot"], "seed": 0}
    return [json.dumps({"extraction": values}).encode() for values in (full, more, {"wsi_dir": "~nobody/x"})]


if __name__ == "__main__":
    fuzz("tests.fuzz.config_json", seeds=seeds())
