from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.jobs import GRID, Job
from benchmarks.sampled_run import main as run_sampled
from benchmarks.stage_rules import RULES, Stage, stage_of, sum_stages
from benchmarks.stages import compare_stages, describe, main, sample_job, stages_plot
from wsi_extract.synthetic import write_demo

ROOT = Path(__file__).resolve().parents[2]
EXTRACT = "/x/run_extraction.py:main;/x/wsi_extract/pipeline.py:run;/x/wsi_extract/extract.py:extract_block"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    demo = write_demo(tmp_path_factory.mktemp("demo"), n_slides=1, width_px=1600, height_px=1200)
    return Job(name="PNG", slides=demo.slides_folder, annotations=demo.coco_path, settings=GRID)


@pytest.mark.parametrize(
    ("stack", "stage"),
    [
        pytest.param("python:start", Stage.START, id="before the first line"),
        pytest.param("/x/wsi_extract/survey.py:f;<frozen importlib._bootstrap>:_load", Stage.START, id="late import"),
        pytest.param("/wsi_extract/survey.py:f;/wsi_extract/slides/opened_slide.py:g", Stage.SURVEY, id="reads too"),
        pytest.param(f"{EXTRACT};/x/wsi_extract/stores/png.py:write_patches", Stage.WRITE, id="write"),
        pytest.param(
            f"{EXTRACT};/x/wsi_extract/stores/png.py:write_patches;/x/wsi_extract/extract.py:read_patches;"
            "/x/wsi_extract/slides/tiled_jpeg.py:Reader.read",
            Stage.DECODE,
            id="a generator inside the writer",
        ),
        pytest.param(
            f"{EXTRACT};/x/wsi_extract/stores/png.py:write_patches;/x/wsi_extract/stores/png.py:encode_png",
            Stage.ENCODE,
            id="encode",
        ),
        pytest.param(
            f"{EXTRACT};/x/wsi_extract/stores/shards.py:ShardWriter._append;line:self._digest.update(data)",
            Stage.DIGEST,
            id="two native calls of one function",
        ),
        pytest.param(f"{EXTRACT};/x/wsi_extract/disk/files.py:write_atomically", Stage.RECORD, id="record"),
        pytest.param("/x/run_extraction.py:main", Stage.SCHEDULE, id="driver"),
        pytest.param("/y/elsewhere.py:f", Stage.OTHER, id="other"),
    ],
)
def test_stacks_belong_to_stages(stack: str, stage: Stage) -> None:
    assert stage_of(stack) is stage


def test_rules_name_what_there_is() -> None:
    """A module or function that was renamed would silently go to another stage."""
    shards = (ROOT / "wsi_extract/stores/shards.py").read_text()
    for _, beginnings in RULES:
        for beginning in beginnings:
            kind, _, name = beginning.partition(":")
            if kind == "line":
                assert name in shards
            elif beginning.endswith("/"):
                assert (ROOT / beginning).is_dir()
            elif not beginning.startswith(("<", "python:")):
                source = (ROOT / kind).read_text()
                last = name.rpartition(".")[2]
                assert re.search(rf"(def|class) {last}", source), f"{beginning} is no longer there"


def test_times_are_summed_by_stage() -> None:
    document: dict[str, dict[str, float] | float] = {
        "cpu_s": {"python:start": 0.5, f"{EXTRACT};/x/wsi_extract/stores/codecs.py:encode": 2.0, "/y.py:f": 0.25},
        "wall_s": {"/y.py:f": 1.0},
        "other_threads_cpu_s": 0.125,
    }
    times = sum_stages(document)
    assert times.cpu_s[Stage.ENCODE] == 2.0
    assert times.wall_s[Stage.OTHER] == 1.0
    assert times.total_cpu_s == pytest.approx(2.875)
    with pytest.raises(TypeError, match="samples"):
        sum_stages({"cpu_s": 1.0, "wall_s": {}, "other_threads_cpu_s": 0.0})


def test_the_samples_of_a_run_add_up_to_its_time(job: Job, tmp_path: Path) -> None:
    runs = {"PNG": [sample_job(job, scratch=tmp_path, core=0)]}
    (run,) = runs["PNG"]
    assert run.n_patches > 10
    assert 0.5 * run.process.wall_s < sum(run.times.wall_s.values()) <= run.process.wall_s
    busiest = sorted(Stage, key=lambda stage: run.times.cpu_s[stage])[-3:]
    assert Stage.START in busiest
    assert run.times.cpu_s[Stage.ENCODE] > 0
    assert run.times.cpu_s[Stage.OTHER] < 0.1 * run.times.total_cpu_s
    result = describe(runs, conditions=["Here."])
    assert "| encode " in result.to_markdown()
    assert "encode" in stages_plot(runs)
    assert not list(tmp_path.glob("out*"))


def test_jobs_with_workers_cannot_be_looked_at(job: Job, tmp_path: Path) -> None:
    parallel = Job(name="x", slides=job.slides, annotations=job.annotations, n_workers=2)
    with pytest.raises(ValueError, match="only serial"):
        compare_stages([parallel], scratch=tmp_path, n_rounds=1, seed=0)


def test_sampled_run_needs_a_file_and_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_sampled(["out.json"]) == 2
    assert "usage" in capsys.readouterr().err


def test_command_writes_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.stages.CASES", {"Zarr": (*GRID, "--store", "zarr")})
    size = ["--width-px", "1000", "--height-px", "800", "--rounds", "1"]
    assert main(["--out", str(tmp_path), "--slides", str(tmp_path), "--scratch", str(tmp_path / "s"), *size]) == 0
    assert "| encode" in capsys.readouterr().out
    figures = json.loads((tmp_path / "stages.json").read_bytes())["figures"]
    assert figures["Zarr"]["cpu_ms_per_patch"]["encode"] > 0
    assert (tmp_path / "stages.svg").read_text().startswith("<svg")
