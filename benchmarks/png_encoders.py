"""Which PNG encoder, and what writing a patch costs besides: ``python -m benchmarks.png_encoders --out DIR``.

Three textures, because noise decides what an encoder has to do: tissue, places where tissue ends, and bare glass.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import cv2
import imagecodecs
import numpy as np
from isal import isal_zlib
from PIL import Image

from benchmarks.report import bar_chart_svg, environment_line
from benchmarks.results import BenchmarkResult, Table, write_result
from benchmarks.texture import TISSUE_GREY, TexturedSlide, make_textured_slide
from benchmarks.timing import Case, measure
from wsi_extract.arrays import RgbImage
from wsi_extract.disk.durable import Synchroniser
from wsi_extract.disk.files import sha256_of
from wsi_extract.errors import ConfigError
from wsi_extract.storage import PngEncoder
from wsi_extract.stores.png import check_encoder, decode_png, encode_png, write_patches

NAME = "png_encoders"
PACKAGES = ("numpy", "isal", "fpng", "opencv-python-headless", "pillow", "imagecodecs")
TISSUE = "tissue"
TEXTURES: Mapping[str, tuple[float, float]] = {TISSUE: (0.9, 1.0), "edge of tissue": (0.02, 0.9), "glass": (0.0, 0.02)}
"""Share of tissue in a patch, from and up to; 1 belongs to the first."""
STAGES = ("encode", "digest", "create and write", "synchronise", "rename")

Encode = Callable[[RgbImage], bytes]
Decode = Callable[[bytes], RgbImage]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCost:
    """What one encoder costs per patch of one texture; CPU time."""

    encoder: str
    texture: str
    encode_ms: float
    n_bytes: float
    decode_ms: Mapping[str, float]
    """By the library that reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingCost:
    """What one stage costs per patch, when each stage runs by itself over all patches."""

    stage: str
    cpu_ms: float
    wall_ms: float


def all_encoders() -> dict[str, Encode]:
    """Return the product's encoders that are installed, and others for comparison."""
    encoders: dict[str, Encode] = {}
    for encoder in PngEncoder:
        with suppress(ConfigError):
            check_encoder(encoder)
            encoders[encoder.value] = lambda rgb, encoder=encoder: encode_png(rgb, encoder=encoder)  # type: ignore[misc]
    return encoders | {
        "ISA-L on the filter up": _encode_up,
        "Pillow, default": lambda rgb: _encode_with_pillow(rgb, level=6),
        "Pillow, level 1": lambda rgb: _encode_with_pillow(rgb, level=1),
        "libspng, level 1": lambda rgb: bytes(imagecodecs.png_encode(rgb, level=1)),
    }


