"""An ``az`` for the search path: it answers ``az account get-access-token`` and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

from tests.azure.routes import TOKEN

_SCRIPT = """#!{python} -IS
import json, sys
with open({calls!r}, "a", encoding="utf-8") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
arguments = sys.argv[1:]
if arguments[:2] != ["account", "get-access-token"]:
    sys.exit(f"az: {{arguments}} is misspelled or not recognized by the system.")
if {is_logged_out!r}:
    sys.exit("ERROR: Please run 'az login' to setup account.")
if "--resource" not in arguments:
    sys.exit("az: --resource is missing")
tenant = arguments[arguments.index("--tenant") + 1] if "--tenant" in arguments else "common"
print(json.dumps({{
    "accessToken": {token!r},
    "expiresOn": "2096-10-02 07:06:40.000000",
    "expires_on": 4000000000,
    "subscription": "11111111-2222-4333-8444-555555555555",
    "tenant": tenant,
    "tokenType": "Bearer",
}}))
"""


def install_az(folder: Path, *, account: Literal["logged in", "logged out"] = "logged in") -> Path:
    """Write the program into a folder for the front of ``PATH``; return the file that collects its calls."""
    folder.mkdir(parents=True, exist_ok=True)
    calls = folder / "az-calls.jsonl"
    script = folder / "az"
    script.write_text(
        _SCRIPT.format(python=sys.executable, calls=str(calls), token=TOKEN, is_logged_out=account == "logged out"),
        encoding="utf-8",
    )
    script.chmod(0o755)
    return calls


def read_calls(calls: Path) -> list[list[str]]:
    """Return the arguments of every call so far."""
    if not calls.exists():
        return []
    return [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
