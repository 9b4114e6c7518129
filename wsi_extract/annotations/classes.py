"""Decide what each class of an annotation file means: target, hard negative, context or ignore.

Sibling data sets number their classes differently, so names decide; ids count only through the user's map or in the
one family of files whose numbers are published. Whole names are compared: "non-mitotic" contains "mitotic".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsi_extract.annotations.source import SourceFile, shortened
from wsi_extract.errors import AnnotationError
from wsi_extract.model import Role

ALIASES: Mapping[Role, frozenset[str]] = {
    Role.TARGET: frozenset({"mitotic figure", "mitosis", "mitose", "mitosen", "mitotic cell"}),
    Role.HARD_NEGATIVE: frozenset(
        {
            "hard negative",
            "hard negative look alike",
            "hard negative lookalike",
            "imposter",
            "look alike",
            "lookalike",
            "mitosis like",
            "mitotic figure look alike",
            "mitotic figure lookalike",
            "mitotic like figure",
            "non mitosis",
            "non mitotic figure",
            "nonmitosis",
            "nonmitotic figure",
            "not mitosis",
            "not mitotic figure",
        }
    ),
    Role.CONTEXT: frozenset(
        {
            "binucleated cell",
            "eosinophilic granulocyte",
            "granulocyte",
            "multinucleated cell",
            "other/ambiguous",
            "tumor cell",
        }
    ),
}
"""Known names after `normalise_name`."""

CCMCT_PRESET: Mapping[int, Role] = {
    1: Role.CONTEXT,
    2: Role.TARGET,
    3: Role.CONTEXT,
    4: Role.CONTEXT,
    5: Role.CONTEXT,
    6: Role.CONTEXT,
    7: Role.HARD_NEGATIVE,
}
"""Class ids of the canine cutaneous mast cell tumour data set (Bertram et al. 2019, doi:10.1038/s41597-019-0290-4)."""

CCMCT_DESCRIPTIONS = ("mitos_wsi_cmct", "mitos_wsi_ccmct", "canine cutaneous mast cell")
CCMCT_FILE_PREFIX = "mitos_wsi_ccmct"

MAP_CONTRADICTIONS = frozenset(
    {(Role.HARD_NEGATIVE, Role.TARGET), (Role.CONTEXT, Role.TARGET), (Role.TARGET, Role.HARD_NEGATIVE)}
)
"""(known role, given role): a user may leave a class out or ignore it, but not turn a known name around."""
PRESET_CONTRADICTIONS = MAP_CONTRADICTIONS | {(Role.TARGET, Role.CONTEXT), (Role.CONTEXT, Role.HARD_NEGATIVE)}

N_CLASSES_SHOWN = 50

_ROLES = {role.label: role for role in Role}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDecision:
    """What a class of the file means, and who says so."""

    class_id: int
    name: str
    role: Role | None
    """``None`` when nothing names the class: its annotations are left out."""
    decided_by: str
    """``category map``, ``CCMCT preset``, ``alias`` or ``unknown``."""
    n_annotations: int
    """Rows of the file that have the class, deleted ones included."""

    def to_json(self) -> dict[str, object]:
        """Return the decision ready for JSON."""
        return {
            "class_id": self.class_id,
            "name": self.name,
            "role": None if self.role is None else self.role.label,
            "decided_by": self.decided_by,
            "n_annotations": self.n_annotations,
        }


def _singular(word: str) -> str:
    if word == "mitoses":
        return "mitosis"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "is", "us")) else word


def normalise_name(name: str) -> str:
    """Unify case, plural, hyphens, underscores, blanks and the spelling of tumour; keep everything else.

    >>> normalise_name("Tumour_Cells"), normalise_name("non-mitotic  figure"), normalise_name("Mitosis?")
    ('tumor cell', 'non mitotic figure', 'mitosis?')
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    text = re.sub(r"\s*/\s*", "/", re.sub(r"[\s_\-\u2010-\u2015]+", " ", text)).strip()
    return " ".join(_singular(word) for word in text.replace("tumour", "tumor").split())


def known_role(name: str) -> Role | None:
    """Return the role of a class by its name alone, ``None`` when the name is not known."""
    normal = normalise_name(name)
    return next((role for role, names in ALIASES.items() if normal in names), None)


def is_ccmct(source: SourceFile) -> bool:
    """Return whether the file says that it belongs to the CCMCT data set."""
    description = source.description.casefold()
    by_description = any(phrase in description for phrase in CCMCT_DESCRIPTIONS)
    return by_description or source.path.name.casefold().startswith(CCMCT_FILE_PREFIX)


