"""Names and texts that harm: no run fails over them, no terminal obeys them, no spreadsheet runs them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.helpers_run import MEMORY_BYTES, Inputs, content_of, extract, make_config, make_inputs, read_manifest
from wsi_extract.console.reporters import ConsoleReporter
from wsi_extract.console.tables import make_table
from wsi_extract.disk.files import pretty_json
from wsi_extract.faults import fault_from
from wsi_extract.model import Fault, FaultClass
from wsi_extract.pipeline import run
from wsi_extract.printable import as_encodable, as_one_line, as_printable, with_printable_texts
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.slides_table import TEXT_COLUMNS, slides_csv
from wsi_extract.splits.names import find_slides_named, index_names
from wsi_extract.state.layout import ERRORS, SLIDES_TABLE
from wsi_extract.synthetic import AnnotatedSlide, write_sliderunner
from wsi_extract.tasks import SerialExecutor
from wsi_extract.verify import audit, compare

ESCAPES = "\x1b[2J\x9b31m\u202e"
HOSTILE = ("=cmd|'x'!A1.svs", f"a{ESCAPES}[red]b[blue]\n:smile:\tc.svs", "@SUM(1).svs")
ANY_TEXT = st.text(
    st.characters(exclude_categories=[]) | st.sampled_from("=+-@\t\r\n\x1b\x9b\udcff'\",\u2028"), max_size=9
)


def hostile_inputs(folder: Path, names: Sequence[str] = HOSTILE, *, broken: bool = False) -> Inputs:
    """Rename slides; the last of them can be broken."""
    made = make_inputs(folder, n_slides=len(names) + 1)
    slides = []
    for slide, name in zip(made.slides, (*names, made.slides[-1].file_name), strict=True):
        (made.wsi_dir / slide.file_name).rename(made.wsi_dir / name)
        slides.append(AnnotatedSlide(uid=slide.uid, file_name=name, width_px=slide.width_px, height_px=slide.height_px))
    if broken:
        (made.wsi_dir / names[-1]).write_bytes(b"no slide")
    made.sqlite.unlink()
    classes = {2: "Mitotic figure", 7: f"Look-alike [bold]x[/bold]{ESCAPES}", 3: "Tumor cell"}
    write_sliderunner(made.sqlite, slides=slides, classes=classes, annotations=made.annotations)
    return Inputs(folder=folder, slides=tuple(slides), annotations=made.annotations)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / SLIDES_TABLE).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def is_obeyed(text: str) -> bool:
    """Whether a terminal would do more than show the text."""
    return any(as_printable(character) != character for character in text)


@pytest.mark.parametrize("store", ["png", "pixels"])
def test_a_run_with_hostile_names_is_sound_and_can_be_repeated(tmp_path: Path, store: str) -> None:
    inputs = hostile_inputs(tmp_path / "in", broken=True)
    settings = {"store": store, "category_map": {"2": "target", "7": "hard_negative", "3": "context"}}
    settings["group_regex"] = r"(?s)^(.+)\.svs$"
    outs = tmp_path / "a", tmp_path / "b"
    for out in outs:
        result = extract(inputs, out, **settings)  # type: ignore[arg-type]
        assert result.has_failures
        report = audit(out)
        assert report.is_sound, report.problems
    assert compare(*outs).is_sound
    before = content_of(outs[0])
    extract(inputs, outs[0], **settings)  # type: ignore[arg-type]
    assert content_of(outs[0]) == before
    for name in ("manifest.json", SLIDES_TABLE, ERRORS):
        assert not is_obeyed((outs[0] / name).read_text(encoding="utf-8"))
    assert {row["file"] for row in rows_of(outs[0])} == {
        "'=cmd|'x'!A1.svs",
        as_printable(HOSTILE[1]),
        "'@SUM(1).svs",
        "slide_4.svs",
    }
    assert sorted(row["group"][0] for row in rows_of(outs[0]) if row["group"]) == ["'", "'", "a", "s"]


def test_what_an_audit_expects_is_a_cell_without_formula(tmp_path: Path) -> None:
    inputs = hostile_inputs(tmp_path / "in")
    out = tmp_path / "out"
    extract(inputs, out, group_regex=r"(?s)^(.+)\.svs$", category_map={"2": "target"})
    table = out / SLIDES_TABLE
    changed = table.read_bytes().replace(b"'=cmd|'x'!A1,", b"=cmd|'x'!A1,")
    assert changed != table.read_bytes()
    table.write_bytes(changed)
    assert any("group is" in str(problem) for problem in audit(out).problems)


def test_folders_whose_names_are_no_text_reach_the_manifest_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(tmp_path / "in", n_slides=2)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    folder.mkdir()
    inputs.sqlite.rename(folder / inputs.sqlite.name)
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    extract(inputs, out, annotation_json=inputs.sqlite.name)
    assert read_manifest(out)["run"]["locations"]["annotation_json"].endswith("/\\udcff\\udcfe/annotations.sqlite")
    assert audit(out).is_sound


def show(inputs: Inputs, out: Path) -> str:
    shown = io.StringIO()
    console = Console(file=shown, width=300, force_terminal=False)
    config = make_config(
        inputs, out, category_map={"2": "target", "7": "hard_negative", "3": "context"}, group_regex=r"(?s)^(.+)\.svs$"
    )
    reporter = ConsoleReporter(config, console=console, check_signals=lambda: None)
    with SlideCache() as slides:
        run(config, executor=SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES), reporter=reporter)
    return shown.getvalue()


def test_what_a_run_prints_is_text(tmp_path: Path) -> None:
    shown = show(hostile_inputs(tmp_path / "in", broken=True), tmp_path / "out")
    assert not is_obeyed(shown)
    assert "a\\x1b[2J\\x9b31m\\u202e[red]b[blue]\\n:smile:\\tc" in shown
    assert "Look-alike [bold]x[/bold]\\x1b[2J" in shown


def test_no_name_breaks_a_line() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=300, force_terminal=False)
    console.print(make_table("T", ("name", "#n"), [("a\nb\r\x1b[red]c[/red]", 1), ("=x", "2\n")]))
    assert len({len(line) for line in shown.getvalue().splitlines()[1:]}) == 1
    assert "a\\nb\\r\\x1b[red]c[/red]" in shown.getvalue()
    assert not is_obeyed(shown.getvalue())


def test_warnings_and_faults_are_lines_of_plain_text(tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=300, force_terminal=False)
    inputs = Inputs(folder=tmp_path, slides=(), annotations=())
    reporter = ConsoleReporter(make_config(inputs, tmp_path / "out"), console=console, check_signals=lambda: None)
    reporter.warn("the folder a\x1b]0;title\x07 [red]b[/red]\nerror: all is lost")
    reporter.fail(
        Fault(
            slide_id="s",
            stage="extract",
            fault_class=FaultClass.SLIDE,
            error_type="E",
            message="c\udcff\nwarning: d",
            remedy="",
        )
    )
    lines = shown.getvalue().splitlines()
    assert [line.rstrip() for line in lines] == [
        "warning: the folder a\\x1b]0;title\\x07 [red]b[/red]\\nerror: all is lost",
        "slide s failed (extract): c\\udcff\\nwarning: d",
    ]


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_fits_the_table_of_slides(file: str, reason: str) -> None:
    row = {"slide_id": "s1", "reason": reason, "splits": [], "patches_by_kind": {}, "label_counts": {}}
    (cells,) = csv.DictReader(io.StringIO(slides_csv([row], files=[file]).decode(), newline=""), strict=True)
    for key, text in (("file", file), ("reason", reason)):
        assert not cells[key].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert cells[key].removeprefix("'") == as_printable(text).removeprefix("'")
    assert {"file", "reason"} <= TEXT_COLUMNS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_any_value_becomes_a_document(value: object) -> None:
    document = pretty_json(with_printable_texts(value)).decode()
    assert with_printable_texts(json.loads(document)) == json.loads(document)
    assert not is_obeyed(document)


@given(ANY_TEXT)
def test_paths_that_are_text_stay_as_they_are(text: str) -> None:
    shown = as_encodable(text)
    shown.encode()
    assert (shown == text) == (not any("\ud800" <= character <= "\udfff" for character in text))
    assert not set("\n\t") & set(as_one_line(text))


def test_faults_hold_printable_texts() -> None:
    fault = fault_from(ValueError(f"a\udcff{ESCAPES}"), slide_id="s", stage="survey")
    assert not is_obeyed(fault.message)
    assert "\\udcff" in fault.message


def test_numbers_of_any_length_name_slides() -> None:
    digits = "1" * 5000
    index = index_names({"a": [f"00{digits}.svs"], "b": ["000.svs"], "c": ["012.svs"]})
    assert find_slides_named(digits, index=index) == ("a",)
    assert find_slides_named("0", index=index) == ("b",)
    assert find_slides_named("12.tif", index=index) == ("c",)
    assert find_slides_named("1" * 5001, index=index) == ()
