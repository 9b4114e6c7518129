"""A damaged data set is mended from its slides, byte for byte, and nothing is deleted before that is certain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers_bit_flips import committed_files, make_tiny_dataset
from tests.helpers_convert import convert
from tests.helpers_run import content_of, extract, make_config, make_inputs, read_manifest
from tests.verify.helpers import Json, edit_json
from wsi_extract.config import RunConfig
from wsi_extract.console.reporters import SilentReporter
from wsi_extract.errors import ConfigError, InputError, IntegrityError
from wsi_extract.repair import (
    OpenExecutor,
    RepairRequest,
    RepairResult,
    _config_of,
    can_repair,
    delete_damaged,
    repair,
)
from wsi_extract.state.layout import (
    MANIFEST,
    SLIDES_TABLE,
    kept_manifest_path,
    record_path,
    run_path,
    slide_manifest_path,
)
from wsi_extract.state.records import encode_document, read_document
from wsi_extract.storage import Store
from wsi_extract.tasks import Executor, Task, TaskResult
from wsi_extract.verify import audit
from wsi_extract.verify.damage import DamagedFile, describe_damage
from wsi_extract.verify.evidence import Evidence, read_evidence
from wsi_extract.verify_command import open_executor

SLIDE = "slide_1"


class StoppedError(Exception):
    """A repair that a test interrupted."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[Store, Path]:
    """Data sets of every store that must not be changed; the folder of each has its input too."""
    folder = tmp_path_factory.mktemp("repair")
    return {store: make_tiny_dataset(folder / store.value, store) for store in Store}


@pytest.fixture
def out(originals: dict[Store, Path], tmp_path: Path) -> Path:
    """A PNG data set that may be damaged."""
    return Path(shutil.copytree(originals[Store.PNG], tmp_path / "out"))


def mend(
    out: Path, *, is_dry_run: bool = False, executor: OpenExecutor = open_executor, **locations: Path
) -> RepairResult:
    request = RepairRequest(output_dir=out, locations=locations, is_dry_run=is_dry_run)
    return repair(request, open_executor=executor, reporter_of=lambda _: SilentReporter())


def flip(path: Path, *, share: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)


def first_patch(out: Path) -> Path:
    return min(out.glob(f"*2017/{SLIDE}/*.png"))


def same_as(original: Path, out: Path) -> bool:
    """Whether two data sets hold the same bytes, apart from times."""
    return content_of(original) == content_of(out)


@pytest.mark.parametrize("store", Store)
def test_every_file_can_be_damaged_at_once_but_the_settings(
    originals: dict[Store, Path], tmp_path: Path, store: Store
) -> None:
    """Flip a bit in all that is not needed to know what was asked for, and delete every fifth file."""
    out = Path(shutil.copytree(originals[store], tmp_path / "out"))
    for number, path in enumerate(committed_files(out)):
        if path not in {run_path(out), out / MANIFEST}:
            path.unlink() if number % 5 == 0 else flip(path)
    result = mend(out)
    assert result.report.problems == ()
    assert result.report.content_sha256 == result.content_before == read_manifest(originals[store])["content_sha256"]
    assert same_as(originals[store], out)
    assert not kept_manifest_path(out).exists()


def test_the_next_run_clears_away_what_a_killed_repair_kept(tmp_path: Path) -> None:
    inputs, out = make_inputs(tmp_path / "input", n_slides=2), tmp_path / "out"
    extract(inputs, out)
    shutil.copy(out / MANIFEST, kept_manifest_path(out))
    extract(inputs, out)
    assert not kept_manifest_path(out).exists()


def test_only_what_is_damaged_is_made_anew(originals: dict[Store, Path], out: Path) -> None:
    flip(first_patch(out))
    last = max(out.glob("*2017/slide_2/*.png"))
    last.unlink()
    before = {path: path.stat().st_ino for path in out.glob("*2017/*/*.png")}
    result = mend(out)
    assert [(file.slide_id, file.part, file.is_missing) for file in result.damage] == [
        (SLIDE, "block 0", False),
        ("slide_2", "block 0", True),
    ]
    assert result.n_blocks == 2
    assert result.report.is_sound
    assert same_as(originals[Store.PNG], out)
    blocks = {first_patch(out).parent, last.parent}
    untouched = [path for path, inode in before.items() if path.stat().st_ino == inode]
    assert all(path.parent not in blocks for path in untouched)


