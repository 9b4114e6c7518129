"""A folder for what is handed to readers of files; gone when the process ends."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="wsi_extract_fuzz_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
