"""Settings as people give them: flags on the command line, and the ``extraction`` object of a config file."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from wsi_extract.config import LOCATION_FIELDS, MIXTURES, RunConfig
from wsi_extract.errors import ConfigError
from wsi_extract.input_files import read_regular

N_SHOWN, N_CHARACTERS = 5, 200
"""Of names, and of the characters of one, in a message."""
LONGEST_TEXT = 4096
"""Characters of a name, path or pattern: the longest path of the system."""
LARGEST_FILE_BYTES = 16_000_000
"""Of settings and lists of slides: 100,000 slides by name have a few MB."""


ON_PARTIAL_VARIABLE = "WSI_EXTRACT_ON_PARTIAL"
"""Default of ``on_partial`` in a job that keeps its output only when it succeeds."""
PATH_FIELDS = LOCATION_FIELDS | {"tls_ca_file", "tls_cert", "tls_key"}


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
    try:
        if name == "category_map":
            value = _parse_category_map(text)
        elif name.endswith("_slides") and name != "unannotated_slides":
            value = _parse_names(text)
        elif name == "annotation_types" or (name == "mixture" and text not in MIXTURES):
            value = [part.strip() for part in text.split(",")]
        else:
            _refuse_odd_text(text)
        parsed = (
            adapter.validate_strings(value) if not isinstance(value, dict | list) else adapter.validate_python(value)
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"--{name}: {first['msg'].lower().replace('input should', 'should')}, got {text[:N_CHARACTERS]!r}"
        ) from error
    except ConfigError:
        raise  # it is a ValueError, too
    except (ValueError, RuntimeError) as error:  # RuntimeError: ~somebody, who is unknown here
        raise ConfigError(f"--{name}: {error}, got {text[:N_CHARACTERS]!r}") from error
    return TypeAdapter(Any).dump_python(parsed, mode="json")


def _parse_names(text: str) -> list[str]:
    """Names separated by commas, or ``@FILE`` with one per line."""
    if text.startswith("@"):
        try:
            lines = _read_text(Path(text[1:])).splitlines()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot read the list of slides {text[1:]}: {reason}.") from error
    else:
        lines = text.split(",")
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        _refuse_odd_text(name)
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
        return _read_json(Path(text))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"--category_map: {text} is neither NAME=ROLE pairs nor a readable JSON file: {reason}"
        ) from error


def _read_text(path: Path) -> str:
    return read_regular(path, largest_bytes=LARGEST_FILE_BYTES).decode("utf-8-sig")


def _read_json(path: Path) -> object:
    """Return the value a file holds.

    Raises
    ------
    ValueError
        When it is not JSON in UTF-8 (NaN and Infinity are not), holds a key twice or a text that no file name can be.
    OSError
        When it cannot be read, is no file, or is too large.
    """
    return parse_json(_read_text(path))


def parse_json(text: str) -> object:
    """Return the value that a text stands for, as strictly as a config file is read.

    Raises
    ------
    ValueError
        When it is not JSON (NaN and Infinity are not), holds a key twice or a text that no file name can be.
    """
    try:
        document: object = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_parse_float
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    for found in _texts_in(document):
        _refuse_odd_text(found)
    return document


def _refuse_odd_text(text: str) -> None:
    try:
        text.encode()  # JSON and command lines can hold halves of characters
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {text[:40]!r} is not Unicode") from error
    if "\0" in text:
        raise ValueError(f"the text {text[:40]!r} holds NUL")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the text {text[:40]!r}... is longer than {LONGEST_TEXT} characters")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _texts_in(document: object) -> Iterator[str]:
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend([*value.keys(), *value.values()])
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, str):
            yield value


def _unique_keys(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object; `json` itself would silently keep the last of two equal keys."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, n in counts.items() if n > 1)
        more = f" and {len(twice) - N_SHOWN} more keys" if len(twice) > N_SHOWN else ""
        shown = ", ".join(repr(name[:N_CHARACTERS]) for name in twice[:N_SHOWN])
        raise ValueError(f"the key {shown}{more} occurs twice")
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


def read_config_file(path: Path) -> dict[str, object]:
    """Return the object that a config file holds.

    Raises
    ------
    ConfigError
        When the file is missing, is not JSON, holds a key twice, or is no object.
    """
    try:
        document = _read_json(path)
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected an object with what config.json has, in braces.")
    return document


def read_extraction_object(path: Path) -> dict[str, object]:
    """Return the ``extraction`` object of a config file; relative paths in it are made relative to the file.

    Raises
    ------
    ConfigError
        When the file is missing, is not JSON, holds a key twice or settings outside ``extraction``, or its
        ``extraction`` is not an object.
    """
    return extraction_object(read_config_file(path), path=path)


def extraction_object(document: Mapping[str, object], *, path: Path) -> dict[str, object]:
    """Return the ``extraction`` object of what `read_config_file` returned; relative paths are made relative to it.

    Raises
    ------
    ConfigError
        When there are settings outside ``extraction``, or it is not an object.
    """
    found = document.get("extraction", {})
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object with an object 'extraction' in it.")
    _refuse_misplaced(document, path=path)
    extraction = dict(found)
    for key in PATH_FIELDS & extraction.keys():
        if isinstance(extraction[key], str) and extraction[key].strip():
            try:
                extraction[key] = str(path.parent / Path(extraction[key]).expanduser())
            except RuntimeError as error:  # ~somebody, who is unknown here
                raise ConfigError(f"{path}: {key}: {extraction[key]!r}: {error}") from error
    return extraction


def defaults_of_job(environ: Mapping[str, str]) -> dict[str, object]:
    """Return the defaults that a job sets through the environment; flags and the config file overrule them.

    Raises
    ------
    ConfigError
        When one of them is no value of its setting.
    """
    value = environ.get(ON_PARTIAL_VARIABLE)
    if value is None:
        return {}
    if value not in ("fail", "warn"):
        raise ConfigError(f"the environment variable {ON_PARTIAL_VARIABLE} must be fail or warn, got {value[:40]!r}.")
    return {"on_partial": value}
