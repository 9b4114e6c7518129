"""Build small finished data sets through the real pipeline, and damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from tests.helpers_slides import write_ramp_slide
from wsi_extract.config import RunConfig
from wsi_extract.console.reporters import SilentReporter
from wsi_extract.content_digest import with_own_digest
from wsi_extract.disk.files import pretty_json, sha256_of, sha256_of_file
from wsi_extract.geometry import Rect
from wsi_extract.model import Split
from wsi_extract.pipeline import run
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.layout import MANIFEST, instances_name, plan_path, record_path, survey_path
from wsi_extract.state.record_files import encode_record
from wsi_extract.state.records import encode_document, read_document
from wsi_extract.synthetic import DEMO_CLASSES, AnnotatedSlide, AnnotationRow, write_coco
from wsi_extract.tasks import SerialExecutor

SIDE_L0_PX = 900
"""Small enough that patches overlap, and show some object twice."""
CLASS_IDS = (2, 7)
"""Mitoses and look-alikes."""
SLIDE_NAMES = ("a.svs", "b.svs", "d_test.svs")
"""Of these, one is for testing."""
BROKEN_NAME = "broken.svs"

Json = dict[str, Any]


def write_inputs(folder: Path) -> None:
    """Write three readable slides with annotations, and a file that is no slide."""
    slides: list[AnnotatedSlide] = []
    rows: list[AnnotationRow] = []
    for uid, name in enumerate(SLIDE_NAMES, start=1):
        # Slides differ in size, so that no two files have the same content.
        width, height = SIDE_L0_PX + 8 * uid, SIDE_L0_PX
        tissue = Rect(x0=100, y0=100, x1=width - 100, y1=height - 100)
        path = folder / "WSI" / name
        write_ramp_slide(path, width_px=width, height_px=height, tissue_l0=(tissue,), vendor="aperio")
        slides.append(AnnotatedSlide(uid=uid, file_name=name, width_px=width, height_px=height))
        rng = np.random.default_rng(uid)
        for class_id in CLASS_IDS:
            for _ in range(5):
                point = (float(rng.integers(130, width - 130)), float(rng.integers(130, height - 130)))
                row = AnnotationRow(uid=len(rows) + 1, slide_uid=uid, class_id=class_id, points_l0=(point,))
                rows.append(row)
    (folder / "WSI" / BROKEN_NAME).write_bytes(b"II*\0 and nothing else")
    write_coco(folder / "MIDOG.json", slides=slides, classes=DEMO_CLASSES, annotations=rows)


def make_dataset(folder: Path, *, name: str = "out", **settings: object) -> Path:
    """Run the extraction on the inputs in ``folder``; the defaults give 8 patches of 128 px per slide."""
    values: Json = {
        "patches_per_slide": 8,
        "patch_size": 128,
        "jitter": 0.2,
        "test_regex": "_test",
        "train_val_split": 0.5,
    }
    paths = {"wsi_dir": folder / "WSI", "annotation_json": folder / "MIDOG.json", "output_dir": folder / name}
    config = RunConfig.model_validate_json(json.dumps({**values, **settings, **paths}, default=str))
    with SlideCache() as slides:
        executor = SerialExecutor(slides=slides, worker_memory_bytes=4 << 30)
        run(config, executor=executor, reporter=SilentReporter())
    return config.output_dir


def edit_json(path: Path, change: Callable[[Json], object]) -> None:
    """Change the JSON object in ``path`` in place; a manifest states its new digest."""
    document = json.loads(path.read_bytes())
    change(document)
    is_manifest = path.name == MANIFEST
    path.write_bytes(pretty_json(with_own_digest(document)) if is_manifest else json.dumps(document).encode())


def edit_coco(output_dir: Path, change: Callable[[Json], object], *, split: Split = Split.TRAIN) -> None:
    """Change a COCO document and state its new digest in the manifest, so that only the change itself is wrong."""
    path = output_dir / instances_name(split)
    edit_json(path, change)
    digest = sha256_of(path.read_bytes())
    edit_json(output_dir / MANIFEST, lambda manifest: manifest["splits"][split.value].update(sha256=digest))


def edit_record(output_dir: Path, change: Callable[[Json], object], *, slide_id: str = "a") -> None:
    """Change the first record of a slide and give it a digest that fits."""
    path = record_path(output_dir, slide_id=slide_id, index=0)
    document = read_document(path)
    assert document is not None
    change(cast(Json, document))
    path.write_bytes(encode_document(document))


def edit_survey(output_dir: Path, change: Callable[[Json], object], *, slide_id: str = "a") -> None:
    """Change the record of a survey and give it a digest that fits."""
    path = survey_path(output_dir, slide_id=slide_id)
    document: Json = json.loads(path.read_bytes())["survey"]
    change(document)
    path.write_bytes(encode_record(document, kind="survey"))


def rewrite_columns(output_dir: Path, change: Callable[[Json], object], *, slide_id: str = "a") -> None:
    """Change the columns of a plan's file in place, and let the survey state its new digest."""
    path = plan_path(output_dir, slide_id=slide_id)
    with np.load(path) as archive:
        columns: Json = {name: archive[name] for name in archive.files}
    change(columns)
    np.savez_compressed(path, **columns)
    edit_survey(output_dir, lambda survey: survey.update(plan_sha256=sha256_of_file(path)), slide_id=slide_id)


def patch_paths(output_dir: Path) -> list[Path]:
    """Return all patches of a data set, sorted."""
    return sorted(output_dir.glob("*2017/*/*.png"))