def list_classes(source: SourceFile) -> str:
    """Return the classes of the file in one line, for messages; of very many the first."""
    classes = [f"{class_id} = {shortened(name)}" for class_id, name in sorted(source.classes.items())]
    more = len(classes) - N_CLASSES_SHOWN
    return ", ".join(classes[:N_CLASSES_SHOWN]) + (f" and {more} more" if more > 0 else "") or "none"


def _matching_ids(key: str, *, source: SourceFile) -> list[int]:
    by_name = [class_id for class_id, name in source.classes.items() if normalise_name(name) == normalise_name(key)]
    by_id = [class_id for class_id in source.classes if str(class_id) == key.strip()]
    if by_name and by_id and by_name != by_id:
        raise AnnotationError(
            f"{source.path}: the category map's {key!r} is the name of class {by_name[0]} and the id of another "
            f"class; classes: {list_classes(source)}.",
            "Name the class by its id and the other by its name.",
        )
    if not by_name and not by_id:
        raise AnnotationError(
            f"{source.path}: the category map's {key!r} is no class of the file; classes: {list_classes(source)}.",
            "Correct or remove the entry of --category_map.",
        )
    return by_name or by_id


def _roles_from_map(category_map: Mapping[str, str], *, source: SourceFile) -> dict[int, Role]:
    roles: dict[int, Role] = {}
    for key, label in sorted(category_map.items()):
        for class_id in _matching_ids(key, source=source):
            if roles.setdefault(class_id, _ROLES[label]) is not _ROLES[label]:
                raise AnnotationError(
                    f"{source.path}: the category map gives class {class_id} ({source.classes[class_id]!r}) two roles, "
                    f"{roles[class_id].label} and {label}.",
                    "Keep one entry for the class in --category_map.",
                )
    return roles


def _decide(
    class_id: int, name: str, *, mapped: Mapping[int, Role], preset: Mapping[int, Role], path: object
) -> tuple[Role | None, str]:
    known = known_role(name)
    if class_id in mapped:
        role, origin, forbidden = mapped[class_id], "category map", MAP_CONTRADICTIONS
    elif class_id in preset:
        role, origin, forbidden = preset[class_id], "CCMCT preset", PRESET_CONTRADICTIONS
    else:
        return known, "alias" if known is not None else "unknown"
    if known is not None and (known, role) in forbidden:
        raise AnnotationError(
            f"{path}: the {origin} makes class {class_id} a {role.label}, but its name {name!r} says {known.label}.",
            "Correct --category_map." if origin == "category map" else "Give the right roles with --category_map.",
        )
    return role, origin


def decide_classes(source: SourceFile, *, category_map: Mapping[str, str] | None) -> tuple[ClassDecision, ...]:
    """Decide the role of every class of the file, in the order category map, CCMCT preset, known name.

    Parameters
    ----------
    category_map
        Role label by class name, or by class id as text.

    Returns
    -------
    One decision per class of the file, sorted by id.

    Raises
    ------
    AnnotationError
        When an entry of the map fits no class, or two; when map or preset contradict a known name.
    """
    mapped = _roles_from_map(category_map or {}, source=source)
    preset = CCMCT_PRESET if is_ccmct(source) else {}
    ids, counts = np.unique(source.rows.class_id[source.rows.has_class], return_counts=True)
    n_annotations = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    decisions = []
    for class_id, name in sorted(source.classes.items()):
        role, origin = _decide(class_id, name, mapped=mapped, preset=preset, path=source.path)
        decisions.append(
            ClassDecision(
                class_id=class_id,
                name=name,
                role=role,
                decided_by=origin,
                n_annotations=n_annotations.get(class_id, 0),
            )
        )
    return tuple(decisions)


def class_notes(classes: tuple[ClassDecision, ...]) -> tuple[str, ...]:
    """Return what users should know of the decisions: unknown names, and ids that the preset gave a role."""
    notes = [
        f"class {item.class_id} ({item.name!r}, {item.n_annotations} annotations) has an unknown name and is left out."
        for item in classes
        if item.role is None
    ]
    notes += [
        f"class {item.class_id} ({item.name!r}, {item.n_annotations} annotations) has an unknown name; "
        f"its id makes it {item.role.label}."
        for item in classes
        if item.decided_by == "CCMCT preset" and item.role is not None and known_role(item.name) is None
    ]
    return tuple(notes)
