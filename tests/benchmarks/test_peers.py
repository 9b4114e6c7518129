from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.patch_list import PatchList, SlidePatches, write_patch_list
from benchmarks.peers.__main__ import all_ours, install_peers
from benchmarks.peers.catalogue import LEFT_OUT, PEERS, Peer
from benchmarks.peers.comparison import Comparison, Figures, Ours, Steps, compare_peers
from benchmarks.peers.environments import (
    Environment,
    UnavailablePeerError,
    ensure_environment,
    find_python,
    reason_of,
)
from benchmarks.peers.same_patches import OtherPatchesError, most_different, names_of, without_far_edges
from benchmarks.peers.scripts.loop import Tool, make_patches
from benchmarks.peers.tables import PLOT, result_of
from benchmarks.results import read_result, write_result
from benchmarks.rounds import Rounds
from benchmarks.scanned_slides import scanned_slide
from tests.helpers_run import make_dataset
from tests.helpers_slides import write_position_slide
from wsi_extract.arrays import RgbImage
from wsi_extract.dataset import open_dataset

HERE = Environment(python=Path(sys.executable), version="here")
BY_SCRIPT = {peer.script: peer for peer in PEERS}


# --- catalogue and environments


def test_catalogue_names_every_script_once() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "peers" / "scripts"
    scripts = {path.stem for path in folder.glob("*.py")} - {"__init__", "loop"}
    assert sorted(peer.script for peer in PEERS) == sorted(scripts)
    assert len({peer.name for peer in PEERS} | set(LEFT_OUT)) == len(PEERS) + len(LEFT_OUT)


def test_python_is_this_one_or_one_of_the_wanted_version() -> None:
    major, minor = sys.version_info[:2]
    assert find_python(None) == Path(sys.executable)
    assert find_python(f"{major}.{minor}") == Path(sys.executable)
    with pytest.raises(UnavailablePeerError, match=r"there is no Python 2\.0"):
        find_python("2.0")


def test_environment_is_made_once_and_what_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    works = Peer(name="works", distribution="pip", script="loop", pip=())
    fails = replace(works, name="fails", pip=(("--no-index", "no-such-program"),))
    elsewhere = replace(works, name="elsewhere", python="2.0")
    ready, missing = install_peers([works, fails, elsewhere], cache=tmp_path)
    assert [peer.name for peer, _ in ready] == ["works"]
    assert "no-such-program" in missing["fails"]
    assert missing["elsewhere"] == "there is no Python 2.0, which it needs"
    environment = ready[0][1]
    assert environment.version[0].isdigit()
    assert [path.name for path in tmp_path.iterdir()] == [environment.python.parents[1].name]
    before = environment.python.lstat().st_mtime_ns
    assert ensure_environment(works, cache=tmp_path) == environment
    assert environment.python.lstat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            "WARNING: an error of a mirror\nCollecting x\nERROR: No matching distribution",
            "ERROR: No matching distribution",
        ),
        ("OSError: no libgeos\nnote: This error originates from a subprocess", "OSError: no libgeos"),
        ("first\nlast\n", "last"),
        ("", "it failed without a word"),
    ],
    ids=["pip", "build", "no error", "silent"],
)
def test_reason_is_the_line_that_says_most(printed: str, reason: str) -> None:
    assert reason_of(printed) == reason


# --- the loop


def saver(rgb: RgbImage) -> Callable[[str, int], Tool[RgbImage]]:
    def open_slide(path: str, patch_px: int) -> Tool[RgbImage]:
        return Tool(
            read=lambda x, y: rgb[y : y + patch_px, x : x + patch_px],
            save=lambda patch, name: Image.fromarray(patch).save(name),
        )

    return open_slide


def test_loop_saves_every_patch_and_counts_both_steps(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    origins = np.array([[0, 0], [16, 0], [16, 32]], dtype=np.int64)
    patches = PatchList(patch_px=32, slides=(SlidePatches(path=tmp_path / "a.svs", origins_l0=origins),))
    write_patch_list(tmp_path / "patches.json", patches)
    flags = [f"--{name}={tmp_path / file}" for name, file in (("patches", "patches.json"), ("out", "out"))]
    make_patches(saver(rgb), [*flags, f"--figures={tmp_path / 'figures.json'}"])
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
    assert [name for name in found if name.endswith(".png")] == sorted(names_of(patches))
    with Image.open(tmp_path / "out" / "a" / "a_x16_y32.png") as image:
        assert np.array_equal(np.asarray(image), rgb[32:64, 16:48])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures) == {"read_s", "save_s"}
    assert figures["save_s"] > 0


# --- the same patches


def write_pngs(dataset: Path, folder: Path) -> list[str]:
    patches = open_dataset(dataset, "train", "png")
    names = [patches.index.file_name(number) for number in range(len(patches))]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patches.read(number)).save(folder / name)
    return names


def add_to_red(path: Path, levels: int) -> None:
    with Image.open(path) as image:
        rgb = np.array(image)
    rgb[0, 0, 0] = rgb[0, 0, 0] + levels if rgb[0, 0, 0] < 128 else rgb[0, 0, 0] - levels
    Image.fromarray(rgb).save(path)


