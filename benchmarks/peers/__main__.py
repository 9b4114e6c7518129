"""Other programs on the same work: ``python -m benchmarks.peers --out DIR``, in the root of the checkout.

The first time, a virtual environment is made for each program (pip, 12 GB, ten minutes); it is kept. A program that
cannot be installed or does not make the same patches is listed with its reason. One round of all programs at both
overlaps takes some twenty minutes on a slide of the default size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.jobs import benchmark_parser, scratch_folder
from benchmarks.limit import encoders
from benchmarks.peers.catalogue import LEFT_OUT, PEERS, Peer
from benchmarks.peers.comparison import Ours, compare_peers
from benchmarks.peers.environments import Environment, UnavailablePeerError, default_cache, ensure_environment
from benchmarks.peers.tables import result_of
from benchmarks.report import environment_line
from benchmarks.results import write_result
from benchmarks.scanned_slides import scanned_slide
from wsi_extract.storage import PngEncoder

PACKAGES = ("numpy", "openslide-bin", "simplejpeg", "isal", "fpng", "opencv-python-headless", "pillow")


def all_ours() -> tuple[Ours, ...]:
    """Return this package with every PNG encoder that is installed, the default first."""
    installed = encoders()
    default = PngEncoder.ISAL
    others = (encoder for encoder in PngEncoder if encoder is not default and encoder.value in installed)
    return (
        Ours(name="wsi_extract"),
        *(Ours(name=f"wsi_extract, {each.value}", flags=("--png_encoder", each.value)) for each in others),
    )


def install_peers(peers: Sequence[Peer], *, cache: Path) -> tuple[list[tuple[Peer, Environment]], dict[str, str]]:
    """Return the programs that can be run with their environments, and why the others cannot, by name."""
    ready, missing = [], {}
    for peer in peers:
        try:
            ready.append((peer, ensure_environment(peer, cache=cache)))
        except UnavailablePeerError as error:
            missing[peer.name] = str(error)
    return ready, missing


def _conditions_of(slide: Path, *, n_rounds: int) -> str:
    what = f"Slide {slide.name}; grid of 256 px patches at level 0 as PNG files"
    return f"{what}; one core; {n_rounds} interleaved rounds, medians."


def main(arguments: Sequence[str] | None = None) -> int:
    """Install what is missing, run the comparison, print its tables and write ``peers.json`` and the chart."""
    parser = benchmark_parser("peers", description="Compare with other programs.")
    parser.add_argument("--slide", type=Path, help="file of benchmarks.scanned_slides; drawn without it")
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.5, 0.0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of the names of the programs to compare with")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder that keeps the environments")
    options = parser.parse_args(arguments)
    chosen = [peer for peer in PEERS if options.only is None or any(part in peer.name for part in options.only)]
    ready, missing = install_peers(chosen, cache=options.cache)
    slide = options.slide or scanned_slide(
        options.slides, width_px=options.width_px, height_px=options.height_px, tile_px=options.tile_px
    )
    found = []
    for overlap in options.overlaps:
        with scratch_folder(options.scratch) as scratch:
            found.append(
                compare_peers(
                    slide, overlap=overlap, ours=all_ours(), peers=ready, n_rounds=options.rounds, scratch=scratch
                )
            )
    result, plots = result_of(
        found,
        left_out={**missing, **(LEFT_OUT if options.only is None else {})},
        conditions=(_conditions_of(slide, n_rounds=options.rounds), environment_line(PACKAGES) + "."),
        notes=[f"{peer.name}: {peer.note}." for peer, _ in ready if peer.note],
    )
    write_result(options.out, result, plots=plots)
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
