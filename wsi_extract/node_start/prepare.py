"""The first step on a node: a Python with everything the program needs, or one message that says what is missing.

``WSI_EXTRACT_SETUP=auto``, which `submit_job.py` sets, lets it make an environment of its own where that of the node
will not do, and go on there; that of the node is never changed. Else it only looks.

Pythons as old as 3.6 must be able to read this file, so annotations are plain, and what can be read by Python 3.8 is
imported late.
"""

import atexit
import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path

EXIT_ENVIRONMENT = 2
OLDEST_STARTING_PYTHON = (3, 8)
N_PROBLEMS_SHOWN = 3
REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"


def prepare_node() -> None:
    """See to it that this process can go on: return, or become a Python that can, or end with a message.

    Raises
    ------
    SystemExit
        With 2 when the environment will not do; with 0 on the nodes of a job but the first, which decides for all.

    Notes
    -----
    On those nodes this process ends with 0 from here on, whatever else becomes of it: any other would end the job.
    """
    if is_follower():
        atexit.register(_end_well)  # registered first, so called last
    # Ctrl-C is a plain death, as in `wsi_extract.start.Imports`; not where it is ignored, as in a shell's background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        message = _prepare()
    except Exception:  # noqa: BLE001  # whatever it is, a node that follows must not end the job
        message = f"the start step failed:\n{traceback.format_exc()}"
    if not message:
        return
    _write(f"error: {message}\n")
    if is_follower():
        _write("warning: THIS NODE TAKES NO PART IN THE JOB; the first node goes on without it\n")
    raise SystemExit(0 if is_follower() else EXIT_ENVIRONMENT)


def _end_well() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _prepare() -> str:
    """Return why the program cannot go on, ``""`` if it can."""
    if sys.version_info < OLDEST_STARTING_PYTHON:
        return f"this is Python {sys.version.split()[0]}; the program needs 3.11, and can help itself from 3.8 on."
    if not REQUIREMENTS.is_file():  # installed as a package: whoever did that has seen to the rest
        return ""
    from wsi_extract.node_start.requirements import find_problems, read_requirements  # noqa: PLC0415

    try:
        problems = find_problems(read_requirements(REQUIREMENTS))
        if os.environ.get("WSI_EXTRACT_SETUP") != "auto":
            return _describe(problems) if problems else ""
        return _set_up(problems)
    except (OSError, ValueError) as error:
        return f"the start step failed: {error}."


def _describe(problems: "list[str]") -> str:
    lines = "".join(f"  {problem}\n" for problem in problems)
    if _is_new_enough():
        remedy = f"Install it with: {sys.executable or 'python'} -m pip install -r {REQUIREMENTS}"
    else:
        remedy = f"Start the program with Python 3.11 or newer and the packages of {REQUIREMENTS}"
    return (
        f"this environment lacks what the program needs:\n{lines}{remedy}. In an Azure job: leave job.setup at "
        '"auto", or build them into the environment\'s image.'
    )


def _set_up(problems: "list[str]") -> str:
    """Go on here if that works, else in an environment of our own; return what went wrong."""
    from wsi_extract.node_start.commands import SetupError  # noqa: PLC0415
    from wsi_extract.node_start.environment import import_here, open_environment  # noqa: PLC0415

    try:
        reason = _shorten(problems) or import_here(REQUIREMENTS, say=_say)
        if not reason:
            return ""
        _say(f"the node's own environment will not do: {reason}")
        environment = open_environment(REQUIREMENTS, environ=os.environ, say=_say)
        environ = variables_for(environment.python, environment.environ)
        os.execve(environment.python, [environment.python, "-u", *sys.argv], environ)
    except SetupError as error:
        return str(error)


def _is_new_enough() -> bool:
    from wsi_extract.node_start.requirements import LEAST_PYTHON  # noqa: PLC0415

    return sys.version_info >= LEAST_PYTHON


def _shorten(problems: "list[str]") -> str:
    if not _is_new_enough():
        return problems[0]
    return "; ".join(problems[:N_PROBLEMS_SHOWN]) + (" and others" if len(problems) > N_PROBLEMS_SHOWN else "")


def variables_for(python: str, environ: "dict[str, str]") -> "dict[str, str]":
    """Return the variables for the environment, as if it had been activated.

    >>> variables_for("/e/bin/python", {"PATH": "/bin"})["PATH"]
    '/e/bin:/bin'
    """
    folder = Path(python).parent
    path = os.pathsep.join([str(folder), *filter(None, [environ.get("PATH")])])
    return dict(environ, PATH=path, VIRTUAL_ENV=str(folder.parent), WSI_EXTRACT_SETUP="done")


def is_follower() -> bool:
    """Tell whether this is a node of several, and not the first."""
    rank = os.environ.get("NODE_RANK") or os.environ.get("RANK") or "0"  # as `cluster.node_group` reads them
    numbers = [os.environ.get("WSI_EXTRACT_NODES") or "1", rank]
    return all(text.isdecimal() for text in numbers) and int(numbers[0]) > 1 and int(numbers[1]) > 0


def _say(text: str) -> None:
    _write(f"start: {text}\n")


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # closed, or a log on a full disk: no reason to end
        os.write(2, text.encode("utf-8", "backslashreplace"))