def _encode_with_pillow(rgb: RgbImage, *, level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG", compress_level=level)
    return stream.getvalue()


def _encode_up(rgb: RgbImage) -> bytes:
    """Return what a simpler filter would give: every byte less the one above it."""
    height, width, _ = rgb.shape
    rows = rgb.reshape(height, 3 * width)
    out = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    out[:, 0] = 2
    out[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=out[1:, 1:])
    chunks = [(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + bytes((8, 2, 0, 0, 0)))]
    chunks += [(b"IDAT", isal_zlib.compress(out, 1)), (b"IEND", b"")]
    parts = [
        len(body).to_bytes(4) + kind + body + isal_zlib.crc32(body, isal_zlib.crc32(kind)).to_bytes(4)
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def all_readers() -> dict[str, Decode]:
    """Return the libraries with which trainers read PNG files."""
    return {
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
        "OpenCV": decode_png,
        "libspng": lambda data: np.asarray(imagecodecs.png_decode(data)),
    }


def patches_by_texture(slide: TexturedSlide, *, n_patches: int) -> dict[str, RgbImage]:
    """Return up to ``n_patches`` patches (N, H, W, 3) of each of `TEXTURES` that the picture has."""
    size = slide.patch_px
    height, width = slide.rgb.shape[:2]
    grid = [
        slide.rgb[y : y + size, x : x + size]
        for y in range(0, height - size + 1, size)
        for x in range(0, width - size + 1, size)
    ]
    tissue = [float((patch.mean(axis=2) < TISSUE_GREY).mean()) for patch in grid]
    found: dict[str, RgbImage] = {}
    for name, (low, high) in TEXTURES.items():
        chosen = [patch for patch, share in zip(grid, tissue, strict=True) if low <= share < high or share == high == 1]
        if chosen:
            found[name] = np.stack(chosen[:n_patches])
    return found


def compare_encoders(patches: RgbImage, *, texture: str, n_rounds: int, seed: int) -> tuple[EncoderCost, ...]:
    """Encode and decode all patches in every way, interleaved; medians of the rounds.

    Raises
    ------
    RuntimeError
        When a reader does not get the same pixels back from an encoder's file.
    """
    readers, encoders = all_readers(), all_encoders()
    encoded = {name: [encode(rgb) for rgb in patches] for name, encode in encoders.items()}
    cases: dict[str, Case] = {}
    for name, encode in encoders.items():
        cases[name] = _case(encode, patches)
        for reader, decode in readers.items():
            if not all(np.array_equal(decode(data), rgb) for data, rgb in zip(encoded[name], patches, strict=True)):
                raise RuntimeError(f"{reader} does not get the pixels back from the files of {name}")
            cases[f"{name} / {reader}"] = _case(decode, encoded[name])
    timings = measure(cases, n_patches=len(patches), n_rounds=n_rounds, seed=seed)
    return tuple(
        EncoderCost(
            encoder=name,
            texture=texture,
            encode_ms=timings[name].cpu_ms,
            n_bytes=sum(map(len, encoded[name])) / len(patches),
            decode_ms={reader: timings[f"{name} / {reader}"].cpu_ms for reader in readers},
        )
        for name in encoders
    )


def _case(work: Encode | Decode, items: RgbImage | Sequence[bytes]) -> Case:
    def run() -> int:
        for item in items:
            work(item)  # type: ignore[arg-type]  # patches go to encoders, files to readers
        return len(items)

    return run


def measure_writing(patches: RgbImage, *, folder: Path, n_rounds: int) -> tuple[WritingCost, ...]:
    """Time the stages of writing one by one, and the product's way, in which they overlap.

    Nothing is deleted between the rounds: for seconds afterwards a file system takes longer to create files.
    """
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(n_rounds):
        target = folder / f"round{number}"
        target.mkdir()
        for stage, cpu_s, wall_s in _time_stages(patches, folder=target):
            times.setdefault(stage, []).append((1e3 * cpu_s / len(patches), 1e3 * wall_s / len(patches)))
    return tuple(
        WritingCost(stage=stage, cpu_ms=median(cpu for cpu, _ in rounds), wall_ms=median(wall for _, wall in rounds))
        for stage, rounds in times.items()
    )


def _time_stages(patches: RgbImage, *, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each stage with its seconds of CPU and of wall time over all patches."""
    encoded: list[bytes] = []
    names = [str(folder / f"{number}.png") for number in range(len(patches))]

    def create() -> None:
        for name, data in zip(names, encoded, strict=True):
            descriptor = os.open(f"{name}.partial", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, data)
            os.close(descriptor)

    def synchronise() -> None:
        with Synchroniser() as synchroniser:
            for name in names:
                synchroniser.add(os.open(f"{name}.partial", os.O_RDONLY))

    work: tuple[Callable[[], object], ...] = (
        lambda: encoded.extend(encode_png(rgb) for rgb in patches),
        lambda: [sha256_of(data) for data in encoded],
        create,
        synchronise,
        lambda: [Path(f"{name}.partial").replace(name) for name in names],
        lambda: write_patches(folder, ((f"whole/{number}.png", rgb) for number, rgb in enumerate(patches))),
    )
    for stage, run in zip((*STAGES, "all of it, as extraction does"), work, strict=True):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        yield stage, time.process_time() - cpu, time.perf_counter() - wall


def tables_of(costs: Sequence[EncoderCost], writing: Sequence[WritingCost]) -> tuple[Table, ...]:
    """Return encoders on all textures, readers on tissue, and the stages of writing."""
    textures = list(dict.fromkeys(cost.texture for cost in costs))
    by_encoder: dict[str, dict[str, EncoderCost]] = {}
    for cost in costs:
        by_encoder.setdefault(cost.encoder, {})[cost.texture] = cost
    readers = tuple(all_readers())
    encoder_rows = tuple(
        (name, *(f"{of[t].encode_ms:.2f} / {of[t].n_bytes / 1e3:.0f}" if t in of else "" for t in textures))
        for name, of in by_encoder.items()
    )
    reader_rows = tuple(
        (cost.encoder, *(f"{cost.decode_ms[reader]:.2f}" for reader in readers))
        for cost in costs
        if cost.texture == textures[0]
    )
    stage_rows = tuple((cost.stage, f"{cost.cpu_ms:.3f}", f"{cost.wall_ms:.3f}") for cost in writing)
    return (
        Table(caption="Encoding, CPU ms / KB per patch:", header=("encoder", *textures), rows=encoder_rows),
        Table(caption=f"Reading, CPU ms per patch of {textures[0]}:", header=("encoder", *readers), rows=reader_rows),
        Table(caption="Writing with the default encoder:", header=("stage", "CPU ms", "wall ms"), rows=stage_rows),
    )


def compare(options: argparse.Namespace) -> tuple[BenchmarkResult, str]:
    """Measure everything; return the result and its plot."""
    slide = make_textured_slide(options.patches, patch_px=options.patch_px, seed=options.seed)
    patches = patches_by_texture(slide, n_patches=options.patches)
    costs = [
        cost
        for texture, some in patches.items()
        for cost in compare_encoders(some, texture=texture, n_rounds=options.rounds, seed=options.seed)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=options.out))
    try:
        writing = measure_writing(patches[TISSUE], folder=folder, n_rounds=options.rounds)
    finally:
        shutil.rmtree(folder)
    counts = ", ".join(f"{len(some)} of {texture}" for texture, some in patches.items())
    result = BenchmarkResult(
        name=NAME,
        conditions=(
            f"Patches of {options.patch_px} px: {counts}; {options.rounds} rounds, medians.",
            f"{environment_line(PACKAGES)}.",
        ),
        tables=tables_of(costs, writing),
        figures={
            "encoders": [asdict(cost) for cost in costs],
            "writing": [asdict(cost) for cost in writing],
        },
        plots=(f"{NAME}.svg",),
    )
    bars = [
        (f"{cost.encoder} ({cost.n_bytes / 1e3:.0f} KB)", cost.encode_ms) for cost in costs if cost.texture == TISSUE
    ]
    ours = frozenset(label for label, _ in bars if label.split(" (")[0] in set(PngEncoder))
    return result, bar_chart_svg("Encoding a patch of tissue as PNG (logarithmic)", bars, unit="ms", highlighted=ours)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; files are written below it")
    parser.add_argument("--patches", type=int, default=200, help="of each texture, as far as there are")
    parser.add_argument("--patch-px", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved; medians are reported")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    result, plot = compare(options)
    write_result(options.out, result, plots={f"{NAME}.svg": plot})
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
