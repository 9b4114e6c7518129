"""What a run needs and stands for, before it starts: memory, disk, identity. Refuses early and with numbers."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import wsi_extract
from wsi_extract.blocks import MAX_MASK_PX, WORKER_MEMORY_USE, worker_bytes
from wsi_extract.config import LOCATION_FIELDS, STORE_FIELDS, RunConfig, Sampling, SplitMode
from wsi_extract.disk.files import canonical_json, sha256_of
from wsi_extract.errors import ConfigError
from wsi_extract.gather import Inputs, SlideEntry
from wsi_extract.geometry import Rect
from wsi_extract.model import Split
from wsi_extract.printable import as_encodable
from wsi_extract.reading import StainNorm
from wsi_extract.resolution import choose_overview
from wsi_extract.sampling import MAX_PATCHES, SamplingOptions, count_positions, stride_from_overlap
from wsi_extract.slides.open_slides import openslide_version
from wsi_extract.splits import half_domains
from wsi_extract.stain import StainTarget, default_target, fit_target, read_picture
from wsi_extract.state.claim import known_stain_target
from wsi_extract.state.plans import SurveyRecord, digest_of_annotations
from wsi_extract.storage import CodecName, PngEncoder, Store
from wsi_extract.stores.zarr_json import PIXEL_CHUNK_PX
from wsi_extract.survey import SurveyJob, mask_downsample
from wsi_extract.tasks import Executor

PNG_SHARE_OF_RAW = 0.75
CODEC_SHARE_OF_RAW = {
    CodecName.ZSTD: 0.97,
    CodecName.NONE: 1.0,
    CodecName.WEBP: 0.6,
    CodecName.JPEG_XL: 0.57,
    CodecName.JPEG: 0.25,
}
"""Encoded bytes of stained tissue per raw byte; for estimates only."""
PIXEL_LIBRARIES = (
    "openslide",
    "openslide-python",
    "simplejpeg",
    "tifffile",
    "opencv-python-headless",
    "pillow",
    "numpy",
)
"""Libraries whose version may change the bytes that are written, whatever the store."""
CODEC_LIBRARIES = {
    CodecName.ZSTD: "zstandard",
    CodecName.WEBP: "imagecodecs",
    CodecName.JPEG_XL: "imagecodecs",
    CodecName.JPEG: "imagecodecs",
}
ENCODER_LIBRARIES = {
    PngEncoder.ISAL: "isal",
    PngEncoder.FPNG: "fpng",
    PngEncoder.OPENCV: "opencv-python-headless",
}


def check_memory(config: RunConfig, inputs: Inputs, *, executor: Executor) -> int:
    """Return the memory a worker needs, bytes.

    Raises
    ------
    ConfigError
        When it has less.
    """
    needs = {entry.file.slide_id: _worker_bytes_for(entry, config=config) for entry in inputs.planned}
    slide_id, needed = max(needs.items(), key=lambda item: item[1])
    allowed = int(executor.worker_memory_bytes * WORKER_MEMORY_USE)
    if needed > allowed:
        raise ConfigError(
            f"slide {slide_id} needs about {needed / 1e6:.0f} MB per worker, but {WORKER_MEMORY_USE:.0%} of the "
            f"{executor.worker_memory_bytes / 1e6:.0f} MB that each of {executor.n_workers} workers may use is "
            f"{allowed / 1e6:.0f} MB.",
            "Use fewer --workers, a larger --worker_memory_mb, a smaller --patch_size, or fewer patches per slide.",
        )
    return needed


def _worker_bytes_for(entry: SlideEntry, *, config: RunConfig) -> int:
    assert entry.info is not None
    assert entry.frame is not None
    target = mask_downsample(entry.info, mask_magnification=config.mask_magnification)
    index, factor = choose_overview(entry.info.levels, target_downsample=target, max_px=MAX_MASK_PX)
    level = entry.info.levels[index]
    overview_px = math.ceil(level.width_px / factor) * math.ceil(level.height_px / factor)
    n_patches = config.patches_per_slide
    if config.sampling is Sampling.GRID:
        options = sampling_options(config)
        n_patches = min(count_positions(entry.info, entry.frame, stride_px=options.stride_px), MAX_PATCHES)
    return worker_bytes(entry.frame, overview_px=overview_px, n_patches=n_patches)


def describe_run(config: RunConfig, inputs: Inputs, *, target: StainTarget | None) -> dict[str, object]:
    """Return everything the output depends on, as JSON values; equal descriptions mean the same data set."""
    return {
        "program": f"wsi_extract {wsi_extract.__version__}",
        "settings": config.output_settings(),
        "libraries": pixel_versions(config.store, codec=config.pixel_codec[0], encoder=config.pixel_encoder),
        "stain_target": None if target is None else target.to_json(),
        "annotations": inputs.annotations.source.sha256,
        "slides": {
            entry.file.slide_id: {
                "fingerprint": entry.info.fingerprint,
                "um_per_px_xy": None if entry.info.um_per_px_xy is None else list(entry.info.um_per_px_xy),
                "annotations": digest_of_annotations(entry.annotations),
                "splits": [split.value for split in entry.decision.splits],
            }
            for entry in inputs.planned
            if entry.info is not None and entry.decision is not None
        },
    }


def pixel_versions(store: Store, *, codec: CodecName, encoder: PngEncoder) -> dict[str, str]:
    """Return the versions of the libraries that make the bytes of pixels on disk."""
    of_pixels = {name: text for name, text in _versions().items() if name in PIXEL_LIBRARIES}
    return of_pixels | encoder_versions(store, codec=codec, encoder=encoder)


def encoder_versions(store: Store, *, codec: CodecName, encoder: PngEncoder) -> dict[str, str]:
    """Return the versions of the libraries that compress the pixels of a store."""
    names = {ENCODER_LIBRARIES[encoder]} if store.has_png else set()
    if store is not Store.PNG and codec in CODEC_LIBRARIES:
        names.add(CODEC_LIBRARIES[codec])
    return {name: text for name, text in _versions().items() if name in names}


def stain_target(config: RunConfig) -> StainTarget | None:
    """Return what the stain of slides is brought to; ``None`` leaves them as they were scanned.

    A run that is resumed needs the target's name but not its picture any more.

    Raises
    ------
    InputError
        When the picture given cannot be read, or shows no stain.
    """
    if config.stain_norm is StainNorm.NONE:
        return None
    if config.stain_target is None:
        return default_target(config.stain_norm)
    name = config.stain_target.name
    if not config.stain_target.exists() and not config.fresh:
        known = known_stain_target(config.output_dir) or {}
        if (known.get("method"), known.get("name")) == (config.stain_norm, name):
            return StainTarget.from_json(known)
    return fit_target(read_picture(config.stain_target), method=config.stain_norm, name=name)


def run_key(config: RunConfig) -> str:
    """Return the digest of the settings a plan may depend on; what else it depends on enters through its own job.

    The plan is the same whatever store holds the pixels.
    """
    settings = {key: value for key, value in config.output_settings().items() if key not in STORE_FIELDS}
    return sha256_of(canonical_json([wsi_extract.__version__, settings]))


def sampling_options(config: RunConfig) -> SamplingOptions:
    """Return the settings of the sampler."""
    stride_px = config.stride_px or stride_from_overlap(config.patch_size, overlap=config.overlap)
    return SamplingOptions(
        mode="grid" if config.sampling is Sampling.GRID else "anchored",
        patches_per_slide=config.patches_per_slide,
        shares=config.shares,
        jitter_fraction=config.jitter,
        min_margin_px=config.min_margin_px,
        max_repeats_per_anchor=config.max_repeats_per_anchor,
        random_negatives_only=config.random_negatives_only,
        min_tissue_fraction=config.min_tissue_fraction,
        stride_px=stride_px,
        seed=config.seed,
    )


def split_domains(entry: SlideEntry, *, config: RunConfig) -> tuple[tuple[Split, Rect], ...]:
    """Return where patches of each split of a slide may lie, level-0 px."""
    assert entry.info is not None
    assert entry.decision is not None
    if config.split_mode is SplitMode.HALF and len(entry.decision.splits) > 1:
        return half_domains(entry.info.domain_l0, guard_px=config.guard_px)
    return tuple((split, entry.info.domain_l0) for split in entry.decision.splits)


def survey_job(
    config: RunConfig, entry: SlideEntry, *, target: StainTarget | None = None, run_digest: str | None = None
) -> SurveyJob:
    """Return the survey of a slide that takes part.

    Parameters
    ----------
    target
        What its stain is brought to.
    run_digest
        Of the run that claimed the output folder, see `SurveyJob`.
    """
    assert entry.info is not None
    assert entry.frame is not None
    return SurveyJob(
        slide=entry.info,
        frame=entry.frame,
        domains=split_domains(entry, config=config),
        annotations=entry.annotations,
        sampling=sampling_options(config),
        tissue_method=config.tissue_method,
        mask_magnification=config.mask_magnification,
        coverage=config.pixel_coverage if config.store is Store.PIXELS else None,
        reader_mode=config.reader,
        stain_target=target,
        run_key=run_key(config),
        output_dir=None if config.dry_run else config.output_dir.resolve(),
        run_digest=run_digest,
    )


def expected_bytes(config: RunConfig, inputs: Inputs, surveys: Mapping[str, SurveyRecord]) -> int:
    """Return the expected size of all pixels on disk."""
    codec_share = CODEC_SHARE_OF_RAW[config.pixel_codec[0]]
    share = PNG_SHARE_OF_RAW * config.store.has_png + codec_share * config.store.has_patch_arrays
    total = codec_share * PIXEL_CHUNK_PX**2 * 3 * sum(record.n_chunks for record in surveys.values())
    for entry in inputs.planned:
        record = surveys.get(entry.file.slide_id)
        if record is not None and entry.frame is not None:
            raw = entry.frame.patch_w_out_px * entry.frame.patch_h_out_px * 3
            total += record.n_patches * raw * share
    return int(total)


def _versions() -> dict[str, str]:
    versions = {"wsi_extract": wsi_extract.__version__, "openslide": openslide_version()}
    for package in (
        "numpy",
        "opencv-python-headless",
        "pillow",
        "openslide-python",
        "simplejpeg",
        "tifffile",
        "isal",
        "fpng",
        "zstandard",
        "imagecodecs",
        "dask",
        "distributed",
    ):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def surroundings(config: RunConfig, executor: Executor) -> dict[str, object]:
    """Return what differs from run to run without touching the data, for the manifest."""
    return {
        "n_workers": executor.n_workers,
        "locations": {
            name: as_encodable(str(path))
            for name in sorted(LOCATION_FIELDS)
            if (path := getattr(config, name)) is not None
        },
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": _versions(),
    }