def test_pixels_are_compared_with_the_extraction(tmp_path: Path) -> None:
    dataset, folder = make_dataset(tmp_path), tmp_path / "pngs"
    names = write_pngs(dataset, folder)
    assert most_different(dataset, folder, names=names, allowed=0) == 0
    add_to_red(folder / names[0], 2)
    assert most_different(dataset, folder, names=names, allowed=2) == 2
    with pytest.raises(OtherPatchesError, match=r"differs by up to 2 grey levels"):
        most_different(dataset, folder, names=names, allowed=1)


def test_missing_other_and_misshapen_patches_are_refused(tmp_path: Path) -> None:
    dataset, folder = make_dataset(tmp_path), tmp_path / "pngs"
    names = write_pngs(dataset, folder)
    with pytest.raises(OtherPatchesError, match=f"{len(names)} patches were made where {len(names) - 1} are wanted"):
        most_different(dataset, folder, names=names[1:], allowed=2)
    Image.new("RGB", (3, 3)).save(folder / names[0])
    with pytest.raises(OtherPatchesError, match=r"has the shape \(3, 3, 3\)"):
        most_different(dataset, folder, names=names, allowed=255)


def test_patches_at_the_far_edges_are_left_out(tmp_path: Path) -> None:
    slide = tmp_path / "slide.tif"
    write_position_slide(slide, width_px=1000, height_px=800, downsamples=(1,))
    origins = np.array([[0, 0], [743, 543], [744, 0], [0, 544], [744, 544]], dtype=np.int64)
    patches = PatchList(patch_px=256, slides=(SlidePatches(path=slide, origins_l0=origins),))
    assert without_far_edges(patches).slides[0].origins_l0.tolist() == [[0, 0], [743, 543]]


# --- the comparison


def test_programs_are_compared_with_this_package(tmp_path: Path) -> None:
    slide = scanned_slide(tmp_path / "slides", width_px=1000, height_px=800)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    comparison = compare_peers(
        slide,
        overlap=0.0,
        ours=[Ours(name="ours")],
        peers=[(BY_SCRIPT["openslide_opencv"], HERE), (BY_SCRIPT["histolab_tile"], HERE)],
        n_rounds=1,
        scratch=scratch,
    )
    assert [each.name for each in comparison.ours] == ["ours"]
    assert [each.name for each in comparison.peers] == ["OpenSlide and OpenCV"]
    assert "histolab" in comparison.refused["histolab extract_tile"]
    everyone = (*comparison.ours, comparison.naive, *comparison.peers)
    assert len({each.n_patches for each in everyone}) == 1
    assert all(each.n_patches > 0 and each.n_bytes > 0 and each.most_different == 0 for each in everyone)
    steps = comparison.peers[0].steps
    assert steps is not None
    assert 0 < steps.read_s + steps.save_s < comparison.peers[0].rounds.cpu_median_s


def test_first_of_ours_is_the_default() -> None:
    ours = all_ours()
    assert ours[0] == Ours(name="wsi_extract")
    assert "wsi_extract, opencv" in [each.name for each in ours]


# --- the report


def figures_of(name: str, cpu_s: float, *, steps: Steps | None = None, n_patches: int = 1000) -> Figures:
    rounds = Rounds(wall_s=(cpu_s,), cpu_s=(cpu_s,), peak_bytes=100_000_000)
    return Figures(
        name=name, version="1.0", n_patches=n_patches, rounds=rounds, n_bytes=10**8, steps=steps, most_different=0
    )


NAMES = ("ours", "ours, fast")


def comparison_of(*peers: Figures) -> Comparison:
    naive = figures_of("naive", 12.0)
    ours = (figures_of("ours", 1.0), figures_of("ours, fast", 0.5))
    return Comparison(overlap=0.5, ours=ours, naive=naive, peers=peers, refused={"odd": "other pixels"})


def test_report_orders_programs_and_says_where_the_target_is_missed(tmp_path: Path) -> None:
    slow = figures_of("slow", 20.0, steps=Steps(read_s=4.0, save_s=14.0))
    near = figures_of("near", 2.0, n_patches=500)
    result, plots = result_of([comparison_of(slow, near)], left_out={"big": "too big"}, conditions=["one"], notes=[])
    table, missing = result.tables
    assert [row[0] for row in table.rows] == ["ours", "ours, fast", "near", "naive", "slow"]
    by_name = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert by_name["near"]["x ours"] == "4.0"  # 2 s for half of the patches
    slow_row = by_name["slow"]
    assert [slow_row[key] for key in ("start", "read", "save", "x ours", "x ours, fastest", "loop alone")] == [
        "2.00",
        "4.00",
        "14.00",
        "20.0",
        "40.0",
        "18.0",
    ]
    assert missing.rows == (("odd", "other pixels"), ("big", "too big"))
    notes = [note for note in result.notes if "the target" in note]
    assert all(note.startswith(f"At an overlap of 50% {name} reaches") for name, note in zip(NAMES, notes, strict=True))
    assert "against 1 of 2 programs, not against near (4.0)." in notes[0]
    assert "against every program; the nearest is near (8.0)." in notes[1]
    path = write_result(tmp_path, result, plots=plots)
    assert read_result(path).tables == result.tables
    assert (tmp_path / PLOT).read_text().startswith("<svg")


def test_report_says_when_nobody_was_there() -> None:
    notes = result_of([comparison_of()], left_out={}, conditions=[], notes=[])[0].notes
    assert any("no other program was measured" in note for note in notes)
