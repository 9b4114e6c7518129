"""What a machine has to be like before anybody logs in on it: its variables, and the versions of Azure's packages."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from wsi_extract.errors import PreflightError
from wsi_extract.node_start.requirements import Requirement
from wsi_extract.printable import as_one_line

OTHER_HOST_VARIABLE = "AZUREML_DEV_URL_MFE"
ALLOW_OTHER_HOST = "WSI_EXTRACT_ALLOW_DEV_URL"
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""The first that is set counts, as in the library that makes the connections."""
PACKAGES = (
    Requirement("azure-ai-ml", ((">=", "1.35.2"), ("<", "2"))),
    Requirement("azure-identity", ((">=", "1.25"), ("<", "2"))),
)
"""As requirements-azure.txt has them: this program leans on what newer and older ones may not have."""


def check_surroundings(environ: Mapping[str, str]) -> None:
    """Refuse variables with which no request would succeed, or would go where it should not.

    Raises
    ------
    PreflightError
        Naming the variable.
    """
    refuse_other_host(environ)
    refuse_lost_certificates(environ)


def refuse_other_host(environ: Mapping[str, str]) -> None:
    """Refuse a variable that has requests, and the token with them, sent to another host; see `check_surroundings`."""
    host = environ.get(OTHER_HOST_VARIABLE)
    if host is not None and environ.get(ALLOW_OTHER_HOST) != "1":
        raise PreflightError(
            f"{OTHER_HOST_VARIABLE} is set: your log-in would be sent to {as_one_line(host)}.",
            f"Unset it; for tests with a service of your own set {ALLOW_OTHER_HOST}=1.",
        )


def refuse_lost_certificates(environ: Mapping[str, str]) -> None:
    """Refuse a variable that names no file with certificates; see `check_surroundings`."""
    name = next((name for name in CERTIFICATE_VARIABLES if environ.get(name)), None)
    if name is None:
        return
    path = Path(environ[name])
    remedy = "Name the file with the certificates of your organisation, or unset it."
    if path.is_dir():
        return
    if not path.is_file():
        raise PreflightError(f"{name} names {as_one_line(str(path))}, which is not there.", remedy)
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        reason = "it cannot be read" if isinstance(error, PermissionError) else "there are no certificates in it"
        raise PreflightError(f"{name} names {as_one_line(str(path))}: {reason}.", remedy) from error
