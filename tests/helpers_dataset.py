"""Finished data sets of every store, made once per test session through the real pipeline."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from tests.helpers_run import Inputs, extract, make_inputs
from wsi_extract.dataset import PatchDataset, open_dataset
from wsi_extract.state.layout import patch_array_folder, pixel_image_folder, split_folder
from wsi_extract.storage import Store
from wsi_extract.tasks import Executor

SETTING_OF = {Store.PNG: "both", Store.ZARR: "both", Store.PIXELS: "pixels"}
"""The setting of the data set a store is read from."""
STORES = (Store.PNG, Store.ZARR, Store.PIXELS)


@cache
def _inputs(folder: Path) -> Inputs:
    return make_inputs(folder / "inputs", n_slides=3)


@cache
def _finished(folder: Path, setting: str, coverage: str | None) -> Path:
    out = folder / f"{setting}-{coverage}"
    run_extraction(_inputs(folder), out, store=setting, coverage=coverage)
    return out


def run_extraction(
    inputs: Inputs,
    out: Path,
    *,
    store: str,
    patches_per_slide: int = 16,
    coverage: str | None = None,
    executor: Executor | None = None,
) -> None:
    """Extract with the settings of all data sets of the session but those given."""
    extract(
        inputs,
        out,
        executor=executor,
        store=store,
        patches_per_slide=patches_per_slide,
        coverage=coverage,
        label_hard_negatives=True,
        mixture=[0.5, 0.2, 0.3],
        crowd_visible_fraction=0.01,
        seed=3,
    )


def session_folder(tmp_path: Path) -> Path:
    return tmp_path.parent / "datasets"


def shared_inputs(tmp_path: Path) -> Inputs:
    """Return the inputs of all data sets of the session."""
    return _inputs(session_folder(tmp_path))


def shared_dataset(tmp_path: Path, *, setting: str = "both", coverage: str | None = None) -> Path:
    """Return a data set that must not be changed."""
    return _finished(session_folder(tmp_path), setting, coverage)


def own_dataset(tmp_path: Path, *, setting: str = "both") -> Path:
    """Return a copy that may be damaged."""
    copy = tmp_path / "out"
    shutil.copytree(shared_dataset(tmp_path, setting=setting), copy)
    return copy


def file_of(patches: PatchDataset, i: int) -> Path:
    """Return the file that holds the pixels of a patch, or the first of them."""
    index = patches.index
    slide = index.slides[int(index.slide[i])]
    match patches.store:
        case Store.ZARR:
            folder = patch_array_folder(patches.output_dir, slide_id=slide.slide_id, split=index.split)
        case Store.PIXELS:
            folder = pixel_image_folder(patches.output_dir, slide_id=slide.slide_id) / "0"
        case _:
            return patches.output_dir / split_folder(index.split) / index.file_name(i)
    return next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "zarr.json")


def open_store(out: Path, store: Store, *, split: str = "train") -> PatchDataset:
    """Open a split by the store given."""
    return open_dataset(out, split, store.value)


def flip_byte(path: Path, *, at: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))
