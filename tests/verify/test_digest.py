"""An audit recomputes every digest from what lies on disk, and believes none that was written down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers_dataset import flip_byte, shared_dataset
from tests.helpers_run import read_manifest
from tests.verify.helpers import Json, edit_coco, edit_json, edit_record, edit_survey
from wsi_extract.content_digest import with_own_digest
from wsi_extract.state.layout import MANIFEST, PATCHES, PIXELS, pixel_record_path, slide_manifest_path
from wsi_extract.state.slide_manifests import encode_slide_manifest, read_slide_manifest
from wsi_extract.verify import AuditReport
from wsi_extract.verify.digest import check_content
from wsi_extract.verify.findings import Findings
from wsi_extract.verify.manifest import check_manifest
from wsi_extract.verify.manifest import read_manifest as read_for_audit

Damage = Callable[[Path], object]
SLIDE = "slide_1"


def content_report(out: Path) -> AuditReport:
    """Carry out the two checks that know of digests."""
    findings = Findings()
    manifest = read_for_audit(out, findings=findings)
    assert manifest is not None, findings.problems
    check_manifest(manifest, findings=findings)
    check_content(out, manifest, findings=findings)
    return findings.report()


def own(tmp_path: Path, setting: str) -> Path:
    return Path(shutil.copytree(shared_dataset(tmp_path, setting=setting), tmp_path / "out"))


def edit_slide(out: Path, **changes: object) -> None:
    found = read_slide_manifest(out, slide_id=SLIDE)
    assert found is not None
    document = {**found[0], **changes}
    slide_manifest_path(out, slide_id=SLIDE).write_bytes(
        encode_slide_manifest(document)  # type: ignore[arg-type]  # damage on purpose
    )


def change_row(document: Json) -> None:
    document["slides"][0]["content_sha256"] = "0" * 64


def pixel_record(out: Path) -> Path:
    return min(pixel_record_path(out, slide_id=SLIDE, row=0, column=0).parent.iterdir())


def zarr_document(out: Path, *, of: str) -> None:
    (path,) = out.glob(f"{of}/zarr.json")
    edit_json(path, lambda document: document["attributes"].update(note="by hand"))


OF_SLIDE = f"slide {SLIDE}: content_sha256"
WHOLE = "content_sha256: states"
DAMAGES: list[tuple[str, str, Damage, tuple[str, ...]]] = [
    ("both", "no manifest of a slide", lambda out: slide_manifest_path(out, slide_id=SLIDE).unlink(), ("missing",)),
    ("both", "damaged manifest of a slide", lambda out: flip_byte(slide_manifest_path(out, slide_id=SLIDE), at=90),
     ("does not match its own digest",)),
    ("both", "other manifest of a slide", lambda out: edit_slide(out, n_patches=99), ("digest of the slide",)),
    ("both", "digest of a slide", lambda out: edit_json(out / MANIFEST, change_row), (OF_SLIDE,)),
    ("both", "digest of all", lambda out: edit_json(out / MANIFEST, lambda m: m.update(content_sha256="0" * 64)),
     (WHOLE,)),
    ("both", "label", lambda out: edit_record(out, lambda r: r["patches"][0].update(labels=["x"]), slide_id=SLIDE),
     (OF_SLIDE, WHOLE, "digest of the slide")),
    ("both", "patch", lambda out: edit_record(out, lambda r: r["patches"][0].update(sha256="0" * 64), slide_id=SLIDE),
     (OF_SLIDE, WHOLE)),
    ("both", "plan", lambda out: edit_survey(out, lambda s: s.update(plan_digest="0" * 64), slide_id=SLIDE),
     (OF_SLIDE, WHOLE)),
    ("both", "coco", lambda out: edit_coco(out, lambda c: c["info"].update(description="x")), (WHOLE,)),
    ("both", "array", lambda out: zarr_document(out, of=f"{PATCHES}/train/{SLIDE}"), (WHOLE,)),
    ("both", "group", lambda out: zarr_document(out, of=PATCHES), (WHOLE,)),
    ("pixels", "image", lambda out: zarr_document(out, of=f"{PIXELS}/{SLIDE}"), (WHOLE,)),
    ("pixels", "lost record of pixels", lambda out: pixel_record(out).unlink(), (OF_SLIDE, WHOLE)),
    ("pixels", "damaged record of pixels", lambda out: flip_byte(pixel_record(out), at=90), ("not match its own",)),
    ("pixels", "index", lambda out: (out / "index.zarr" / "train" / "stray").write_bytes(b""), (WHOLE,)),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "damage", "named"), [pytest.param(s, d, n, id=i) for s, i, d, n in DAMAGES])
def test_damage_is_found(tmp_path: Path, setting: str, damage: Damage, named: tuple[str, ...]) -> None:
    out = own(tmp_path, setting)
    damage(out)
    report = content_report(out)
    for fragment in named:
        assert any(fragment in problem.message for problem in report.problems), report.problems


@pytest.mark.parametrize("setting", ["both", "pixels"])
def test_a_whole_data_set_has_the_digest_that_it_states(tmp_path: Path, setting: str) -> None:
    out = shared_dataset(tmp_path, setting=setting)
    report = content_report(out)
    assert report.problems == ()
    assert report.content_sha256 == read_manifest(out)["content_sha256"]


def test_there_is_no_digest_of_slides_that_cannot_be_read(tmp_path: Path) -> None:
    out = own(tmp_path, "pixels")
    pixel_record(out).write_bytes(b"{")
    report = content_report(out)
    assert report.content_sha256 == ""
    assert not report.is_sound


# --- the manifest itself


def _other_number(data: bytes) -> bytes:
    """Return the same number, written otherwise: as a bit that flips may leave it."""
    manifest = json.loads(data)
    share = json.dumps(manifest["slides"][0]["tissue_share"]).encode()
    return data.replace(b'"tissue_share": ' + share, b'"tissue_share": ' + share + b"0", 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data.replace(b'"seconds": ', b'"seconds": 1'), "its own sha256"),
        (lambda data: data.replace(b"\n", b" \n", 1), "is not written as this program writes it"),
        (_other_number, "is not written as this program writes it"),
    ],
)
def test_a_manifest_that_was_touched_is_noticed(tmp_path: Path, change: Callable[[bytes], bytes], named: str) -> None:
    out = own(tmp_path, "both")
    path = out / MANIFEST
    data = path.read_bytes()
    path.write_bytes(change(data))
    assert path.read_bytes() != data
    assert any(named in problem.message for problem in content_report(out).problems)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["counts"].update(patches_not_possible=7), "counts.patches_not_possible: states 7"),
        (lambda m: m["slides"][0]["accounts"][0].update(n_asked=99), "patches asked for"),
        (lambda m: m["slides"][0].pop("content_sha256"), "without plan_digest, pixels_sha256, content_sha256"),
    ],
)
def test_counts_must_add_up(tmp_path: Path, change: Callable[[Json], object], named: str) -> None:
    out = own(tmp_path, "both")
    edit_json(out / MANIFEST, change)
    assert with_own_digest(read_manifest(out)) == read_manifest(out)
    assert any(named in problem.message for problem in content_report(out).problems)
