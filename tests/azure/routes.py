"""Which kind of request an address is, and whether it is authorised."""

from __future__ import annotations

import re

from tests.azure.messages import Reply, Request, Step, error_reply

TOKEN = "token-of-tests"
SAS = "sv=2026-10-06&se=2096-01-02T03%3A04%3A05Z&sr=c&sp=racwl&sig=c2lnbmF0dXJlc"

_ROUTES = (
    ("GET", r"/workspaces/[^/]+", Step.WORKSPACE_GET),
    ("GET", r"/workspaces/[^/]+/computes/[^/]+", Step.COMPUTE_GET),
    ("GET", r"/workspaces/[^/]+/environments/[^/]+/versions/[^/]+", Step.ENVIRONMENT_GET),
    ("GET", r"/workspaces/[^/]+/data/[^/]+/versions/[^/]+", Step.DATA_GET),
    ("GET", r"/workspaces/[^/]+/codes/[^/]+/versions", Step.CODE_LIST),
    ("GET", r"/workspaces/[^/]+/codes/[^/]+/versions/[^/]+", Step.CODE_GET),
    ("PUT", r"/workspaces/[^/]+/codes/[^/]+/versions/[^/]+", Step.CODE_PUT),
    ("POST", r"/workspaces/[^/]+/codes/[^/]+/versions/[^/]+/startPendingUpload", Step.CODE_UPLOAD),
    ("PUT", r"/workspaces/[^/]+/jobs/[^/]+", Step.JOB_PUT),
    ("GET", r"/workspaces/[^/]+/jobs/[^/]+", Step.JOB_GET),
    ("POST", r"/workspaces/[^/]+/jobs/[^/]+/cancel", Step.JOB_CANCEL),
    ("GET", r"/workspaces/[^/]+/datastores/[^/]+", Step.DATASTORE_GET),
    ("POST", r"/workspaces/[^/]+/datastores/[^/]+/listSecrets", Step.DATASTORE_SECRETS),
)
_RESOURCE_MANAGER = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.MachineLearningServices"
_HISTORY = rf"/history/v1\.0{_RESOURCE_MANAGER}/workspaces/[^/]+/runs/[^/]+/details"
_BLOB_STEPS = {"HEAD": Step.BLOB_HEAD, "GET": Step.BLOB_GET, "PUT": Step.BLOB_PUT}
_OPEN = frozenset({Step.DISCOVERY_GET, Step.LOG_GET})
"""What the service serves to everybody who knows the address."""
_BLOBS = frozenset({*_BLOB_STEPS.values(), Step.BLOB_METADATA, Step.BLOB_LIST})


def step_of(request: Request) -> Step:
    """Return which kind of request it is.

    Raises
    ------
    AssertionError
        When the emulated service does not know it: the emulator has to be extended, or the request is a mistake.
    """
    path = request.path
    if path == "/discovery":
        return Step.DISCOVERY_GET
    if path.startswith("/logs/"):
        return Step.LOG_GET
    if re.fullmatch(_HISTORY, path):
        return Step.DETAILS_GET
    if request.method == "GET" and request.query.get("comp") == "list":
        return Step.BLOB_LIST
    if path.startswith("/code-") and request.method in _BLOB_STEPS:
        return Step.BLOB_METADATA if request.query.get("comp") == "metadata" else _BLOB_STEPS[request.method]
    for method, pattern, step in _ROUTES:
        if request.method == method and re.fullmatch(_RESOURCE_MANAGER + pattern, path):
            return step
    raise AssertionError(f"the emulated service does not know {request.method} {request.url}")


def check_authorisation(request: Request, *, step: Step) -> Reply | None:
    """Return the refusal of a request that lacks its token or signature."""
    if step in _OPEN:
        return None
    if step in _BLOBS:
        if "sig" in request.query or (step is Step.BLOB_LIST and "authorization" in request.headers):
            return None
        return error_reply(403, code="AuthenticationFailed", message="The request holds no signature.")
    if request.headers.get("authorization") == f"Bearer {TOKEN}":
        return None
    return error_reply(401, code="InvalidAuthenticationToken", message="The access token is missing or invalid.")
