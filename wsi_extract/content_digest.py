"""One digest for the content of a data set: two data sets with the same one hold the same pixels, boxes and splits.

    content = sha256({"documents": {path: sha256}, "slides": [[slide id, digest of its manifest], ...]})

over canonical JSON. The manifest of a slide names the records of its blocks and pixels, each of which names the digest
of every file of pixels and holds every label; documents are what readers open. Times, machines and who read a slide
are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wsi_extract.disk.files import canonical_json, sha256_of, sha256_of_file, sha256_of_tree
from wsi_extract.model import Split
from wsi_extract.state.layout import (
    ERRORS,
    INDEX,
    PATCHES,
    PIXELS,
    SLIDES_TABLE,
    instances_name,
    patch_array_folder,
    pixel_image_folder,
    run_path,
)
from wsi_extract.stores.zarr_json import DOCUMENT_NAME, PIXEL_ARRAY


def digests_of_documents(
    output_dir: Path, *, splits: Iterable[Split], slides: Mapping[str, Iterable[Split]]
) -> dict[str, str]:
    """Return the SHA-256 of what readers of a data set open, by its path below the output folder.

    These are the COCO documents, the documents of the Zarr stores, and the index, which counts as one.

    Parameters
    ----------
    splits
        Those that have a COCO document.
    slides
        The splits of every complete slide, by slide id.
    """
    digests = {instances_name(split): sha256_of_file(output_dir / instances_name(split)) for split in splits}
    for path in _zarr_documents(output_dir, slides):
        if path.is_file():  # a slide that yields no patch of a split has no array there
            digests[path.relative_to(output_dir).as_posix()] = sha256_of_file(path)
    return {**digests, INDEX: sha256_of_tree(output_dir / INDEX)}


def _zarr_documents(output_dir: Path, slides: Mapping[str, Iterable[Split]]) -> Iterator[Path]:
    """Yield where documents of stores may lie."""
    if (output_dir / PATCHES).is_dir():
        yield output_dir / PATCHES / DOCUMENT_NAME
        for split in Split:
            yield output_dir / PATCHES / split.value / DOCUMENT_NAME
        for slide_id, splits in slides.items():
            for split in splits:
                yield patch_array_folder(output_dir, slide_id=slide_id, split=split) / DOCUMENT_NAME
    if (output_dir / PIXELS).is_dir():
        yield output_dir / PIXELS / DOCUMENT_NAME
        for slide_id in slides:
            image = pixel_image_folder(output_dir, slide_id=slide_id)
            yield image / DOCUMENT_NAME
            yield image / PIXEL_ARRAY / DOCUMENT_NAME


def digests_of_tables(output_dir: Path) -> dict[str, str]:
    """Return the SHA-256 of what tells of a run beside the manifest, by its path below the output folder.

    It may differ between runs with the same content, as times do, and stands in the manifest beside those: a bit that
    flips in it is found all the same.
    """
    paths = (output_dir / SLIDES_TABLE, output_dir / ERRORS, run_path(output_dir))
    return {path.relative_to(output_dir).as_posix(): sha256_of_file(path) for path in paths if path.exists()}


def content_digest(leaves: Mapping[str, str], documents: Mapping[str, str]) -> str:
    """Return the content digest of a data set.

    Parameters
    ----------
    leaves
        Digest of the manifest of every complete slide, by slide id.
    documents
        See `digests_of_documents`.
    """
    slides = [[slide_id, leaf] for slide_id, leaf in sorted(leaves.items())]
    return sha256_of(canonical_json({"slides": slides, "documents": documents}))


def with_own_digest(manifest: Mapping[str, object]) -> dict[str, object]:
    """Return the manifest of a data set, ending with the digest of everything else in it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**rest, "sha256": sha256_of(canonical_json(rest))}
