"""One conversion from beginning to end: refuse, claim the destination, convert the blocks, write the manifest last."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

import wsi_extract
from wsi_extract.convert.blocks import BlockConverter, BlockJob, jobs_of
from wsi_extract.convert.destination import check_destination, claim_destination, finish_destination
from wsi_extract.convert.documents import copy_plans, manifest_of, write_documents, write_slide_manifests
from wsi_extract.convert.options import ConvertRequest
from wsi_extract.convert.source import SourceDataset, read_source, refuse_same
from wsi_extract.disk_room import DiskRoom
from wsi_extract.errors import ConfigError, EnvironmentFaultError, IntegrityError, WsiExtractError
from wsi_extract.preflight import CODEC_SHARE_OF_RAW, PNG_SHARE_OF_RAW, encoder_versions, pixel_versions
from wsi_extract.state.claim import CONVERSION
from wsi_extract.state.folder_lock import locked
from wsi_extract.state.run_claims import run_digest
from wsi_extract.stores.block_files import BlockTarget
from wsi_extract.stores.png import check_encoder
from wsi_extract.stores.zarr_json import check_node_name

SCHEMA = 1
BLOCKS_AHEAD = 2
"""Blocks handed out per thread, so that none waits for the next."""

Progress = Callable[[int, int], None]
Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertResult:
    """A finished conversion."""

    n_patches: int
    n_converted: int
    """Patches that no earlier attempt had converted."""


def convert_dataset(
    request: ConvertRequest,
    *,
    on_progress: Progress = lambda n_done, n_total: None,
    on_notice: Notice = lambda text: None,
) -> ConvertResult:
    """Make a data set with another store from a finished one; an interrupted conversion is continued.

    Patches are read one by one in each thread, so that memory stays flat. Apart from the plans' digests, which name
    the settings of the source, and the order of chunks within shards, the result is what an extraction with that
    store writes.

    Parameters
    ----------
    on_progress
        Told how many patches are done, and how many there are.
    on_notice
        Told, before anything is written, how the pixels differ from those of the slides or of the source.

    Raises
    ------
    InputError, ConfigError
        When there is no such data set, it has that store already, or the destination holds something else.
    IntegrityError
        When the data set is damaged, or the destination holds another conversion.
    EnvironmentFaultError
        When the destination cannot be written to.
    """
    started = datetime.now(UTC)
    source = read_source(request.source_dir)
    refuse_same(source, request)
    _refuse_impossible(source, request)
    identity = _identity(source, request)
    try:
        check_destination(request.destination, source_dir=source.output_dir, identity=identity)
        _check_room(source, request)
        for text in _notices(source, request):
            on_notice(text)
        with locked(request.destination, command="python -m wsi_extract convert") as lock:
            if not lock.is_exclusive:
                on_notice(f"{request.destination} cannot be locked: make sure that nothing else writes there")
            check_destination(request.destination, source_dir=source.output_dir, identity=identity)
            n_converted = _fill(source, request, identity=identity, on_progress=on_progress, started=started)
    except WsiExtractError:
        raise
    except OSError as error:
        raise EnvironmentFaultError(
            f"cannot convert to {request.destination}: {error}.", "Run the same command again to continue."
        ) from error
    return ConvertResult(n_patches=source.n_patches, n_converted=n_converted)


def _fill(
    source: SourceDataset,
    request: ConvertRequest,
    *,
    identity: dict[str, object],
    on_progress: Progress,
    started: datetime,
) -> int:
    """Convert everything to a destination that is ours, and return how many patches were not converted before."""
    description = {
        **source.run,
        "settings": {**source.run["settings"], **request.settings},
        "libraries": pixel_versions(request.store, codec=request.pixel_codec.name, encoder=request.pixel_encoder),
    }
    claim_destination(request.destination, identity=identity, description=description)
    target = BlockTarget(
        output_dir=request.destination.absolute(),
        store=request.store,
        codec=request.pixel_codec,
        png=request.pixel_encoder,
        run_digest=run_digest(description),
    )
    copy_plans(source, target.output_dir)
    n_converted = _convert_blocks(source, target, n_threads=request.n_workers, on_progress=on_progress)
    outcomes = write_slide_manifests(source, target.output_dir)
    write_documents(source, outcomes, target=target)
    if read_source(request.source_dir).sha256 != source.sha256:
        raise IntegrityError(
            f"{request.source_dir} was extracted again while it was converted.", "Convert it to another --dest."
        )
    run = _surroundings(source, request, identity=identity, started=started)
    manifest = manifest_of(source, target.output_dir, outcomes, settings=request.settings, run=run)
    finish_destination(target.output_dir, manifest=manifest)
    return n_converted


def _refuse_impossible(source: SourceDataset, request: ConvertRequest) -> None:
    """Refuse what the store asked for cannot hold, before anything is written.

    Raises
    ------
    InputError
        When a slide's name cannot be that of an array.
    ConfigError
        When codec or encoder need a package that is not there.
    """
    if request.store.has_png:
        check_encoder(request.pixel_encoder)
    if not request.store.has_patch_arrays:
        return
    for slide in source.slides:
        check_node_name(slide.slide_id)
    try:
        request.pixel_codec.encode(np.zeros((16, 16, 3), dtype=np.uint8))
    except ImportError as error:
        raise ConfigError(f"--codec {request.codec} cannot be used: {error}.", "pip install imagecodecs") from error


def _identity(source: SourceDataset, request: ConvertRequest) -> dict[str, object]:
    """Return all that the content of the destination depends on, as JSON values."""
    return {
        "schema": SCHEMA,
        "program": f"wsi_extract {wsi_extract.__version__}",
        "libraries": encoder_versions(request.store, codec=request.pixel_codec.name, encoder=request.pixel_encoder),
        "source_manifest_sha256": source.sha256,
        **request.settings,
    }


def _notices(source: SourceDataset, request: ConvertRequest) -> Iterator[str]:
    """Yield how the pixels of the result differ from others."""
    if source.lossy_codecs:
        codecs = ", ".join(source.lossy_codecs)
        yield f"the pixels of {request.source_dir} went through {codecs}, which is lossy: they are kept as they are now"
    if request.store.has_patch_arrays and not request.pixel_codec.is_lossless:
        yield f"codec {request.pixel_codec.name} is lossy: pixels of the arrays will differ from those of the source"


def _check_room(source: SourceDataset, request: ConvertRequest) -> None:
    share = PNG_SHARE_OF_RAW * request.store.has_png
    share += CODEC_SHARE_OF_RAW[request.pixel_codec.name] * request.store.has_patch_arrays
    n_bytes = int(source.n_patches * source.patch_px**2 * 3 * share)
    try:
        DiskRoom.measure(request.destination.absolute()).check(n_bytes)
    except EnvironmentFaultError as error:
        raise EnvironmentFaultError(
            error.message, "Make room or choose another --dest, then run the same command again."
        ) from error


def _convert_blocks(source: SourceDataset, target: BlockTarget, *, n_threads: int, on_progress: Progress) -> int:
    """Convert the blocks that are not done, and return how many patches they hold."""
    converter = BlockConverter(source, target=target, n_threads=n_threads)
    n_before = n_converted = 0
    on_progress(0, source.n_patches)

    def advance(done: set[Future[int]]) -> None:
        nonlocal n_converted
        for future in done:
            n_converted += future.result()
        on_progress(n_before + n_converted, source.n_patches)

    waiting: set[Future[int]] = set()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for job in jobs_of(source):
                if converter.is_done(job):
                    n_before += len(job)
                    continue
                waiting.add(_submit(pool, converter, job))
                if len(waiting) >= BLOCKS_AHEAD * n_threads:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    advance(done)
            advance(wait(waiting).done)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # blocks in progress are finished, so that they need not be done again
            raise
    return n_converted


def _submit(pool: ThreadPoolExecutor, converter: BlockConverter, job: BlockJob) -> Future[int]:
    return pool.submit(converter.convert, job)


def _surroundings(
    source: SourceDataset, request: ConvertRequest, *, identity: dict[str, object], started: datetime
) -> dict[str, object]:
    """Return what differs from run to run, and where the pixels come from, for the manifest."""
    extraction = source.manifest["run"]
    return {
        "started": started.isoformat(),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 3),
        "n_workers": request.n_workers,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        CONVERSION: {
            "identity": identity,
            "source_dir": str(source.output_dir),
            "source_store": source.store.value,
            "lossy_codecs": list(source.lossy_codecs),
        },
        "extraction": extraction.get("extraction", extraction),
    }
