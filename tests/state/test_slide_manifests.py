"""Manifests of slides: written once, never silently replaced, and told when one came out otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.errors import IntegrityError
from wsi_extract.state.layout import slide_manifest_path
from wsi_extract.state.slide_manifests import (
    SlideManifest,
    commit_slide_manifests,
    encode_slide_manifest,
    read_slide_manifest,
)

DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")


def manifest(slide_id: str = "s1", **changes: object) -> SlideManifest:
    document = {
        "schema": 1,
        "slide_id": slide_id,
        "fingerprint": "f" * 64,
        "plan_digest": "a" * 64,
        "coverage_digest": "",
        "n_patches": 3,
        "blocks": ["1" * 64, "2" * 64],
        "pixels": [[0, 1, "3" * 64], [10, 2, "4" * 64]],
        **changes,
    }
    return cast(SlideManifest, document)


@settings(max_examples=20)
@given(
    blocks=st.lists(DIGESTS, max_size=5),
    pixels=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), DIGESTS).map(list), max_size=5),
    name=st.sampled_from(["s1", "ä b", "a'\"\\n"]),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[str], pixels: list[Any], name: str
) -> None:
    out = tmp_path_factory.mktemp("out")
    document = manifest(name, blocks=blocks, pixels=pixels)
    commit_slide_manifests(out, [document])
    found = read_slide_manifest(out, slide_id=name)
    assert found is not None
    assert found[0] == document
    assert found[1].encode() in encode_slide_manifest(document)


def test_there_is_none_before_it_is_written(tmp_path: Path) -> None:
    assert read_slide_manifest(tmp_path, slide_id="s1") is None
    commit_slide_manifests(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_the_same_manifest_is_not_written_again(tmp_path: Path) -> None:
    commit_slide_manifests(tmp_path, [manifest()])
    path = slide_manifest_path(tmp_path, slide_id="s1")
    before = path.stat()
    commit_slide_manifests(tmp_path, [manifest("s2"), manifest()])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert slide_manifest_path(tmp_path, slide_id="s2").is_file()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blocks": ["1" * 64, "5" * 64]}, "block 1 differs"),
        ({"blocks": ["1" * 64]}, "blocks differs"),
        ({"pixels": [[0, 1, "3" * 64], [10, 2, "5" * 64]]}, "the shard of pixels in row 10, column 2 differs"),
        ({"fingerprint": "e" * 64}, "fingerprint differs"),
    ],
)
def test_another_content_of_the_same_plan_is_an_alarm(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    commit_slide_manifests(tmp_path, [manifest()])
    with pytest.raises(IntegrityError, match=f"determinism alarm: slide s1 .*{named}"):
        commit_slide_manifests(tmp_path, [manifest("s2"), manifest(**changes)])
    found = read_slide_manifest(tmp_path, slide_id="s1")
    assert found is not None
    assert found[0] == manifest()
    assert read_slide_manifest(tmp_path, slide_id="s2") is None


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"1111", b"1121", 1))


@pytest.mark.parametrize("damage", [_damage, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_is_made_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    commit_slide_manifests(tmp_path, [manifest()])
    damage(slide_manifest_path(tmp_path, slide_id="s1"))
    with pytest.raises(IntegrityError, match="damaged"):
        read_slide_manifest(tmp_path, slide_id="s1")
    commit_slide_manifests(tmp_path, [manifest()])
    found = read_slide_manifest(tmp_path, slide_id="s1")
    assert found is not None
    assert found[0] == manifest()


def test_that_of_another_plan_is_replaced(tmp_path: Path) -> None:
    commit_slide_manifests(tmp_path, [manifest()])
    commit_slide_manifests(tmp_path, [manifest(plan_digest="b" * 64, blocks=[])])
    found = read_slide_manifest(tmp_path, slide_id="s1")
    assert found is not None
    assert found[0]["plan_digest"] == "b" * 64
