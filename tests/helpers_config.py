"""Settings for tests: what must be given, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsi_extract.config import RunConfig, load_config
from wsi_extract.errors import ConfigError

REQUIRED: dict[str, object] = {"wsi_dir": "WSI", "annotation_json": "a.json", "output_dir": "out"}


def load(**values: object) -> RunConfig:
    return load_config(REQUIRED, values)


def problems_of(function: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        function()
    return str(caught.value)
