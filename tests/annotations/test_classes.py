"""Class names and ids to roles: sibling data sets, presets, maps, contradictions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.annotations.test_builders import Database, Mark, coco_document, load, write_database, write_json
from wsi_extract.annotations import AnnotationOptions, ClassDecision, SourceFile, read_source
from wsi_extract.annotations.classes import ALIASES, decide_classes, known_role, normalise_name
from wsi_extract.errors import AnnotationError, ConfigError
from wsi_extract.model import Role

CCMCT = "MITOS_WSI_CMCT data set"
CCMCT_NAMES = (
    (1, "Granulocyte"),
    (2, "Mitotic figure"),
    (3, "Tumor cell"),
    (4, "Other/ambiguous"),
    (5, "Binucleated cell"),
    (6, "Multinucleated cell"),
    (7, "Mitotic figure lookalike"),
)


def source(
    tmp_path: Path, classes: tuple[tuple[int, str], ...], *, description: str = "", name: str = "a.json"
) -> SourceFile:
    document = coco_document([], classes=classes, info={"description": description})
    return read_source(write_json(tmp_path / name, document))


def roles(decisions: tuple[ClassDecision, ...]) -> dict[int, str | None]:
    return {item.class_id: item.role.label if item.role else None for item in decisions}


NAMES = {
    "Mitosis": Role.TARGET,
    "MITOTIC_FIGURES": Role.TARGET,
    "mitoses": Role.TARGET,
    "Mitose": Role.TARGET,
    "not mitotic figure": Role.HARD_NEGATIVE,
    "non-mitotic figure": Role.HARD_NEGATIVE,
    "Nonmitosis": Role.HARD_NEGATIVE,
    "Hard negative": Role.HARD_NEGATIVE,
    "Mitotic figure look-alikes": Role.HARD_NEGATIVE,
    "Tumour cells": Role.CONTEXT,
    "Other / Ambiguous": Role.CONTEXT,
    "non-mitotic cell": None,
    "Mitosis?": None,
    "mitotic": None,
    "not a mitosis": None,
    "": None,
}


@pytest.mark.parametrize(("name", "role"), NAMES.items(), ids=[name or "empty" for name in NAMES])
def test_whole_names_decide(name: str, role: Role | None) -> None:
    assert known_role(name) is role


@given(st.sampled_from(sorted(set().union(*ALIASES.values()))), st.randoms(use_true_random=False))
def test_case_and_separators_never_change_the_role(name: str, random: object) -> None:
    choose = random.choice  # type: ignore[attr-defined]  # hypothesis types its Random as object
    varied = "".join(choose((c.upper(), c)) if c != " " else choose((" ", "_", "-", "  ")) for c in name)
    assert known_role(varied) is known_role(name) is not None


def test_every_alias_is_in_normal_form() -> None:
    names = [name for group in ALIASES.values() for name in group]
    assert [normalise_name(name) for name in names] == names
    assert len(set(names)) == len(names)


def test_siblings_with_other_ids_are_mapped_by_name(tmp_path: Path) -> None:
    midog = source(tmp_path, ((1, "mitotic figure"), (2, "not mitotic figure")))
    cmc = source(tmp_path, ((1, "non-mitotic figure"), (2, "mitotic figure")))
    assert roles(decide_classes(midog, category_map=None)) == {1: "target", 2: "hard_negative"}
    assert roles(decide_classes(cmc, category_map=None)) == {1: "hard_negative", 2: "target"}


PRESETS = {"by description": (CCMCT, "a.json"), "by name": ("", "MITOS_WSI_CCMCT_ODAEL.json")}


@pytest.mark.parametrize(("description", "name"), PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("spelling", ["known", "unknown"])
def test_the_ccmct_preset_uses_the_published_ids(tmp_path: Path, description: str, name: str, spelling: str) -> None:
    classes = CCMCT_NAMES if spelling == "known" else tuple((i, f"name {i}") for i, _ in CCMCT_NAMES)
    decisions = decide_classes(source(tmp_path, classes, description=description, name=name), category_map=None)
    expected = dict.fromkeys((1, 3, 4, 5, 6), "context") | {2: "target", 7: "hard_negative"}
    assert roles(decisions) == expected
    assert {item.decided_by for item in decisions} == {"CCMCT preset"}


def test_the_preset_also_serves_databases_and_warns_of_unknown_names(tmp_path: Path) -> None:
    database = Database(marks=(Mark(uid=1, agreed_class=2),), classes=((1, "x"), (2, "y"), (7, "z"), (9, "w")))
    loaded = load(write_database(tmp_path / "MITOS_WSI_CCMCT_MEL.sqlite", database))
    assert loaded.tables["001"].role.tolist() == [Role.TARGET]
    assert [item.decided_by for item in loaded.classes] == ["CCMCT preset"] * 3 + ["unknown"]
    assert [item.n_annotations for item in loaded.classes] == [0, 1, 0, 0]
    assert any(
        "class 2 ('y', 1 annotations) has an unknown name; its id makes it target" in n for n in loaded.source.notes
    )


def test_ids_alone_never_decide(tmp_path: Path) -> None:
    decisions = decide_classes(source(tmp_path, ((2, "object"), (7, "thing"))), category_map=None)
    assert [(item.role, item.decided_by) for item in decisions] == [(None, "unknown")] * 2


CONTRADICTIONS = {
    "preset, target named look-alike": (((2, "Hard negative"),), CCMCT, None),
    "preset, target named context": (((2, "Granulocyte"),), CCMCT, None),
    "preset, look-alike named target": (((7, "Mitosis"),), CCMCT, None),
    "preset, context named target": (((3, "mitotic figure"),), CCMCT, None),
    "map turns target round": (((1, "mitosis"),), "", {"1": "hard_negative"}),
    "map turns look-alike round": (((1, "nonmitosis"),), "", {"1": "target"}),
    "map makes context a target": (((1, "granulocyte"),), "", {"1": "target"}),
}


@pytest.mark.parametrize(("classes", "description", "category_map"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradicting_a_known_name_is_refused(
    tmp_path: Path, classes: tuple[tuple[int, str], ...], description: str, category_map: dict[str, str] | None
) -> None:
    with pytest.raises(AnnotationError, match=r"makes class \d a .*, but its name '.*' says .*--category_map"):
        decide_classes(source(tmp_path, classes, description=description), category_map=category_map)


def test_the_map_comes_first_by_name_or_id(tmp_path: Path) -> None:
    file = source(tmp_path, ((1, "Cell A"), (2, "cell_b"), (3, "mitotic figure"), (4, "Hard negative")))
    category_map = {"cell-a": "target", "2": "hard_negative", "Hard-Negatives": "ignore"}
    decisions = decide_classes(file, category_map=category_map)
    assert roles(decisions) == {1: "target", 2: "hard_negative", 3: "target", 4: "ignore"}
    assert [item.decided_by for item in decisions] == ["category map", "category map", "alias", "category map"]


def test_a_preset_yields_to_the_map(tmp_path: Path) -> None:
    file = source(tmp_path, CCMCT_NAMES, description=CCMCT)
    assert roles(decide_classes(file, category_map={"7": "context", "1": "hard_negative"}))[7] == "context"


BAD_MAPS = {
    "no such class": ({"mitos": "target"}, r"'mitos' is no class.*1 = 'Mitosis', 2 = '1', 3 = 'b'"),
    "no such id": ({"9": "target"}, "'9' is no class"),
    "two roles": ({"mitosis": "target", "Mitosis": "ignore"}, "two roles"),
    "name of one and id of another": ({"1": "context"}, "name of class 2 and the id of another"),
}


@pytest.mark.parametrize(("category_map", "message"), BAD_MAPS.values(), ids=BAD_MAPS)
def test_maps_that_fit_no_class_or_two_are_refused(tmp_path: Path, category_map: dict[str, str], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        decide_classes(source(tmp_path, ((1, "Mitosis"), (2, "1"), (3, "b"))), category_map=category_map)


def test_unknown_classes_are_left_out_and_reported(tmp_path: Path) -> None:
    marks = (Mark(uid=1), Mark(uid=2, agreed_class=5))
    path = write_database(tmp_path / "a.sqlite", Database(marks=marks, classes=((1, "mitosis"), (5, "Flock"))))
    loaded = load(path)
    assert "class 5 ('Flock', 1 annotations) has an unknown name and is left out." in loaded.source.notes
    assert loaded.classes[1].to_json() == {
        "class_id": 5,
        "name": "Flock",
        "role": None,
        "decided_by": "unknown",
        "n_annotations": 1,
    }


def test_options_are_checked_all_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)category_map: 'a' has the role 'mitosis'.*point_box_px.*annotation_types"
    ):
        AnnotationOptions(category_map={"a": "mitosis"}, point_box_px=0, annotation_types=("special",))
