"""Settings as people give them: flags on the command line, and the ``extraction`` object of a config file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from wsi_extract.config import LOCATION_FIELDS, MIXTURES, RunConfig
from wsi_extract.errors import ConfigError


def parse_flag(name: str, text: str) -> object:
    """Turn the text of a command-line flag into the JSON value that config.json would hold for it.

    Raises
    ------
    ConfigError
        When the text is not a value of the setting.
    """
    field: FieldInfo = RunConfig.model_fields[name]
    kind: Any = Annotated[field.annotation, field]
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    value: object = text
    if name == "category_map":
        value = _parse_category_map(text)
    elif name.endswith("_slides") and name != "unannotated_slides":
        value = _parse_names(text)
    elif name == "annotation_types" or (name == "mixture" and text not in MIXTURES):
        value = [part.strip() for part in text.split(",")]
    try:
        parsed = (
            adapter.validate_strings(value) if not isinstance(value, dict | list) else adapter.validate_python(value)
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"--{name}: {first['msg'].lower().replace('input should', 'should')}, got {text!r}"
        ) from error
    return TypeAdapter(Any).dump_python(parsed, mode="json")


def _parse_names(text: str) -> list[str]:
    """Names separated by commas, or ``@FILE`` with one per line."""
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the list of slides {text[1:]}: {error}.") from error
    else:
        lines = text.split(",")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ConfigError(f"a list of slides is empty: {text!r}. Leave the flag out if no slide is meant.")
    return names


def _parse_category_map(text: str) -> object:
    if "=" in text:
        pairs = [part.partition("=") for part in text.split(",")]
        try:
            return _unique_keys([(name.strip(), role.strip()) for name, _, role in pairs])
        except ValueError as error:
            raise ConfigError(f"--category_map: {error}, got {text!r}") from error
    try:
        return json.loads(Path(text).read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--category_map: {text} is neither NAME=ROLE pairs nor a readable JSON file: {error}"
        ) from error


def _unique_keys(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object; `json` itself would silently keep the last of two equal keys."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {', '.join(map(repr, twice))} occurs twice")
    return values


def _refuse_misplaced(document: Mapping[str, object], *, path: Path) -> None:
    """Refuse settings that would be ignored because they are not inside ``extraction``."""
    misplaced = sorted(document.keys() & RunConfig.model_fields.keys())
    if misplaced:
        names = ", ".join(map(repr, misplaced))
        raise ConfigError(f"{path}: {names} must be inside the object 'extraction'.")
    near = difflib.get_close_matches("extraction", document, n=1, cutoff=0.8)
    if near and near[0] != "extraction":
        raise ConfigError(f"{path}: unknown key '{near[0]}'; did you mean 'extraction'?")


def read_extraction_object(path: Path) -> dict[str, object]:
    """Return the ``extraction`` object of a config file; relative paths in it are made relative to the file.

    Raises
    ------
    ConfigError
        When the file is missing, is not JSON, holds a key twice or settings outside ``extraction``, or its
        ``extraction`` is not an object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(document, dict) or not isinstance(document.get("extraction", {}), dict):
        raise ConfigError(f"{path}: expected an object with an object 'extraction' in it.")
    _refuse_misplaced(document, path=path)
    extraction = dict(document.get("extraction", {}))
    for key in LOCATION_FIELDS & extraction.keys():
        if isinstance(extraction[key], str) and extraction[key].strip():
            extraction[key] = str(path.parent / Path(extraction[key]).expanduser())
    return extraction
