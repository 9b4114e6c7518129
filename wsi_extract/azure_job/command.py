r"""The command line of a job: the one text that the service edits, two shells read and Python gets.

The service first replaces ``${{inputs.NAME}}`` and ``${{outputs.NAME}}`` by folders, as text; then its shell reads the
line, and then ``bash -c`` reads what stands between the quotes. So the line holds constant fragments, placeholders,
and values of a few harmless characters, and is never the result of formatting: that would take one pair of braces off.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from wsi_extract.azure_job.job_config import SAFE_PATH
from wsi_extract.azure_job.overrides import problem_of_literal
from wsi_extract.azure_job.settings import JobSettings
from wsi_extract.config_problems import shortened
from wsi_extract.errors import ConfigError
from wsi_extract.printable import as_one_line

INPUT_NAME, OUTPUT_NAME = "wsi_data", "patch_dataset"
INPUT = "${{inputs." + INPUT_NAME + "}}"
OUTPUT = "${{outputs." + OUTPUT_NAME + "}}"
BEGIN = 'bash -c "set -e; set -x; echo START; ls -F ' + r"\"" + INPUT + r"\"" + "; python -u run_extraction.py"
END = '; echo DONE"'
PLACEHOLDER = re.compile(r"\$\{\{(inputs|outputs)\.([A-Za-z_][A-Za-z0-9_]*)\}\}")
SHELL_CHARACTERS = re.compile(r".{0,20}[${}`\x00-\x1f\x7f].{0,40}", re.DOTALL)
TLS_FILES: Mapping[str, str] = {"tls_ca_file": "ca.pem", "tls_cert": "cert.pem", "tls_key": "key.pem"}
"""Files of the folder ``job.tls_dir``, by the flag that names them."""


def build_command(settings: JobSettings) -> str:
    """Return the command of the job, one line.

    Raises
    ------
    ConfigError
        When a value would not reach the program as it is.
    """
    job = settings.job
    flags = [
        ("wsi_dir", _in_input("job.wsi_dir", job.wsi_dir)),
        ("annotation_json", _in_input("job.annotation_json", job.annotation_json)),
        ("output_dir", _quoted(OUTPUT)),
    ]
    flags += [(name, _checked(name, value)) for name, value in settings.flags]
    if job.is_encrypted:
        flags += [(name, _in_input("job.tls_dir", f"{job.tls_dir}/{file}")) for name, file in TLS_FILES.items()]
    words = [BEGIN, *(" --" + name + (" " + value if value else "") for name, value in flags), END]
    command = "".join(words)
    check_command(command, inputs=(INPUT_NAME,), outputs=(OUTPUT_NAME,))
    return command


def check_command(command: str, *, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Refuse a command in which the service or a shell would replace anything but the declared folders.

    Raises
    ------
    ConfigError
        When a placeholder is unknown, one is missing, or a character is left that a shell acts on within quotes.
    """
    found = {(match[1], match[2]) for match in PLACEHOLDER.finditer(command)}
    declared = {("inputs", name) for name in inputs} | {("outputs", name) for name in outputs}
    for kind, name in sorted(found ^ declared):
        fault = "is not used in" if (kind, name) in declared else "is not declared, but used in"
        raise ConfigError(f"the {kind[:-1]} {name} {fault} the command {shortened(command, most=600)}")
    rest = PLACEHOLDER.sub("", command)
    if (match := SHELL_CHARACTERS.search(rest)) is not None:
        raise ConfigError(
            f"the command holds {as_one_line(match[0])!r}, which the service or a shell would change.",
            "Only whole placeholders as " + INPUT + " may hold $, { and }.",
        )


def _quoted(text: str) -> str:
    return r"\"" + text + r"\""


def _in_input(key: str, path: str) -> str:
    """Return the path of something in the data asset, as the program gets it."""
    if SAFE_PATH.fullmatch(path) is None:
        raise ConfigError(f"{key}: {as_one_line(shortened(path))} cannot stand on the command line of a job.")
    return _quoted(INPUT + "/" + path)


def _checked(name: str, value: str) -> str:
    problem = problem_of_literal(value) if value else ""
    if problem:
        raise ConfigError(f"extraction.{name}: {problem}.")
    return value