def test_a_sound_data_set_is_left_alone(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    result = mend(out)
    assert not result.was_damaged
    assert result.damage == ()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_a_repair_kept_that_was_killed_when_all_was_done_is_cleared_away(out: Path) -> None:
    kept_manifest_path(out).write_bytes((out / MANIFEST).read_bytes())
    assert mend(out, is_dry_run=True).report.is_sound
    assert kept_manifest_path(out).exists()
    assert not mend(out).was_damaged
    assert not kept_manifest_path(out).exists()


def test_a_dry_run_changes_nothing(out: Path) -> None:
    flip(first_patch(out))
    record_path(out, slide_id=SLIDE, index=0).unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = mend(out, is_dry_run=True)
    assert [file.path for file in result.damage] == [record_path(out, slide_id=SLIDE, index=0)]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def edit(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda out: edit(out / MANIFEST, b"patches_written", b"patches_vritten"), id="manifest flipped"),
        pytest.param(lambda out: flip(run_path(out)), id="run.json flipped"),
        pytest.param(lambda out: run_path(out).write_bytes(b"{"), id="run.json no JSON"),
        pytest.param(lambda out: run_path(out).unlink(), id="run.json lost"),
        pytest.param(lambda out: flip(out / SLIDES_TABLE), id="slides.csv"),
        pytest.param(lambda out: slide_manifest_path(out, slide_id=SLIDE).unlink(), id="manifest of a slide"),
    ],
)
def test_documents_alone_are_made_anew(
    originals: dict[Store, Path], out: Path, damage: Callable[[Path], object]
) -> None:
    damage(out)
    assert not audit(out).is_sound
    assert mend(out).report.problems == ()
    assert same_as(originals[Store.PNG], out)


@pytest.mark.parametrize("content", [b"", b'{"schema":', None])
def test_without_a_manifest_the_input_has_to_be_named(
    originals: dict[Store, Path], out: Path, content: bytes | None
) -> None:
    flip(first_patch(out))
    (out / MANIFEST).unlink() if content is None else (out / MANIFEST).write_bytes(content)
    with pytest.raises(ConfigError, match=r"nobody knows where its input lies.*--wsi_dir and --annotation_json"):
        mend(out)
    source = originals[Store.PNG].parent / "input"
    result = mend(out, wsi_dir=source / "WSI", annotation_json=source / "annotations.sqlite")
    assert result.content_before == ""
    assert same_as(originals[Store.PNG], out)


def test_without_both_nobody_knows_the_settings(out: Path) -> None:
    (out / MANIFEST).unlink()
    run_path(out).unlink()
    assert not can_repair(out)
    with pytest.raises(IntegrityError, match="both damaged or missing"):
        mend(out)


def test_a_run_that_did_not_finish_is_to_be_continued(out: Path) -> None:
    assert can_repair(out)
    (out / MANIFEST).unlink()
    assert not can_repair(out)


@pytest.mark.parametrize("loss", [Path.unlink, lambda path: path.write_bytes(b"II*\0")], ids=["missing", "unreadable"])
def test_slides_that_are_gone_are_named_and_nothing_is_deleted(
    originals: dict[Store, Path], out: Path, tmp_path: Path, loss: Callable[[Path], object]
) -> None:
    flip(first_patch(out))
    slides = Path(shutil.copytree(originals[Store.PNG].parent / "input" / "WSI", tmp_path / "WSI"))
    loss(slides / "slide_2.svs")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"are missing .*: slide_2\. Nothing was deleted"):
        mend(out, wsi_dir=slides)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_another_slide_under_the_same_name_is_refused(originals: dict[Store, Path], out: Path, tmp_path: Path) -> None:
    flip(first_patch(out))
    slides = Path(shutil.copytree(originals[Store.PNG].parent / "input" / "WSI", tmp_path / "WSI"))
    with (slides / "slide_1.svs").open("ab") as stream:
        stream.write(b"\0")
    for is_run_lost in (False, True):
        if is_run_lost:
            run_path(out).unlink()
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(IntegrityError, match="slide slide_1"):
            mend(out, wsi_dir=slides)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("is_run_lost", [False, True])
