"""Config files and programs that a job is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.helpers_config import problems_of
from wsi_extract.azure_job.job_plan import JobPlan, plan_job
from wsi_extract.azure_job.settings import JobSettings, load_job_settings

ROOT = Path(__file__).resolve().parents[2]
SUBSCRIPTION = "01234567-89ab-cdef-0123-456789abcdef"
TRIPLE: Mapping[str, object] = {
    "subscription_id": SUBSCRIPTION,
    "resource_group": "rg-pathology",
    "workspace_name": "ws-pathology",
}
EXACT_COMMAND = (
    r'bash -c "set -e; set -x; echo START; ls -F \"${{inputs.wsi_data}}\"; python -u run_extraction.py '
    r"--wsi_dir \"${{inputs.wsi_data}}/WSI\" "
    r"--annotation_json \"${{inputs.wsi_data}}/databases/MITOS_WSI_CCMCT_HEAEL.json\" "
    r"--output_dir \"${{outputs.patch_dataset}}\" "
    r'--patches_per_slide 100 --patch_size 256 --train_val_split 0.8 --seed 42; echo DONE"'
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample me@example.org"
ALL: dict[str, object] = {
    "nodes": 4,
    "trusted_network": True,
    "output": {
        "mode": "rw_mount",
        "name": "wsi-patches",
        "version": 3,
        "path": "azureml://datastores/blob/paths/${{name}}/",
    },
    "tags": {"owner": "pathology", "round": 2},
    "environment_variables": {"DATASET_MOUNT_BLOCK_BASED_CACHE_ENABLED": True, "A": "x: y # z\n'\""},
    "timeout_s": 21600,
    "services": ["vscode", "jupyterlab", "ssh"],
    "ssh_public_key": KEY,
    "data_mode": "download",
    "display_name": "Mitosen: Größe 256",
}
"""Every setting of a job, none at its default."""


def config_file(folder: Path, **keys: object) -> Path:
    """Write a config file with a workspace; keys replace or are added at the top level."""
    path = folder / "config.json"
    path.write_text(json.dumps({**TRIPLE, **keys}))
    return path


def settings_of(folder: Path, *overrides: str, **keys: object) -> JobSettings:
    return load_job_settings(config_file(folder, **keys), overrides=overrides)


def refusal(folder: Path, *overrides: str, **keys: object) -> str:
    """Return the message that settings are refused with."""
    return problems_of(lambda: settings_of(folder, *overrides, **keys))


def plan_of(folder: Path, *overrides: str, **keys: object) -> JobPlan:
    return plan_job(settings_of(folder, *overrides, **keys), root=program(folder / "program"))


def program(root: Path) -> Path:
    """Write a small program of the right form, with files around it that are none of a job's business."""
    texts = {
        "run_extraction.py": "print('extract')\n",
        "config.json": "{}",
        "requirements.txt": "numpy\n",
        "wsi_extract/__init__.py": "",
        "wsi_extract/stores/png.py": "x = 1\n",
        "wsi_extract/stores/schema.json": "{}",
    }
    junk = {
        ".git/config": "password",
        ".venv/lib/config.json": "{}",
        ".venv/lib/wsi_extract/__init__.py": "",
        "sub/config.json": "{}",
        "sub/run_extraction.py": "",
        "out/train/a.png": "png",
        "WSI/a.svs": "svs",
        "notes.txt": "",
        "wsi_extract/__pycache__/a.cpython-311.pyc": "",
        "wsi_extract/stores/__pycache__/notes.txt": "",
        "wsi_extract/old.pyc": "",
        "__pycache__/run_extraction.cpython-311.pyc": "",
    }
    for name, text in {**texts, **junk}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


PROGRAM_NAMES = [
    "config.json",
    "requirements.txt",
    "run_extraction.py",
    "wsi_extract/__init__.py",
    "wsi_extract/stores/png.py",
    "wsi_extract/stores/schema.json",
]
"""What a job needs of `program`."""
