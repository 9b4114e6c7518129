from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.azure.helpers_job import EXACT_COMMAND, ROOT, config_file, refusal, settings_of
from tests.helpers_config import problems_of
from wsi_extract.azure_job.command import build_command, check_command
from wsi_extract.azure_job.settings import load_job_settings
from wsi_extract.config_sources import parse_flag
from wsi_extract.errors import ConfigError

HOSTILE = {
    "a double quote": 'a"b',
    "an escaped quote": r"a\"b",
    "a single quote": "a'b",
    "a substitution": "$(touch x)",
    "backticks": "`touch x`",
    "a variable": "$HOME",
    "a semicolon": "a;ls",
    "a line end": "a\nb",
    "a star": "a*",
    "a space": "a b",
    "a tab": "a\tb",
    "a placeholder": "${{inputs.wsi_data}}",
    "braces": "{a,b}",
    "a pipe": "a|b",
    "an ampersand": "a&b",
    "a hash": "#a",
    "a tilde": "~root",
    "an exclamation mark": "a!b",
    "a redirection": "a>b",
    "a backslash": "a\\b",
    "a question mark": "a?",
    "brackets": "[ab]",
    "a line separator": "a\u2028b",
    "a space of another kind": "a\u00a0b",
}


def test_the_command_is_the_one_that_was_asked_for() -> None:
    assert build_command(load_job_settings(ROOT / "config.json")) == EXACT_COMMAND


def test_values_of_the_command_come_from_both_objects_and_the_command_line(tmp_path: Path) -> None:
    extraction: dict[str, object] = {"patches_per_slide": 10, "patch_size": 512, "train_val_split": 1, "seed": 3}
    given_in_file = settings_of(tmp_path, extraction=extraction, job={"seed": 4})
    assert "--patches_per_slide 10 --patch_size 512 --train_val_split 1.0 --seed 4;" in build_command(given_in_file)
    replaced = settings_of(tmp_path, "job.seed=5", "extraction.patch_size=64", extraction=extraction, job={"seed": 4})
    assert "--patches_per_slide 10 --patch_size 64 --train_val_split 1.0 --seed 5;" in build_command(replaced)


def test_further_flags_follow_in_the_order_they_were_given(tmp_path: Path) -> None:
    overrides = [
        "extraction.store=zarr",
        "extraction.fresh=true",
        "extraction.mixture=[0.5, 0, 0.5]",
        "extraction.mpp=0.5",
    ]
    command = build_command(settings_of(tmp_path, *overrides))
    assert '--seed 42 --store zarr --fresh --mixture 0.5,0.0,0.5 --mpp 0.5; echo DONE"' in command


def test_certificates_of_several_nodes_lie_in_the_data_asset(tmp_path: Path) -> None:
    command = build_command(settings_of(tmp_path, job={"nodes": 2, "tls_dir": "certificates/2026"}))
    assert r"--seed 42 --tls_ca_file \"${{inputs.wsi_data}}/certificates/2026/ca.pem\" --tls_cert \"" in command
    assert "tls" not in build_command(settings_of(tmp_path, job={"nodes": 2, "trusted_network": True}))


@pytest.mark.parametrize("key", ["wsi_dir", "annotation_json", "tls_dir"])
@pytest.mark.parametrize(
    "text", [*HOSTILE.values(), "a\n", "", "/WSI", "../WSI", "a/../../b"], ids=[*HOSTILE, *"01234"]
)
def test_hostile_places_are_refused(tmp_path: Path, key: str, text: str) -> None:
    found = refusal(tmp_path, job={"nodes": 2, "trusted_network": True, key: text})
    assert f"job.{key}: " in found
    assert len(found.splitlines()) == 2


@pytest.mark.parametrize("text", [*HOSTILE.values(), "-a", "--fresh"], ids=[*HOSTILE, "a flag", "a whole flag"])
@pytest.mark.parametrize("key", ["val_slides", "group_regex", "group_csv", "category_map"])
def test_hostile_values_of_settings_are_refused(tmp_path: Path, key: str, text: str) -> None:
    found = refusal(tmp_path, f"extraction.{key}={text}")
    assert f"--set extraction.{key}: " in found or "there is no file" in found or "is not below" in found


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("key", ["patches_per_slide", "patch_size", "train_val_split", "seed"])
def test_hostile_numbers_are_refused(tmp_path: Path, key: str, text: str) -> None:
    assert f"extraction.{key}: " in refusal(tmp_path, extraction={key: text})
    assert f"job.{key}: " in refusal(tmp_path, job={key: text})
    assert f"--set extraction.{key}: " in refusal(tmp_path, f"extraction.{key}={text}")


