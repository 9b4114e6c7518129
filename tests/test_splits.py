"""Splits: names, groups, assignment, halves, and the proof that nothing leaks."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.arrays import IntArray
from wsi_extract.errors import SplitError
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import OutputFrame, PatchTable, SlideFile, Split
from wsi_extract.splits import (
    CCMCT_TEST_SLIDES,
    SplitDecision,
    SplitOptions,
    SplitSubject,
    assign_splits,
    check_leakage,
    group_slides,
    half_domains,
    overlaps_between_splits,
)
from wsi_extract.splits.assignment import count_train_groups, stratify

OPTIONS = SplitOptions(mode="slide", train_fraction=0.8, seed=42)
TRAIN, VAL, TEST = (Split.TRAIN,), (Split.VAL,), (Split.TEST,)


def subjects_of(n: int, *, n_groups: int | None = None) -> list[SplitSubject]:
    """Slides 001.svs, 002.svs, ...; without ``n_groups`` each is its own group."""
    return [
        SplitSubject(
            slide_id=f"{i:03d}",
            file_name=f"{i:03d}.svs",
            group=f"{i:03d}" if n_groups is None else f"patient {i % n_groups}",
            n_targets=i**2 % 97 if i % 5 else 0,
        )
        for i in range(1, n + 1)
    ]


def named(*file_names: str) -> list[SplitSubject]:
    return [
        SplitSubject(slide_id=Path(name).stem, file_name=name, group=Path(name).stem, n_targets=1)
        for name in file_names
    ]


def splits_of(decisions: Sequence[SplitDecision]) -> dict[str, tuple[Split, ...]]:
    return {decision.slide_id: decision.splits for decision in decisions}


def count(decisions: Sequence[SplitDecision], splits: tuple[Split, ...]) -> int:
    return sum(decision.splits == splits for decision in decisions)


@pytest.mark.parametrize(
    ("n", "fraction", "n_train"),
    [
        pytest.param(32, 0.8, 26, id="32 slides"),
        pytest.param(21, 0.8, 17, id="21 slides"),
        pytest.param(15, 0.7, 11, id="10.5 is rounded up, though 0.7 * 15 is 10.499 as a float"),
        pytest.param(2, 0.99, 1, id="both splits have a slide"),
        pytest.param(2, 0.01, 1, id="both splits have a slide, the other way round"),
        pytest.param(5, 1.0, 5, id="all for training"),
        pytest.param(5, 0.0, 0, id="all for validation"),
        pytest.param(1, 1.0, 1, id="one slide for training"),
        pytest.param(0, 0.8, 0, id="no slide"),
    ],
)
def test_number_of_slides_for_training(n: int, fraction: float, n_train: int) -> None:
    decisions = assign_splits(subjects_of(n), options=replace(OPTIONS, train_fraction=fraction))
    assert (count(decisions, TRAIN), count(decisions, VAL)) == (n_train, n - n_train)
    assert count_train_groups(n, train_fraction=fraction) == n_train


def test_one_group_cannot_fill_two_splits() -> None:
    for subjects in (subjects_of(1), subjects_of(4, n_groups=1)):
        with pytest.raises(SplitError, match="--split_mode half"):
            assign_splits(subjects, options=OPTIONS)


def test_bins_are_zero_and_terciles_of_the_positive_counts() -> None:
    counts = {"a": 0, "b": 0, "c": 1, "d": 1, "e": 1, "f": 7, "g": 8, "h": 10_599}
    assert stratify(counts) == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 1, "f": 2, "g": 3, "h": 3}
    assert stratify({"a": 5}) == {"a": 1}
    assert stratify({"a": 5, "b": 5, "c": 5}) == {"a": 1, "b": 1, "c": 1}
    assert stratify({}) == {}


@settings(deadline=None)
@given(
    n_targets=st.lists(st.integers(0, 20), min_size=2, max_size=60),
    n_groups=st.integers(2, 30),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_groups_stay_whole_and_bins_are_divided_alike(
    n_targets: list[int], n_groups: int, fraction: float, seed: int
) -> None:
    subjects = [
        SplitSubject(slide_id=f"s{i}", file_name=f"s{i}.svs", group=f"g{i % n_groups}", n_targets=n)
        for i, n in enumerate(n_targets)
    ]
    options = replace(OPTIONS, train_fraction=fraction, seed=seed)
    decisions = assign_splits(subjects, options=options)
    shuffled = random.Random(seed).sample(subjects, len(subjects))
    assert decisions == assign_splits(shuffled, options=options)
    assert [decision.slide_id for decision in decisions] == sorted(subject.slide_id for subject in subjects)
    group_splits = {decision.group: decision.splits for decision in decisions}
    assert all(group_splits[decision.group] == decision.splits for decision in decisions)
    n_train = sum(splits == TRAIN for splits in group_splits.values())
    assert n_train == count_train_groups(len(group_splits), train_fraction=fraction)
    assert 0 < n_train < len(group_splits)
    group_bins = {decision.group: decision.bin for decision in decisions}
    for number in set(group_bins.values()):
        members = [group for group, bin_number in group_bins.items() if bin_number == number]
        in_train = sum(group_splits[group] == TRAIN for group in members)
        assert abs(in_train - n_train * len(members) / len(group_splits)) < 1
    assert check_leakage(decisions).n_groups_in_two_splits == 0


def test_b14_b24_seed_decides_and_order_does_not() -> None:
    decisions = assign_splits(subjects_of(40), options=OPTIONS)
    assert decisions == assign_splits(subjects_of(40)[::-1], options=OPTIONS)
    assert decisions != assign_splits(subjects_of(40), options=replace(OPTIONS, seed=43))


def test_b18_no_group_is_in_two_splits_unless_halves_are_asked_for() -> None:
    subjects = subjects_of(60, n_groups=23)
    report = check_leakage(assign_splits(subjects, options=OPTIONS))
    assert (report.n_groups, report.n_groups_in_two_splits, report.same_slide_halves) == (23, 0, False)
    halves = check_leakage(assign_splits(subjects, options=replace(OPTIONS, mode="half")))
    assert (halves.n_groups, halves.n_groups_in_two_splits, halves.same_slide_halves) == (23, 23, True)
    assert halves.details[0] == "group patient 0: train, val"


def test_leak_through_two_slides_is_reported() -> None:
    decisions = assign_splits(subjects_of(10), options=OPTIONS)
    report = check_leakage([replace(decision, group="same") for decision in decisions])
    assert (report.n_groups, report.n_groups_in_two_splits, report.same_slide_halves) == (1, 1, False)
    assert report.details == ("group same: train, val",)


@pytest.mark.parametrize("name", ["007", "007.svs", "007.SVS", "007.tiff", "7", " 007 "])
def test_b17_names_of_slides_are_normalised(name: str) -> None:
    """An integer, id, file name or stem; a list that matches nothing must not leave a test slide in train."""
    decisions = assign_splits(subjects_of(12), options=replace(OPTIONS, test_slides=(name,)))
    assert [decision.slide_id for decision in decisions if decision.splits == TEST] == ["007"]
    assert count(decisions, TRAIN) + count(decisions, VAL) == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"test_slides": ("99",)}, "test_slides: 99 is no slide", id="unmatched"),
        pytest.param({"test_slides": ("x001.svs",)}, "nearest names are .*001.svs", id="nearest"),
        pytest.param({"test_slides": ("00",)}, "00 is no slide", id="never in part"),
        pytest.param({"test_slides": ("1", "001.svs")}, "001, which is listed in test_slides already", id="twice"),
        pytest.param({"train_slides": ("1",), "val_slides": ("1",)}, "listed in train_slides already", id="two lists"),
        pytest.param({"test_slides": ("98", "99")}, "(?s)98 is no slide.*99 is no slide", id="all problems at once"),
        pytest.param({"test_slides": ("ccmct",)}, "be10fa37ad6e88e1f406.svs is no slide", id="preset"),
        pytest.param({"train_slides": ("1", "2"), "val_slides": ("3",)}, "neither: 004, 005", id="slides remain"),
        pytest.param({"test_regex": "(^|_)test"}, "matches the file name of no slide", id="regex without a match"),
        pytest.param({"test_regex": "("}, "not a regular expression", id="broken regex"),
        pytest.param({"train_slides": ("1",), "test_regex": "^001"}, "listed in train_slides", id="regex and list"),
    ],
)
def test_lists_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        assign_splits(subjects_of(5), options=replace(OPTIONS, **changes))  # type: ignore[arg-type]  # by name


def test_ambiguous_name_is_refused() -> None:
    subjects = [replace(subject, file_name="scan.svs") for subject in subjects_of(3)]
    with pytest.raises(SplitError, match="means several slides: 001, 002, 003"):
        assign_splits(subjects, options=replace(OPTIONS, test_slides=("scan.svs",)))
    one = assign_splits(subjects, options=replace(OPTIONS, test_slides=("002",)))
    assert splits_of(one)["002"] == TEST


def test_lists_come_first() -> None:
    lists = replace(OPTIONS, train_slides=("1", "2"), val_slides=("3", "4"), test_slides=("5",))
    assert list(splits_of(assign_splits(subjects_of(5), options=lists)).values()) == [TRAIN, TRAIN, VAL, VAL, TEST]
    only_train = assign_splits(subjects_of(5), options=replace(OPTIONS, train_slides=("1", "4")))
    assert list(splits_of(only_train).values()) == [TRAIN, VAL, VAL, TRAIN, VAL]
    only_val = assign_splits(subjects_of(5), options=replace(OPTIONS, val_slides=("1",), test_slides=("2",)))
    assert list(splits_of(only_val).values()) == [VAL, TEST, TRAIN, TRAIN, TRAIN]
    assert only_val[4].reason == "not listed in val_slides"


def test_test_regex_is_a_regex_not_a_word() -> None:
    subjects = named("test_001.svs", "a_test.svs", "latest_01.svs", "contest.svs", "x.svs")
    decisions = assign_splits(subjects, options=replace(OPTIONS, test_regex="(^|_)test", test_slides=("a_test",)))
    assert {decision.slide_id for decision in decisions if decision.splits == TEST} == {"test_001", "a_test"}


def test_list_that_divides_a_group_is_refused() -> None:
    for changes in ({"test_slides": ("1",)}, {"train_slides": ("1",), "val_slides": ("4", "2", "3")}):
        with pytest.raises(SplitError, match=r"patient 1: 001 \((test|train)\), 004"):
            assign_splits(subjects_of(4, n_groups=3), options=replace(OPTIONS, **changes))
    whole = assign_splits(subjects_of(4, n_groups=3), options=replace(OPTIONS, test_slides=("1", "4")))
    assert count(whole, TEST) == 2


def test_ccmct_preset_is_the_official_list() -> None:
    others = [f"train{i}.svs" for i in range(21)]
    decisions = assign_splits(named(*CCMCT_TEST_SLIDES, *others), options=replace(OPTIONS, test_slides=("ccmct",)))
    assert (count(decisions, TEST), count(decisions, TRAIN), count(decisions, VAL)) == (11, 17, 4)
    assert all(d.slide_id.startswith("train") for d in decisions if d.splits != TEST)


@pytest.mark.shared
def test_ccmct_test_slides_are_those_of_the_published_table(shared_data: Path) -> None:
    with (shared_data / "coco" / "CCMCT_slide_uids.csv").open(newline="") as stream:
        published = {row["filename"] for row in csv.DictReader(stream) if row["split"] == "test"}
    assert set(CCMCT_TEST_SLIDES) == published
    assert len(CCMCT_TEST_SLIDES) == 11


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "patch"},
        {"train_fraction": 1.1},
        {"train_fraction": float("nan")},
        {"guard_px": -1},
        {"mode": "half", "train_slides": ("1",)},
    ],
)
def test_b09_settings_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)).replace("mode", "(mode|train_slides)")):
        replace(OPTIONS, **changes)  # type: ignore[arg-type]  # wrong on purpose


def test_half_mode_takes_every_slide_for_both_but_test_slides() -> None:
    decisions = assign_splits(subjects_of(4), options=replace(OPTIONS, mode="half", test_slides=("2",)))
    assert [decision.splits for decision in decisions] == [(*TRAIN, *VAL), TEST, (*TRAIN, *VAL), (*TRAIN, *VAL)]
    assert len(assign_splits(subjects_of(1), options=replace(OPTIONS, mode="half"))[0].splits) == 2


@pytest.mark.parametrize(
    ("domain", "guard", "train_rows", "val_rows"),
    [
        pytest.param((0, 0, 80, 60), 0, (0, 30), (30, 60), id="even"),
        pytest.param((0, 0, 80, 61), 0, (0, 30), (30, 61), id="odd: the lower half is larger"),
        pytest.param((5, 10, 80, 60), 4, (10, 31), (39, 60), id="middle of the domain, not of the slide"),
        pytest.param((0, 0, 80, 60), 50, (0, 0), (60, 60), id="guard leaves nothing"),
    ],
)
def test_half_domains(
    domain: tuple[int, int, int, int], guard: int, train_rows: tuple[int, int], val_rows: tuple[int, int]
) -> None:
    x0, y0, x1, y1 = domain
    (first, upper), (second, lower) = half_domains(Rect(x0=x0, y0=y0, x1=x1, y1=y1), guard_px=guard)
    assert (first, second) == (Split.TRAIN, Split.VAL)
    assert (upper.y0, upper.y1, lower.y0, lower.y1) == (*train_rows, *val_rows)
    assert {upper.x0, lower.x0} == {x0}
    assert {upper.x1, lower.x1} == {x1}
    with pytest.raises(ValueError, match="guard_px"):
        half_domains(upper, guard_px=-1)


def files_of(*names: str) -> list[SlideFile]:
    return [SlideFile(slide_id=Path(name).stem, path=Path("/slides") / name) for name in names]


def test_groups_by_regex() -> None:
    files = files_of("patient_017_node_1.tif", "patient_017_node_2.tif", "patient_018_node_1.tif")
    by_capture = group_slides(files, regex=r"^(patient_\d+)_node", table=None)
    assert by_capture == group_slides(files, regex=r"^patient_\d+", table=None)
    assert list(by_capture.values()) == ["patient_017", "patient_017", "patient_018"]
    with pytest.raises(SplitError, match=r"2 of 3 slides: patient_017_node_1.tif, patient_017_node_2.tif"):
        group_slides(files, regex="patient_018", table=None)
    with pytest.raises(SplitError, match="finds no group"):
        group_slides(files, regex="patient(_999)?", table=None)


def test_groups_by_table_and_by_default() -> None:
    files = files_of("a.svs", "b.svs", "003.svs")
    assert group_slides(files, regex=None, table=None) == {"a": "a", "b": "b", "003": "003"}
    table = {"a.svs": "p", "B.tiff": "p", "3": "q", "not here": "r"}
    assert group_slides(files, regex=None, table=table) == {"a": "p", "b": "p", "003": "q"}
    for wrong, message in (
        ({"a": "p", "b": "p"}, "does not list 1 of 3 slides: 003.svs"),
        ({"a": "p", "a.svs": "q"}, "lists slide a twice: as a and as a.svs"),
    ):
        with pytest.raises(SplitError, match=message):
            group_slides(files, regex=None, table=wrong)
    with pytest.raises(SplitError, match="not by both"):
        group_slides(files, regex="x", table={})


def patches_of(origins: IntArray, codes: IntArray) -> PatchTable:
    column = np.zeros(len(origins), dtype=np.int8)
    return PatchTable(
        origins_out=origins,
        origins_l0=origins,
        split=codes.astype(np.int8),
        kind=column,
        requested_kind=column,
        anchor_row=np.full(len(origins), -1, dtype=np.int64),
        tissue_fraction=np.ones(len(origins)),
    )


def frame_of(w: int, h: int, *, sx: float = 1.0, sy: float = 1.0) -> OutputFrame:
    return OutputFrame(
        patch_w_out_px=w,
        patch_h_out_px=h,
        scale=Scale(x=sx, y=sy),
        level=0,
        level_downsample=1.0,
        um_per_px_out_xy=None,
    )


@settings(deadline=None)
@given(data=st.data())
def test_overlaps_are_counted_as_by_comparing_all(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    n, extent = data.draw(st.integers(0, 80)), data.draw(st.integers(1, 400))
    frame = frame_of(data.draw(st.integers(1, 60)), 31, sx=data.draw(st.sampled_from([1.0, 2.001, 0.987])))
    origins, codes = rng.integers(0, extent, (n, 2)), rng.integers(0, 3, n)
    size = np.array([frame.patch_w_out_px * frame.scale.x, frame.patch_h_out_px * frame.scale.y])
    distance = np.abs(origins[:, None] - origins[None])
    meets = np.all(distance < size - 1e-6, axis=2) & (codes[:, None] != codes[None])
    assert overlaps_between_splits(patches_of(origins, codes), frame=frame) == np.count_nonzero(meets) // 2


def test_patches_that_touch_do_not_overlap() -> None:
    origins, codes = np.array([[0, 0], [0, 100], [0, 199]]), np.array([0, 1, 2])
    assert overlaps_between_splits(patches_of(origins, codes), frame=frame_of(100, 100)) == 1


def test_a_hundred_thousand_patches_are_compared_quickly() -> None:
    rng = np.random.default_rng(0)
    upper = rng.integers(0, [99_000, 39_744], (50_000, 2))
    lower = rng.integers([0, 40_000], [99_000, 79_000], (50_000, 2))
    codes = np.repeat([0, 1], 50_000)
    started = time.process_time()
    assert overlaps_between_splits(patches_of(np.concatenate([upper, lower]), codes), frame=frame_of(256, 256)) == 0
    assert overlaps_between_splits(patches_of(np.concatenate([upper, upper]), codes), frame=frame_of(256, 256)) > 50_000
    assert time.process_time() - started < 10
