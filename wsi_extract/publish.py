"""Make the Zarr stores of a finished extraction open, slide by slide: their documents come after their last shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from wsi_extract.config import RunConfig
from wsi_extract.extraction import RunPlan, label_rules
from wsi_extract.gather import SlideEntry
from wsi_extract.index import SlideScene, write_scene
from wsi_extract.model import OutputFrame, SlideInfo, Split
from wsi_extract.preflight import sampling_options, survey_job
from wsi_extract.printable import as_printable
from wsi_extract.slide_outcomes import SlideOutcome, documents_of
from wsi_extract.state.layout import plan_path, scene_folder
from wsi_extract.state.plans import read_coverage, read_mask
from wsi_extract.storage import Store
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.pixel_array import write_pixel_documents
from wsi_extract.survey import readable_domains
from wsi_extract.zarr_documents import write_patch_documents, write_patch_groups, write_pixel_group


def publish_stores(config: RunConfig, plan: RunPlan, *, outcomes: Mapping[str, SlideOutcome]) -> None:
    """Write the documents of every slide that succeeded."""
    if config.store is Store.PNG:
        return
    name, level = config.pixel_codec
    codec = PixelCodec(name=name, level=level)
    splits: set[Split] = set()
    for entry, outcome in _succeeded(plan, outcomes=outcomes):
        assert entry.decision is not None
        splits.update(entry.decision.splits)
        if config.store is Store.PIXELS:
            assert entry.info is not None
            assert entry.frame is not None
            write_scene(
                scene_folder(config.output_dir, slide_id=outcome.slide_id), _scene_of(entry, outcome, config=config)
            )
            _write_image_documents(entry.info, entry.frame, codec=codec, output_dir=config.output_dir)
        else:
            write_patch_documents(config.output_dir, documents_of(config.output_dir, [outcome]), codec=codec)
    if config.store is Store.PIXELS:
        write_pixel_group(config.output_dir)
    else:
        write_patch_groups(config.output_dir, splits=sorted(splits, key=list(Split).index))


def _write_image_documents(info: SlideInfo, frame: OutputFrame, *, codec: PixelCodec, output_dir: Path) -> None:
    level = info.levels[frame.level]
    write_pixel_documents(
        output_dir,
        slide_id=info.slide_id,
        size_wh_px=(level.width_px, level.height_px),
        um_per_px_xy=frame.um_per_px_out_xy,
        codec=codec,
        attributes={
            "slide_id": info.slide_id,
            "level": frame.level,
            "l0_per_px_xy": [frame.scale.x, frame.scale.y],
            "um_per_px_xy": None if frame.um_per_px_out_xy is None else list(frame.um_per_px_out_xy),
        },
    )


def _succeeded(plan: RunPlan, *, outcomes: Mapping[str, SlideOutcome]) -> Iterator[tuple[SlideEntry, SlideOutcome]]:
    for entry in plan.inputs.planned:
        outcome = outcomes[entry.file.slide_id]
        if outcome.fault is None:
            yield entry, outcome


def _scene_of(entry: SlideEntry, outcome: SlideOutcome, *, config: RunConfig) -> SlideScene:
    assert entry.decision is not None
    assert outcome.survey is not None
    job = survey_job(config, entry)
    path = plan_path(config.output_dir, slide_id=outcome.slide_id)
    return SlideScene(
        slide_id=outcome.slide_id,
        frame=job.frame,
        annotations=job.annotations,
        tissue=read_mask(path),
        coverage=read_coverage(path, record=outcome.survey),
        domains=readable_domains(job),
        group=as_printable(entry.decision.group),
        sampling=sampling_options(config),
        rules=label_rules(config),
    )
