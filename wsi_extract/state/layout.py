"""Where things lie in an output folder: the contract that users, trainers and `verify` rely on.

out/
  train2017/<slide_id>/<slide_id>_x<X>_y<Y>.png     X, Y: level-0 origin; val2017/ and test2017/ alike
  patches.zarr/<split>/<slide_id>/                   Zarr v3 array (n, H, W, 3), one chunk per patch
  pixels.zarr/<slide_id>/                            OME-Zarr image, each pixel once, only where patches can lie
  index.zarr/                                        patches and boxes as arrays, for loading
  annotations/instances_<split>2017.json
  manifest.json, slides.csv, errors.jsonl, dask-report.html
  .wsi_extract/                                      the run's memory: what lets it resume and be audited
    run.json                                         settings and inputs the folder belongs to
    run.next.json                                    the same, while run.json is written over in an object store
    plans/<slide_id>.npz, .json                      planned patches and tissue mask; the .json is written last
    records/<slide_id>/<block>.json                  a block is done when its record exists
    slides/<slide_id>.json                           a slide is done when its manifest exists
    faults/<slide_id>.json                           why a slide failed last time; gone once it is done
    lock                                             held by the run that writes here; see `folder_lock`
    claim                                            digest of that run, for its workers; see `run_claims`
    repair.json                                      the manifest as it was, while a repair is under way
"""

from __future__ import annotations

from pathlib import Path

from wsi_extract.model import Split

MANIFEST = "manifest.json"
COMPLETE = "complete"
FAILED = "failed"
"""Status in the manifest: of a slide that is in the data set, and of one that should be."""
SLIDES_TABLE = "slides.csv"
ERRORS = "errors.jsonl"
DASK_REPORT = "dask-report.html"
STATE = ".wsi_extract"
PATCHES = "patches.zarr"
PIXELS = "pixels.zarr"
INDEX = "index.zarr"


def split_folder(split: Split) -> str:
    """Return the name of the folder that holds a split's patches."""
    return f"{split.value}2017"


def instances_name(split: Split) -> str:
    """Return the path of a split's COCO document below the output folder."""
    return f"annotations/instances_{split.value}2017.json"


def patch_file_name(slide_id: str, *, x_l0: int, y_l0: int) -> str:
    """Return the path of a patch below its split's folder."""
    return f"{slide_id}/{slide_id}_x{x_l0}_y{y_l0}.png"


def patch_array_folder(output_dir: Path, *, slide_id: str, split: Split) -> Path:
    """Return the folder of the Zarr array that holds the patches of a slide in one split."""
    return output_dir / PATCHES / split.value / slide_id


def patch_shard_path(output_dir: Path, *, slide_id: str, split: Split, shard: int) -> Path:
    """Return the file of one shard of `patch_array_folder`."""
    return patch_array_folder(output_dir, slide_id=slide_id, split=split) / "c" / str(shard) / "0" / "0" / "0"


def pixel_image_folder(output_dir: Path, *, slide_id: str) -> Path:
    """Return the folder of the OME-Zarr image that holds the pixels of a slide; its array is ``0``."""
    return output_dir / PIXELS / slide_id


def pixel_shard_path(output_dir: Path, *, slide_id: str, row: int, column: int) -> Path:
    """Return the file of one shard of a slide's pixels."""
    return pixel_image_folder(output_dir, slide_id=slide_id) / "0" / "c" / "0" / str(row) / str(column)


def pixel_record_path(output_dir: Path, *, slide_id: str, row: int, column: int) -> Path:
    """Return the record whose existence means that the shard of pixels is complete."""
    return output_dir / STATE / "pixels" / slide_id / f"{row}_{column}.json"


def index_folder(output_dir: Path, *, split: Split) -> Path:
    """Return the group with the index of one split."""
    return output_dir / INDEX / split.value


def scene_folder(output_dir: Path, *, slide_id: str) -> Path:
    """Return the group with what sampling during training needs to know of a slide."""
    return output_dir / INDEX / "slides" / slide_id


def run_path(output_dir: Path) -> Path:
    """Return the file that says which run the folder belongs to."""
    return output_dir / STATE / "run.json"


def next_run_path(output_dir: Path) -> Path:
    """Return what stands for `run_path` while that is written over, where it cannot be replaced in one step."""
    return output_dir / STATE / "run.next.json"


def plan_path(output_dir: Path, *, slide_id: str) -> Path:
    """Return the file of a slide's plan."""
    return output_dir / STATE / "plans" / f"{slide_id}.npz"


def survey_path(output_dir: Path, *, slide_id: str) -> Path:
    """Return the record whose existence means that the slide's plan is complete."""
    return output_dir / STATE / "plans" / f"{slide_id}.json"


def record_path(output_dir: Path, *, slide_id: str, index: int) -> Path:
    """Return the record whose existence means that the block is complete."""
    return output_dir / STATE / "records" / slide_id / f"{index:06d}.json"


def slide_manifest_path(output_dir: Path, *, slide_id: str) -> Path:
    """Return the manifest whose existence means that all blocks of the slide, and all its pixels, are complete."""
    return output_dir / STATE / "slides" / f"{slide_id}.json"


def fault_path(output_dir: Path, *, slide_id: str) -> Path:
    """Return the file that says why a slide failed in the last run that tried it."""
    return output_dir / STATE / "faults" / f"{slide_id}.json"


def lock_path(output_dir: Path) -> Path:
    """Return the file that the one run that writes to the folder holds a lock on."""
    return output_dir / STATE / "lock"


def claim_path(output_dir: Path) -> Path:
    """Return the file that says which run may write to the folder, see `run_claims`."""
    return output_dir / STATE / "claim"


def kept_manifest_path(output_dir: Path) -> Path:
    """Return where a repair keeps the manifest until there is a new one, so that it can be taken up again."""
    return output_dir / STATE / "repair.json"


OWNED = (
    *(split_folder(split) for split in Split),
    PATCHES,
    PIXELS,
    INDEX,
    "annotations",
    MANIFEST,
    SLIDES_TABLE,
    ERRORS,
    DASK_REPORT,
    STATE,
)
"""Everything a run writes, and all that ``--fresh`` deletes."""