def test_annotations_that_changed_are_named_and_so_is_what_to_do(
    originals: dict[Store, Path], out: Path, tmp_path: Path, is_run_lost: bool
) -> None:
    flip(first_patch(out))
    if is_run_lost:
        run_path(out).unlink()
    source = originals[Store.PNG].parent / "input"
    rows = json.loads((source / "annotations.json").read_bytes())
    rows["annotations"][0]["bbox"] = [number + 1 for number in rows["annotations"][0]["bbox"]]
    changed = tmp_path / "annotations.json"
    changed.write_text(json.dumps(rows))
    with pytest.raises(IntegrityError) as caught:
        mend(out, annotation_json=changed)
    assert str(caught.value) == (
        f"the slides or annotations are not those the data set was made from: {changed}. Nothing was changed. "
        "Give the originals with --wsi_dir and --annotation_json."
    )


def test_another_version_of_the_program_is_told_apart_from_other_input(out: Path) -> None:
    flip(first_patch(out))
    edit_json(run_path(out), lambda run: run.update(program="wsi_extract 0.0.1"))
    edit(out / MANIFEST, b"patches_written", b"patches_vritten")  # else it would tell that run.json is damaged
    with pytest.raises(IntegrityError, match="with the program and the libraries that it was made with"):
        mend(out)


def test_a_block_that_comes_out_otherwise_is_an_alarm(out: Path) -> None:
    path = record_path(out, slide_id=SLIDE, index=0)
    document = read_document(path)
    assert document is not None
    document["patches"][0]["sha256"] = "0" * 64
    path.write_bytes(encode_document(document))
    with pytest.raises(IntegrityError, match="determinism alarm"):
        mend(out)


def test_other_content_than_before_is_an_error(out: Path) -> None:
    """Nothing that knew the block is left but the digest in the manifest."""
    edit_json(out / MANIFEST, lambda manifest: manifest.update(content_sha256="0" * 64))
    with pytest.raises(IntegrityError, match="after the repair, but had 0000"):
        mend(out)


def test_a_data_set_that_was_converted_has_no_slides(originals: dict[Store, Path], tmp_path: Path) -> None:
    out = tmp_path / "converted"
    convert(originals[Store.PNG], out, "zarr")
    flip(min(out.glob("patches.zarr/*/*/c/0/0/0/0")))
    assert not can_repair(out)
    with pytest.raises(InputError, match="was converted from"):
        mend(out)


def test_files_that_somebody_added_stay(out: Path) -> None:
    stray = first_patch(out).with_name("their_own.png")
    shutil.copyfile(first_patch(out), stray)
    first_patch(out).unlink()
    with pytest.raises(IntegrityError, match=rf"1 file belongs to nobody, .*: {stray}\. Nothing was changed"):
        mend(out)
    assert stray.exists()


