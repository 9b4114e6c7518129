"""Names of what a run does to its output folder: an operation and the role of the file, ``rename:record``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from wsi_extract.disk.files import is_temporary
from wsi_extract.model import Split
from wsi_extract.state.layout import (
    DASK_REPORT,
    ERRORS,
    INDEX,
    MANIFEST,
    PATCHES,
    PIXELS,
    SLIDES_TABLE,
    STATE,
    claim_path,
    fault_path,
    kept_manifest_path,
    lock_path,
    next_run_path,
    pixel_record_path,
    plan_path,
    record_path,
    run_path,
    slide_manifest_path,
    split_folder,
)

TEMPORARY_CHARACTERS = len(".0123456789ab.partial")
OTHER = "other"
DELETED = " (deleted)"
"""What Linux says behind the path of an open file that has no name."""
OUTPUT_FOLDER = "output_folder"
_ROOT = Path()
_BELOW_STATE = {
    record_path(_ROOT, slide_id="s", index=0).parts[1]: "record",
    pixel_record_path(_ROOT, slide_id="s", row=0, column=0).parts[1]: "pixel_record",
    plan_path(_ROOT, slide_id="s").parts[1]: "plan",
    slide_manifest_path(_ROOT, slide_id="s").parts[1]: "slide_manifest",
    fault_path(_ROOT, slide_id="s").parts[1]: "fault",
    run_path(_ROOT).parts[1]: "run",
    next_run_path(_ROOT).parts[1]: "run",
    lock_path(_ROOT).parts[1]: "lock",
    claim_path(_ROOT).parts[1]: "claim",
    kept_manifest_path(_ROOT).parts[1]: "kept_manifest",
}
_AT_TOP = {
    **{split_folder(split): "patch" for split in Split},
    PATCHES: "shard",
    PIXELS: "pixel_shard",
    INDEX: "index",
    "annotations": "coco",
    MANIFEST: "manifest",
    SLIDES_TABLE: "slides_table",
    ERRORS: "errors",
    DASK_REPORT: "report",
}


def final_name(name: str) -> str:
    """Return the name that a temporary is to get; any other name as it is."""
    return name[:-TEMPORARY_CHARACTERS] if is_temporary(name) else name


def role_of_file(relative: str) -> str:
    """Return the role of a file, or of the file that a temporary is to become, by its path below the output folder."""
    if relative.endswith(DELETED):
        return "scratch"
    path = PurePosixPath(relative)
    name = final_name(path.name)
    role = _role_of(path)
    if role == "plan" and name.endswith(".json"):
        return "survey"
    if role in ("shard", "pixel_shard") and name == "zarr.json":
        return "zarr_document"
    return role


def role_of_folder(relative: str) -> str:
    """Return the role of a folder by its path below the output folder."""
    path = PurePosixPath(relative)
    if not path.parts:
        return OUTPUT_FOLDER
    if path == PurePosixPath(STATE):
        return "state_folder"
    return f"{_role_of(path)}_folder"


def _role_of(path: PurePosixPath) -> str:
    top, *below = path.parts
    if top == STATE and below:
        return _BELOW_STATE.get(final_name(below[0]), OTHER)
    return _AT_TOP.get(final_name(top), OTHER)
