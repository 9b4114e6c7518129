"""Small complete inputs and finished data sets, made through the real pipeline."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers_slides import write_ramp_slide
from wsi_extract.config import RunConfig, load_config
from wsi_extract.console.reporters import SilentReporter
from wsi_extract.geometry import Rect
from wsi_extract.pipeline import RunResult, run
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.synthetic import AnnotatedSlide, AnnotationRow, write_coco, write_sliderunner
from wsi_extract.tasks import Executor, SerialExecutor, Task, TaskResult

CLASSES = {2: "Mitotic figure", 7: "Mitotic figure lookalike", 3: "Tumor cell"}
WIDTH_PX, HEIGHT_PX = 1601, 1203
MEMORY_BYTES = 4 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A folder of slides and the same annotations in two formats."""

    folder: Path
    slides: tuple[AnnotatedSlide, ...]
    annotations: tuple[AnnotationRow, ...]

    @property
    def wsi_dir(self) -> Path:
        return self.folder / "WSI"

    @property
    def sqlite(self) -> Path:
        return self.folder / "annotations.sqlite"

    @property
    def coco(self) -> Path:
        return self.folder / "annotations.json"


def make_inputs(
    folder: Path,
    *,
    n_slides: int = 4,
    counts: Callable[[int], Mapping[int, int]] = lambda uid: {2: 0 if uid == 2 else 5 * uid, 7: 4, 3: 2},
    um_per_px: float | None = 0.25,
) -> Inputs:
    """Write ramp slides ``slide_1.svs`` ... with tissue nearly everywhere; the second has no mitosis.

    ``counts`` says how many annotations of which class a slide has; they lie anywhere, some near the edge.
    """
    slides: list[AnnotatedSlide] = []
    rows: list[AnnotationRow] = []
    for uid in range(1, n_slides + 1):
        name = f"slide_{uid}.svs"
        # Slides differ in size, so that no two files have the same content.
        width, height = WIDTH_PX + 10 * uid, HEIGHT_PX + 6 * uid
        write_ramp_slide(
            folder / "WSI" / name,
            width_px=width,
            height_px=height,
            tissue_l0=(Rect(x0=100, y0=100, x1=width, y1=height),),
            um_per_px=um_per_px,
            vendor="aperio",
        )
        slides.append(AnnotatedSlide(uid=uid, file_name=name, width_px=width, height_px=height))
        rng = np.random.default_rng(uid)
        for class_id, n in counts(uid).items():
            for _ in range(n):
                x, y = int(rng.integers(5, width - 5)), int(rng.integers(5, height - 5))
                rows.append(AnnotationRow(uid=len(rows) + 1, slide_uid=uid, class_id=class_id, points_l0=((x, y),)))
    inputs = Inputs(folder=folder, slides=tuple(slides), annotations=tuple(rows))
    write_sliderunner(inputs.sqlite, slides=slides, classes=CLASSES, annotations=rows)
    write_coco(inputs.coco, slides=slides, classes=CLASSES, annotations=rows)
    return inputs


def copy_inputs(inputs: Inputs, folder: Path) -> Inputs:
    for source in (*inputs.wsi_dir.iterdir(), inputs.sqlite, inputs.coco):
        target = folder / source.relative_to(inputs.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    return Inputs(folder=folder, slides=inputs.slides, annotations=inputs.annotations)


def make_config(inputs: Inputs, out: Path, **settings: Any) -> RunConfig:
    """Return checked settings; small patches unless told otherwise."""
    values = {
        "wsi_dir": str(inputs.wsi_dir),
        "annotation_json": str(inputs.sqlite),
        "output_dir": str(out),
        "patch_size": 128,
        "patches_per_slide": 20,
        "train_val_split": 0.75,
        **settings,
    }
    return load_config({}, values)


def extract(inputs: Inputs, out: Path, *, executor: Executor | None = None, **settings: Any) -> RunResult:
    """Run the whole job, serially unless an executor is given."""
    config = make_config(inputs, out, **settings)
    if executor is not None:
        return run(config, executor=executor, reporter=SilentReporter())
    with SlideCache() as slides:
        serial = SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES)
        return run(config, executor=serial, reporter=SilentReporter())


@dataclass(kw_only=True)
class ShuffledExecutor:
    """Runs all tasks of a stage in a scrambled order, as a cluster might."""

    slides: SlideCache
    seed: int
    n_workers: int = 1
    worker_memory_bytes: int = MEMORY_BYTES

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Take as many tasks as there are, yield their results in any order, and ask again."""
        stream, rng = iter(tasks), np.random.default_rng(self.seed)
        serial = SerialExecutor(slides=self.slides, worker_memory_bytes=MEMORY_BYTES)
        while waiting := list(itertools.takewhile(lambda task: task is not None, stream)):
            yield from serial.run([waiting[index] for index in rng.permutation(len(waiting))])


def read_coco(out: Path, split: str) -> dict[str, Any]:
    """Return a split's COCO document."""
    document: dict[str, Any] = json.loads((out / "annotations" / f"instances_{split}2017.json").read_bytes())
    return document


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest."""
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_bytes())
    return manifest


def content_of(out: Path) -> dict[str, bytes]:
    """Return every file of a data set, but for what differs from run to run."""
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "dask-report.html"
    }
    manifest = json.loads(files.pop("manifest.json"))
    manifest.pop("run")
    manifest.pop("sha256")  # of all of it, also of how this run went
    return {**files, "manifest.json": json.dumps(manifest).encode()}


@cache
def _finished(folder: Path) -> Path:
    inputs = make_inputs(folder / "input")
    extract(inputs, folder / "out")
    return folder / "out"


def make_dataset(tmp_path: Path) -> Path:
    """Return a finished data set in a folder of its own, free to be damaged; made once per test session."""
    original = _finished(tmp_path.parent / "original")
    copy = tmp_path / "out"
    shutil.copytree(original, copy)
    return copy