CHECKED = {
    "collapsed braces": (
        EXACT_COMMAND.replace("${{inputs.wsi_data}}", "${inputs.wsi_data}"),
        "input wsi_data is not used",
    ),
    "one collapsed": (EXACT_COMMAND.replace("${{inputs.wsi_data}}", "${inputs.wsi_data}", 1), "${inputs.wsi_data}"),
    "what the SDK makes of it": (EXACT_COMMAND.replace("${{in", "$${{in", 1), '"$'),
    "spaces inside": (
        EXACT_COMMAND.replace("{{inputs.wsi_data}}", "{{ inputs.wsi_data }}", 1),
        "{{ inputs.wsi_data }}",
    ),
    "an unknown output": (EXACT_COMMAND + "${{outputs.x}}", "the output x is not declared"),
    "an unknown kind": (EXACT_COMMAND + "${{parent.inputs.x}}", "parent.inputs.x"),
    "an exit code": (EXACT_COMMAND + "; exit $?", "; exit $?"),
    "backticks": (EXACT_COMMAND + "`ls`", "`ls`"),
    "a line end": (EXACT_COMMAND + "\n", r"\\n"),
    "nothing": ("", "is not used"),
}


@pytest.mark.parametrize(("command", "message"), CHECKED.values(), ids=CHECKED)
def test_commands_that_would_be_changed_on_their_way(command: str, message: str) -> None:
    found = problems_of(lambda: check_command(command, inputs=["wsi_data"], outputs=["patch_dataset"]))
    assert message in found


@given(st.text(max_size=6))
def test_nothing_but_placeholders_holds_dollars_and_braces(text: str) -> None:
    is_harmless = re.search(r"[${}`\x00-\x1f\x7f]", text) is None
    try:
        check_command(EXACT_COMMAND + text, inputs=["wsi_data"], outputs=["patch_dataset"])
    except ConfigError:
        assert not is_harmless
    else:
        assert is_harmless


class Node:
    """Runs commands as a node does: folders in place of placeholders, the service's shell, then bash."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output = folder / "wd" / "INPUT_wsi_data", folder / "wd" / "patch_dataset"
        for path in (self.input / "WSI", self.output, folder / "bin", folder / "code"):
            path.mkdir(parents=True)
        self.code, self.bin = folder / "code", folder / "bin"
        (self.bin / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        (self.bin / "python").chmod(0o755)
        (self.code / "run_extraction.py").write_text("import json, sys; print('ARGV', json.dumps(sys.argv[1:]))\n")

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        text = command.replace("${{inputs.wsi_data}}", str(self.input))
        text = text.replace("${{outputs.patch_dataset}}", str(self.output))
        environ = {"PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin"}
        return subprocess.run(
            ["/bin/sh", "-c", text], cwd=self.code, env=environ, capture_output=True, text=True, check=False
        )

    def argv_of(self, command: str) -> list[str]:
        result = self.run(command)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert (lines[0], lines[1], lines[-1]) == ("START", "WSI/", "DONE")
        words: list[str] = json.loads(lines[-2].removeprefix("ARGV "))
        return words

    def expected(self, wsi_dir: str, annotation_json: str, more: Sequence[str]) -> list[str]:
        places = [f"{self.input}/{wsi_dir}", "--annotation_json", f"{self.input}/{annotation_json}"]
        return ["--wsi_dir", *places, "--output_dir", str(self.output), *more]


def test_a_shell_makes_the_right_arguments_of_the_command(tmp_path: Path) -> None:
    node = Node(tmp_path)
    more = ["--patches_per_slide", "100", "--patch_size", "256", "--train_val_split", "0.8", "--seed", "42"]
    assert node.argv_of(EXACT_COMMAND) == node.expected("WSI", "databases/MITOS_WSI_CCMCT_HEAEL.json", more)


def test_a_failing_program_ends_the_command_with_its_own_code(tmp_path: Path) -> None:
    node = Node(tmp_path)
    (node.code / "run_extraction.py").write_text("raise SystemExit(5)")
    result = node.run(EXACT_COMMAND)
    assert result.returncode == 5
    assert "DONE" not in result.stdout.splitlines()


SAFE = st.builds(str.__add__, st.sampled_from("aZ0_.:=%+"), st.text("abXY09_./:=@%+,-", max_size=12))
PLACES = st.builds(str.__add__, st.sampled_from("aZ0_.:=@%+,-é"), st.text("abXY09_./:=@%+,-éß", max_size=12))


@settings(max_examples=25, deadline=None)
@given(
    wsi_dir=PLACES,
    annotation_json=PLACES,
    names=st.lists(SAFE, min_size=1, max_size=3),
    regex=SAFE,
    seed=st.integers(0, 10**9),
)
def test_whatever_is_accepted_reaches_the_program_as_it_is(
    tmp_path_factory: pytest.TempPathFactory,
    wsi_dir: str,
    annotation_json: str,
    names: list[str],
    regex: str,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("node")
    path = config_file(folder, job={"wsi_dir": wsi_dir, "annotation_json": annotation_json, "seed": seed})
    overrides = [f"extraction.val_slides={','.join(names)}", f"extraction.group_regex={regex}"]
    try:
        job = load_job_settings(path, overrides=overrides)
    except ConfigError:
        return
    node = Node(folder)
    argv = node.argv_of(build_command(job))
    flags = [word for name, text in job.flags for word in (f"--{name}", text)]
    assert argv == node.expected(wsi_dir, annotation_json, flags)
    found = dict(zip(argv[::2], argv[1::2], strict=True))
    assert parse_flag("val_slides", found["--val_slides"]) == list(job.run.val_slides)
    assert parse_flag("group_regex", found["--group_regex"]) == regex
    assert int(found["--seed"]) == seed
