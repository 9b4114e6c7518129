"""The content digest, recomputed from what lies on disk; nothing that was computed before is believed.

Slide by slide from the survey and the records of blocks and pixels, then from the documents that readers open. The
format is that of `wsi_extract.state.slide_manifests` and `wsi_extract.content_digest`, written down here a second time.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from wsi_extract.disk.files import canonical_json, sha256_of, sha256_of_file, sha256_of_tree
from wsi_extract.model import Split
from wsi_extract.state.layout import (
    INDEX,
    PATCHES,
    PIXELS,
    instances_name,
    pixel_record_path,
    record_path,
    slide_manifest_path,
    survey_path,
)
from wsi_extract.state.plans import read_survey_record
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.manifest import Manifest, ManifestSlide

SLIDE_SCHEMA = 1
BLOCK_NAME = re.compile(r"(\d+)\.json", re.ASCII)
SHARD_NAME = re.compile(r"(\d+)_(\d+)\.json", re.ASCII)


def check_content(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Check the digest of every complete slide and of the data set, and note the latter in the findings."""
    findings.done |= {Check.RECORDS, Check.MANIFEST}
    leaves = {}
    for slide in manifest.complete_slides:
        leaf = _check_slide(output_dir, slide, path=manifest.path, findings=findings)
        if leaf is not None:
            leaves[slide.slide_id] = leaf
    if len(leaves) < len(manifest.complete_slides):
        return  # of a slide that cannot be read the problem is reported
    with findings.reading(Check.MANIFEST, manifest.path):
        slides = [[slide_id, leaf] for slide_id, leaf in sorted(leaves.items())]
        documents = dict(_digests_of_documents(output_dir, manifest))
        found = sha256_of(canonical_json({"documents": documents, "slides": slides}))
        findings.content_sha256 = found
        stated = manifest.document.content_sha256
        findings.expect(Check.MANIFEST, manifest.path, what="content_sha256", stated=stated, found=found)


def _check_slide(output_dir: Path, slide: ManifestSlide, *, path: Path, findings: Findings) -> str | None:
    """Return the digest of a slide as its survey and records give it, ``None`` when they cannot be read."""
    found = None
    with findings.reading(Check.RECORDS, survey_path(output_dir, slide_id=slide.slide_id)):
        found = _digest_of_slide(output_dir, slide)
    if found is None:
        return None
    what = f"slide {slide.slide_id}: content_sha256"
    findings.expect(Check.MANIFEST, path, what=what, stated=slide.content_sha256, found=found)
    own_path = slide_manifest_path(output_dir, slide_id=slide.slide_id)
    with findings.reading(Check.RECORDS, own_path):
        stated = _digest_of_record(own_path, kind="slide")
        findings.n_files += 1
        findings.expect(Check.RECORDS, own_path, what="digest of the slide", stated=stated, found=found)
    return found


def _digest_of_slide(output_dir: Path, slide: ManifestSlide) -> str:
    path = survey_path(output_dir, slide_id=slide.slide_id)
    survey = read_survey_record(path)
    if survey is None:
        raise FileNotFoundError(errno.ENOENT, "no such record", str(path))
    blocks = record_path(output_dir, slide_id=slide.slide_id, index=0).parent
    shards = pixel_record_path(output_dir, slide_id=slide.slide_id, row=0, column=0).parent
    document = {
        "schema": SLIDE_SCHEMA,
        "slide_id": slide.slide_id,
        "fingerprint": slide.fingerprint,
        "plan_digest": survey.plan_digest,
        "coverage_digest": survey.coverage_digest,
        "n_patches": survey.n_patches,
        "blocks": [digest for _, digest in _digests_below(blocks, BLOCK_NAME, kind="block")],
        "pixels": [[*place, digest] for place, digest in _digests_below(shards, SHARD_NAME, kind="shard")],
    }
    return sha256_of(canonical_json(document))


def _digests_below(folder: Path, name: re.Pattern[str], *, kind: str) -> list[tuple[tuple[int, ...], str]]:
    """Return the numbers in the name of every record in a folder, in their order, and its digest."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = name.fullmatch(path.name)
        if match is not None:  # what else lies there is reported as belonging to nobody
            found.append((tuple(int(number) for number in match.groups()), path))
    return [(numbers, _digest_of_record(path, kind=kind)) for numbers, path in sorted(found)]


def _digest_of_record(path: Path, *, kind: str) -> str:
    """Return the SHA-256 of what a record holds.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When it is not a plain file, or any byte is not what it must be.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a file")
    data = path.read_bytes()
    start = len(f'{{"sha256":"{64 * "0"}","{kind}":')
    body = data[start:-2]
    digest = sha256_of(body)
    if data != f'{{"sha256":"{digest}","{kind}":'.encode() + body + b"}\n":
        raise ValueError(f"{path.name} does not match its own digest")
    return digest


def _digests_of_documents(output_dir: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    for split in manifest.splits:
        yield instances_name(split), sha256_of_file(output_dir / instances_name(split))
    for path in _zarr_documents(output_dir, manifest):
        if path.is_file():
            yield path.relative_to(output_dir).as_posix(), sha256_of_file(path)
    yield INDEX, sha256_of_tree(output_dir / INDEX)


def _zarr_documents(output_dir: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield where documents of stores may lie; those of slides that are not complete are reported elsewhere."""
    patches, pixels = output_dir / PATCHES, output_dir / PIXELS
    yield from (store / "zarr.json" for store in (patches, pixels, *(patches / split.value for split in Split)))
    for slide in manifest.complete_slides:
        for split in slide.splits:
            yield patches / split.value / slide.slide_id / "zarr.json"
        yield pixels / slide.slide_id / "zarr.json"
        yield pixels / slide.slide_id / "0" / "zarr.json"
