"""large_image: ``getRegion`` with PNG as the wanted encoding; HistomicsTK reads its slides so."""

from __future__ import annotations

from pathlib import Path

import large_image  # type: ignore[import-not-found]  # in the peer's own environment

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[bytes]:
    """Open a slide; reading yields the bytes of the PNG file."""
    source = large_image.open(path)

    def read(x: int, y: int) -> bytes:
        region = {"left": x, "top": y, "width": patch_px, "height": patch_px, "units": "base_pixels"}
        return bytes(source.getRegion(region=region, encoding="PNG")[0])

    return Tool(read=read, save=lambda data, name: Path(name).write_bytes(data))


if __name__ == "__main__":
    make_patches(open_slide)
