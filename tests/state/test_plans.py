"""The file of a slide's plan: repeatable bytes, and no damage goes unseen."""

import errno
import json
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_extract.disk.files import sha256_of_file
from wsi_extract.errors import IntegrityError
from wsi_extract.geometry import Scale
from wsi_extract.model import PatchTable, SlidePlan, Split, SplitAccount, TissueMask
from wsi_extract.state.plans import (
    SurveyRecord,
    digest_of_plan,
    encode_survey,
    job_key,
    read_coverage,
    read_mask,
    read_patches,
    read_survey_record,
    write_plan,
)
from wsi_extract.state.record_files import encode_record

COLUMNS = [column.name for column in fields(PatchTable)]
ACCOUNT = SplitAccount(
    split=Split.VAL,
    n_asked=40,
    n_planned={"mitosis": 20, "random": 18},
    moved_to_random={"mitosis": 2},
    n_infeasible_anchors=1,
    n_anchored_below_tissue=3,
    n_missing=2,
    missing_reason="no_tissue",
)
TISSUE = TissueMask(mask=np.random.default_rng(1).random((13, 21)) > 0.5, l0_per_mask_px=Scale(x=16.016, y=15.9))


def make_plan(n: int = 40, *, seed: int = 0) -> SlidePlan:
    rng = np.random.default_rng(seed)
    patches = PatchTable(
        origins_out=rng.integers(0, 9999, (n, 2)),
        origins_l0=rng.integers(0, 9999, (n, 2)),
        split=rng.integers(0, 3, n).astype(np.int8),
        kind=rng.integers(0, 4, n).astype(np.int8),
        requested_kind=rng.integers(0, 4, n).astype(np.int8),
        anchor_row=rng.integers(-1, 9, n),
        tissue_fraction=rng.random(n),
    )
    return SlidePlan(slide_id="s1", patches=patches, accounts=(ACCOUNT,))


def record_of(plan: SlidePlan, *, path: Path | None = None) -> SurveyRecord:
    """Return the record of a plan, with the digest of its file where there is one."""
    return SurveyRecord(
        slide_id="s1",
        job_key="key",
        plan_digest=digest_of_plan(plan, job_key="key"),
        n_patches=len(plan.patches),
        accounts=plan.accounts,
        tissue_share=0.5,
        mask_l0_per_px_xy=(16.016, 15.9),
        plan_sha256="" if path is None else sha256_of_file(path),
    )


@pytest.mark.parametrize("n", [0, 1, 40])
def test_plans_round_trip(tmp_path: Path, n: int) -> None:
    plan = make_plan(n)
    path = tmp_path / "plans" / "s1.npz"
    digest = write_plan(path, plan, tissue=TISSUE)
    record = record_of(plan, path=path)
    assert record.plan_sha256 == digest
    patches = read_patches(path, record=record)
    for name in COLUMNS:
        written, read = getattr(plan.patches, name), getattr(patches, name)
        assert np.array_equal(written, read)
        assert (written.dtype, written.shape) == (read.dtype, read.shape)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (3, 7), (13, 21)])
