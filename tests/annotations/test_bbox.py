"""xyxy or xywh: every step of the decision, every refusal, and that a wrong answer is never given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.annotations.bbox_convention import BboxDecision, decide_bbox_format
from wsi_extract.annotations.source import Witness
from wsi_extract.errors import AnnotationError

Boxes = Sequence[Sequence[float]]


def decide(
    boxes: Boxes,
    *,
    size_px: float | None = 1000,
    witnesses: Sequence[Witness] | None = None,
    setting: str = "auto",
) -> BboxDecision:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    size = np.nan if size_px is None else size_px
    return decide_bbox_format(
        array,
        sizes_wh=np.full((len(array), 2), size),
        witnesses=np.array(witnesses or [Witness.NONE] * len(array), dtype=np.int8),
        setting=setting,
        path="a.json",
    )


CONSTANT_XYXY = [[10, 10, 60, 60], [200, 300, 250, 350], [400, 120, 450, 170]]
CONSTANT_XYWH = [[10, 10, 50, 50], [200, 400, 50, 50], [5, 30, 50, 50]]
DECIDED = {
    "inverted as xyxy": ([[700, 700, 50, 50]], 1000, "xywh", "bounds"),
    "outside as xywh": ([[700, 700, 750, 750]], 1000, "xyxy", "bounds"),
    "equal in both": ([[0, 0, 50, 50]], 1000, "xywh", "equal"),
    "no box at all": ([], 1000, "xywh", "equal"),
    "constant corners": (CONSTANT_XYXY, 1000, "xyxy", "dispersion"),
    "constant sizes": (CONSTANT_XYWH, 2000, "xywh", "bounds"),
    "constant corners, size unknown": (CONSTANT_XYXY, None, "xyxy", "dispersion"),
    "constant sizes, size unknown": (CONSTANT_XYWH, None, "xywh", "dispersion"),
}


@pytest.mark.parametrize(("boxes", "size_px", "answer", "step"), DECIDED.values(), ids=DECIDED)
def test_evidence_decides(boxes: Boxes, size_px: float | None, answer: str, step: str) -> None:
    decision = decide(boxes, size_px=size_px)
    assert (decision.format, decision.step) == (answer, step)


REFUSED = {
    "one box in the top left": ([[100, 100, 150, 150]], 1000, "ambiguous"),
    "near the border": ([[-13, -12, 37, 38]], 1000, "ambiguous"),
    "two boxes of one size": (CONSTANT_XYXY[:2], None, "ambiguous"),
    "outside in both": ([[750, 700, 700, 750]], 1000, "conflict"),
    "merged from both": ([[700, 700, 750, 750], [800, 800, 50, 50]], 1000, "conflict"),
    "normalised": ([[0.5, 0.5, 0.05, 0.05]], 1000, "neither"),
}


@pytest.mark.parametrize(("boxes", "size_px", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_decided_is_refused_with_the_numbers(boxes: Boxes, size_px: float | None, reason: str) -> None:
    with pytest.raises(AnnotationError, match=rf"a\.json.*{reason}.*vx = .*vw = .*--bbox_format"):
        decide(boxes, size_px=size_px)


def test_a_witness_decides_what_positions_cannot() -> None:
    for witness, answer in ((Witness.XYXY, "xyxy"), (Witness.XYWH, "xywh")):
        decision = decide([[100, 100, 150, 150]], witnesses=[witness])
        assert (decision.format, decision.step) == (answer, "witness")


def test_contradicting_witnesses_are_refused() -> None:
    with pytest.raises(AnnotationError, match="speak for both"):
        decide([[100, 100, 150, 150], [100, 100, 150, 150]], witnesses=[Witness.XYXY, Witness.XYWH])


def test_a_witness_against_all_positions_is_refused() -> None:
    with pytest.raises(AnnotationError, match="speak for xywh, positions against it"):
        decide([[700, 700, 750, 750]], witnesses=[Witness.XYWH])


@pytest.mark.parametrize("setting", ["xyxy", "xywh"])
def test_an_explicit_setting_wins_over_all_evidence(setting: str) -> None:
    decision = decide([[700, 700, 750, 750]], witnesses=[Witness.XYWH], setting=setting)
    assert (decision.format, decision.step) == (setting, "explicit")
    assert decision.evidence.vw == 1.0
    assert decision.to_json()["vw"] == 1.0


def test_normalised_boxes_are_refused_even_when_the_convention_is_given() -> None:
    with pytest.raises(AnnotationError, match="Convert them"):
        decide([[0.5, 0.5, 0.05, 0.05]], setting="xywh")


def test_a_few_impossible_boxes_do_not_change_the_answer() -> None:
    boxes = [[700 + i, 600, 750 + i, 650] for i in range(40)]
    assert decide([*boxes, [800, 800, 700, 900]]).format == "xyxy"
    with pytest.raises(AnnotationError, match="conflict"):
        decide([*boxes, *[[800, 800, 700, 900]] * 4])


def test_boxes_on_slides_of_unknown_size_do_not_vote_on_bounds() -> None:
    array = np.array([[700.0, 700, 750, 750], [800, 800, 50, 50]])
    sizes = np.array([[1000.0, 1000], [np.nan, np.nan]])
    none = np.zeros(2, dtype=np.int8)
    decision = decide_bbox_format(array, sizes_wh=sizes, witnesses=none, setting="auto", path="a.json")
    assert (decision.evidence.vx, decision.evidence.vw) == (0.0, 1.0)


CLUSTER_FAR_FROM_ORIGIN = [[20000 + i, 30000 - i, 20020 + 7 * i, 30040 + 3 * i] for i in range(9)]


@pytest.mark.parametrize("size_px", [80000, None])
def test_corners_of_a_small_region_are_not_taken_for_constant_sizes(size_px: float | None) -> None:
    """All right edges near x = 20,000 look constant, but so do the left ones."""
    with pytest.raises(AnnotationError, match="ambiguous"):
        decide(CLUSTER_FAR_FROM_ORIGIN, size_px=size_px)


def test_negative_sizes_never_count_as_constant() -> None:
    boxes = [[20000 + 900 * i, 30000 - i, 20 + 7 * i, 40 + 3 * i] for i in range(9)]
    with pytest.raises(AnnotationError, match="ambiguous"):
        decide(boxes, size_px=None)


cells = st.lists(
    st.tuples(st.integers(100, 5000), st.integers(100, 4000), st.integers(20, 80), st.integers(20, 80)),
    min_size=1,
    max_size=40,
)


@given(
    cells=cells,
    offset_px=st.sampled_from([0, 5_000, 20_000, 60_000]),
    slide_px=st.sampled_from([5_080, 80_000, None]),
    is_constant=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_true_boxes_are_recognised_or_refused_never_misread(
    cells: list[tuple[int, int, int, int]], offset_px: int, slide_px: int | None, is_constant: bool
) -> None:
    """Boxes whose centre lies inside the slide, written by either convention, must never be taken for the other."""
    offset_px = 0 if slide_px == 5_080 else offset_px
    xywh = np.array(cells, dtype=np.float64) + np.array([offset_px, offset_px, 0, 0])
    xywh[:, 2:] = 50 if is_constant else xywh[:, 2:]
    xyxy = np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)
    for boxes, truth in ((xywh, "xywh"), (xyxy, "xyxy")):
        try:
            decision = decide(boxes.tolist(), size_px=slide_px)
        except AnnotationError:
            continue
        assert decision.format == truth


@given(cells=cells, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_order_of_boxes_does_not_matter(cells: list[tuple[int, int, int, int]], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(np.array(cells, dtype=np.float64))

    def answer(boxes: Boxes) -> str:
        try:
            return decide(boxes, size_px=6000).format
        except AnnotationError as error:
            return error.message.split("(")[0]

    assert answer(shuffled.tolist()) == answer(cells)
