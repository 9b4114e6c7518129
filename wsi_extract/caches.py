"""How much a process keeps of the slides it reads, for those who keep it and those who reckon with it."""

from __future__ import annotations

OPENSLIDE_CACHE_BYTES = 64 * 2**20
"""Tiles that OpenSlide keeps decoded, per process; its own default is 32 MiB per open slide."""
DIRECT_CACHE_BYTES = 128 * 2**20
"""Tiles that the direct reader keeps decoded, per process: those under the largest block of patches, so that none is
decoded twice for it."""
TILES_BESIDE_MASK_PX = 6_000_000
"""Pixels of the largest overview whose mask is made without dropping these tiles."""
MAX_DIRECT_TILE_BYTES = DIRECT_CACHE_BYTES // 16
"""Of a decoded tile; of larger ones the cache would keep too few, and OpenSlide reads them as well."""