def test_masks_round_trip(tmp_path: Path, shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(2).random(shape) > 0.5
    write_plan(tmp_path / "s1.npz", make_plan(), tissue=replace(TISSUE, mask=mask))
    back = read_mask(tmp_path / "s1.npz")
    assert np.array_equal(back.mask, mask)
    assert back.mask.shape == shape
    assert back.l0_per_mask_px == Scale(x=16.016, y=15.9)


def test_the_same_plan_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_plan(tmp_path / name, make_plan(), tissue=TISSUE)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # no clock in outputs


@pytest.mark.parametrize("name", COLUMNS)
def test_the_digest_changes_with_every_value_of_every_column(name: str) -> None:
    plan = make_plan(5)
    before = digest_of_plan(plan, job_key="key")
    for row in range(5):
        column = getattr(plan.patches, name).copy()
        column.reshape(5, -1)[row, -1] += 1
        changed = replace(plan, patches=replace(plan.patches, **{name: column}))
        assert digest_of_plan(changed, job_key="key") != before


def test_the_digest_changes_with_order_length_type_and_key() -> None:
    plan = make_plan(5)
    swapped = replace(plan, patches=plan.patches.take(np.array([1, 0, 2, 3, 4])))
    shorter = replace(plan, patches=plan.patches.take(np.arange(4)))
    wider = replace(plan, patches=replace(plan.patches, kind=plan.patches.kind.astype(np.int64)))
    digests = [digest_of_plan(each, job_key="key") for each in (plan, swapped, shorter, wider)]
    assert len({*digests, digest_of_plan(plan, job_key="other")}) == 5
    assert digest_of_plan(make_plan(5), job_key="key") == digests[0]


def test_the_digest_does_not_depend_on_the_layout_in_memory() -> None:
    plan = make_plan(6)
    columns = replace(plan.patches, origins_l0=np.asfortranarray(plan.patches.origins_l0))
    assert digest_of_plan(replace(plan, patches=columns), job_key="k") == digest_of_plan(plan, job_key="k")


# --- damage --------------------------------------------------------------------------------------------------------


def damage_found_by(read: Callable[[], object]) -> IntegrityError | None:
    """Read a file that may be damaged: an `IntegrityError` is the only error allowed."""
    try:
        read()
    except IntegrityError as error:
        return error
    return None


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Also in the mask, and in what an archive says of its members."""
    plan, path = make_plan(), tmp_path / "s1.npz"
    write_plan(path, plan, tissue=TISSUE)
    data, record = path.read_bytes(), record_of(plan, path=path)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        error = damage_found_by(lambda: read_patches(path, record=record))
        assert error is not None
        assert str(path) in error.message
        assert error.remedy


def test_a_damaged_mask_is_an_integrity_error_or_harmless(tmp_path: Path) -> None:
    """Whoever reads a mask alone does not know its digest."""
    path = tmp_path / "s1.npz"
    write_plan(path, make_plan(), tissue=TISSUE)
    data = path.read_bytes()
    found = []
    for position in range(0, len(data), 2):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position // 2 % 8)
        path.write_bytes(damaged)
        found.append(damage_found_by(lambda: read_mask(path)))
    assert any(found)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    plan, path = make_plan(), tmp_path / "s1.npz"
    write_plan(path, plan, tissue=TISSUE)
    data = path.read_bytes()
    for length in range(0, len(data), 5):
        path.write_bytes(data[:length])
        with pytest.raises(IntegrityError, match="cannot be read"):
            read_patches(path, record=record_of(plan))
        with pytest.raises(IntegrityError, match="cannot be read"):
            read_mask(path)


def test_a_missing_plan_is_an_integrity_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_patches(tmp_path / "s1.npz", record=record_of(make_plan()))
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_mask(tmp_path / "s1.npz")


def test_the_plan_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s1.npz"
    write_plan(path, make_plan(seed=1), tissue=TISSUE)
    with pytest.raises(IntegrityError, match="not the one that was recorded"):
        read_patches(path, record=record_of(make_plan(seed=0), path=path))
    other_key = replace(record_of(make_plan(seed=1), path=path), job_key="another")
    with pytest.raises(IntegrityError, match="not the one that was recorded"):
        read_patches(path, record=other_key)
    with pytest.raises(IntegrityError, match="does not match the digest"):
        read_patches(path, record=record_of(make_plan(seed=1)))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    plan = make_plan(3)
    columns: dict[str, Any] = {name: getattr(plan.patches, name) for name in COLUMNS}
    np.savez(tmp_path / "s1.npz", **{**columns, "kind": np.array([object()] * 3)})
    with pytest.raises(IntegrityError, match="allow_pickle"):
        read_patches(tmp_path / "s1.npz", record=record_of(plan, path=tmp_path / "s1.npz"))


# --- survey records ------------------------------------------------------------------------------------------------


def test_survey_records_round_trip_through_json() -> None:
    record = record_of(make_plan())
    assert SurveyRecord.from_json(record.to_json()) == record
    assert SurveyRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_survey_records_round_trip_through_their_file(tmp_path: Path) -> None:
    record, path = record_of(make_plan()), tmp_path / "s1.json"
    assert read_survey_record(path) is None
    path.write_bytes(encode_survey(record))
    assert read_survey_record(path) == record


def test_every_flipped_bit_of_a_survey_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s1.json"
    data = encode_survey(record_of(make_plan()))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="damaged"):
            read_survey_record(path)


@pytest.mark.parametrize(
    "change", [{"accounts": 1}, {"accounts": [{}]}, {"unheard_of": 1}, {"mask_l0_per_px_xy": []}, {"reader": None}]
)
def test_surveys_that_cannot_be(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "s1.json"
    path.write_bytes(encode_record({"schema": 1, **record_of(make_plan()).to_json(), **change}, kind="survey"))
    with pytest.raises(IntegrityError, match="is damaged"):
        read_survey_record(path)


def test_job_keys_follow_values_and_ignore_the_order_of_keys() -> None:
    assert job_key({"a": 1, "b": [1, 2]}) == job_key({"b": [1, 2], "a": 1})
    assert len({job_key(value) for value in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"b": 1})}) == 5


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_a_disk_that_fails_for_a_moment_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    plan, path = make_plan(), tmp_path / "s1.npz"
    write_plan(path, plan, tissue=TISSUE)
    record = record_of(plan, path=path)

    def fail(_path: Path) -> bytes:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "read_bytes", fail)
    for read in (lambda: read_patches(path, record=record), lambda: read_coverage(path, record=record)):
        with pytest.raises(OSError, match="no") as caught:
            read()
        assert caught.value.errno == number


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(tmp_path / "s1.npz", make_plan(), tissue=TISSUE)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(MemoryError):
        read_mask(tmp_path / "s1.npz")


def test_a_damaged_plan_tells_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_mask(tmp_path / "s1.npz")
    assert "made anew" in caught.value.remedy
    assert "--fresh" not in caught.value.remedy
