"""What a damaged data set still says of itself: its settings, its slides, where its input lay, what it held.

The manifest and ``run.json`` say much of that twice; where one of them is damaged, the other one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_extract.config import LOCATION_FIELDS
from wsi_extract.content_digest import with_own_digest
from wsi_extract.disk.files import sha256_of_file
from wsi_extract.state.layout import COMPLETE, MANIFEST, kept_manifest_path, run_path
from wsi_extract.verify.findings import DAMAGE, read_json_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a damaged data set still says of itself."""

    manifest: Mapping[str, Any]
    """Empty when it cannot be read."""
    is_manifest_sound: bool
    run: Mapping[str, Any]
    """``run.json``; empty when it cannot be read, or is not the one the manifest was written for."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the run."""
        source = self.run or (self.manifest if self.is_manifest_sound else {})
        settings = source.get("settings")
        return settings if isinstance(settings, dict) else {}

    @property
    def locations(self) -> dict[str, str]:
        """Where the input lay; of a damaged manifest too, because what lies there is compared with what is known."""
        found = dict_in(dict_in(self.manifest, "run"), "locations")
        return {name: text for name, text in found.items() if name in LOCATION_FIELDS and isinstance(text, str)}

    @property
    def content_sha256(self) -> str:
        """The content digest that the manifest states; empty when that is damaged."""
        return str(self.manifest["content_sha256"]) if self.is_manifest_sound else ""

    @property
    def n_blocks(self) -> dict[str, int | None]:
        """The slides of the data set, and how many blocks each has; ``None`` when only the manifest knew."""
        if not self.is_manifest_sound:
            return dict.fromkeys(dict_in(self.run, "slides"))
        return {row["slide_id"]: row["n_blocks"] for row in self.manifest["slides"] if row["status"] == COMPLETE}


def read_evidence(output_dir: Path) -> Evidence:
    """Return what the manifest and ``run.json`` say, as far as they are whole; raises nothing."""
    manifest: Mapping[str, Any] = {}
    for path in (kept_manifest_path(output_dir), output_dir / MANIFEST):
        with suppress(*DAMAGE):
            found = read_json_object(path)
            if _is_sound(found) or not _is_sound(manifest):
                manifest = found
    is_sound = _is_sound(manifest)
    run: Mapping[str, Any] = {}
    with suppress(*DAMAGE):
        found = read_json_object(run_path(output_dir))
        stated = dict_in(dict_in(manifest, "run"), "tables").get(run_path(Path()).as_posix())
        is_whole = not is_sound or stated == sha256_of_file(run_path(output_dir))
        run = found if is_whole and isinstance(found["slides"], dict) else {}
    return Evidence(manifest=manifest, is_manifest_sound=is_sound, run=run)


def _is_sound(manifest: Mapping[str, Any]) -> bool:
    """Tell whether a manifest matches its own digest, and has what a repair needs."""
    try:
        return (
            with_own_digest(manifest)["sha256"] == manifest["sha256"]
            and isinstance(manifest["content_sha256"], str)
            and all(isinstance(row["slide_id"], str) and isinstance(row["status"], str) for row in manifest["slides"])
            and all(isinstance(row["n_blocks"], int) for row in manifest["slides"] if row["status"] == COMPLETE)
        )
    except DAMAGE:
        return False


def dict_in(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object under a key, an empty one where there is none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}
