"""The last step of a run leaves nothing behind that speaks of another one."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.helpers_run import extract, make_inputs
from wsi_extract.state.layout import MANIFEST, kept_manifest_path


def test_what_a_killed_repair_kept_goes_when_there_is_a_new_manifest(tmp_path: Path) -> None:
    inputs, out = make_inputs(tmp_path / "input", n_slides=2), tmp_path / "out"
    extract(inputs, out)
    shutil.copy(out / MANIFEST, kept_manifest_path(out))
    extract(inputs, out)
    assert not kept_manifest_path(out).exists()