def test_links_are_never_followed(out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    folder = first_patch(out).parent
    shutil.move(folder, elsewhere)
    folder.symlink_to(elsewhere)
    flip(min(elsewhere.iterdir()))
    with pytest.raises(IntegrityError, match="a link that leads out of the folder"):
        mend(out)
    file = DamagedFile(slide_id=SLIDE, part="block 0", path=min(folder.iterdir()), is_missing=False)
    with pytest.raises(IntegrityError, match="lies outside"):
        delete_damaged(out, (file,))
    assert min(elsewhere.iterdir()).exists()


def test_a_repair_that_was_interrupted_is_taken_up_again(originals: dict[Store, Path], out: Path) -> None:
    @contextmanager
    def stopping(config: RunConfig) -> Iterator[Executor]:
        with open_executor(config) as executor:
            yield _Stopping(executor)

    flip(first_patch(out))
    with pytest.raises(StoppedError):
        mend(out, executor=stopping)
    assert not (out / MANIFEST).exists()
    result = mend(out)
    assert result.report.is_sound
    assert result.content_before == result.report.content_sha256 != ""
    assert same_as(originals[Store.PNG], out)


class _Stopping:
    """Stops in the middle of the extraction."""

    def __init__(self, executor: Executor) -> None:
        self.n_workers, self.worker_memory_bytes = executor.n_workers, executor.worker_memory_bytes
        self._executor = executor

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        for result in self._executor.run(tasks):
            if result.task.stage == "extract":
                raise StoppedError
            yield result


SETTINGS = [
    {},
    {"stride_px": 40, "sampling": "grid"},
    {"overlap": 0.25, "sampling": "grid"},
    {"point_box_um": 12.0, "mpp": 0.5},
    {"mixture": "midog", "annotation_types": ["spot", "area"], "category_map": {"2": "target"}},
    {"train_slides": ["a", 7], "val_slides": ["b"], "group_regex": "(.)"},
    {"store": "zarr", "codec": "none"},
    {"store": "pixels", "coverage": "tissue"},
    {"split_mode": "half", "guard_px": 8, "level": 0, "max_repeats_per_anchor": 3},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_are_rebuilt_from_what_a_run_noted(tmp_path: Path, settings: Json) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=1)
    config = make_config(inputs, tmp_path / "out", **settings)
    noted = json.loads(json.dumps(config.output_settings()))
    places = {name: str(getattr(config, name)) for name in ("wsi_dir", "annotation_json")}
    evidence = Evidence(
        manifest={"run": {"locations": places}}, is_manifest_sound=False, run={"settings": noted, "slides": {}}
    )
    request = RepairRequest(output_dir=config.output_dir, locations={})
    assert _config_of(request, evidence).output_settings() == config.output_settings()


def test_settings_of_another_version_are_refused(out: Path) -> None:
    found = read_evidence(out)
    settings = {**found.settings, "seed": 7, "unheard_of": None}
    evidence = Evidence(manifest=found.manifest, is_manifest_sound=False, run={**found.run, "settings": settings})
    with pytest.raises(ConfigError, match="another version"):
        _config_of(RepairRequest(output_dir=out, locations={}), evidence)


def test_damage_is_told_slide_by_slide(tmp_path: Path) -> None:
    def file(slide_id: str, part: str, *, is_missing: bool) -> DamagedFile:
        return DamagedFile(slide_id=slide_id, part=part, path=tmp_path, is_missing=is_missing)

    damage = [file("a", f"block {n}", is_missing=n % 2 == 0) for n in range(10)] + [file("b", "plan", is_missing=False)]
    first, second = describe_damage(damage)
    assert first.startswith("slide a: 5 damaged, 5 missing files of block 0, block 1,")
    assert first.endswith("block 7 and 2 more")
    assert second == "slide b: 1 damaged, 0 missing files of plan"


def test_a_pixel_store_without_records_and_plan_is_mended(originals: dict[Store, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(originals[Store.PIXELS], tmp_path / "out"))
    shutil.rmtree(out / ".wsi_extract" / "plans")
    shutil.rmtree(out / ".wsi_extract" / "pixels")
    assert mend(out).report.problems == ()
    assert same_as(originals[Store.PIXELS], out)


def test_further_input_is_found_where_it_was(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=2)
    groups = tmp_path / "groups.csv"
    groups.write_text("slide,group\nslide_1.svs,p1\nslide_2.svs,p2\n")
    extract(inputs, tmp_path / "out", group_csv=str(groups), train_val_split=0.5, patches_per_slide=2, patch_size=32)
    flip(min((tmp_path / "out").glob("*2017/*/*.png")))
    assert mend(tmp_path / "out").report.is_sound
