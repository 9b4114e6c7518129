"""What travels between the emulated service and whoever carries its messages: requests, replies and scripted faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


class Step(StrEnum):
    """Kinds of requests, in the order in which a submission sends them."""

    WORKSPACE_GET = "workspace.get"
    COMPUTE_GET = "compute.get"
    ENVIRONMENT_GET = "environments.get"
    DATA_GET = "data.get"
    CODE_LIST = "codes.list"
    CODE_GET = "codes.get"
    CODE_UPLOAD = "codes.upload"
    BLOB_HEAD = "blob.head"
    BLOB_PUT = "blob.put"
    BLOB_METADATA = "blob.metadata"
    BLOB_GET = "blob.get"
    BLOB_LIST = "blob.list"
    CODE_PUT = "codes.put"
    JOB_PUT = "jobs.put"
    JOB_GET = "jobs.get"
    JOB_CANCEL = "jobs.cancel"
    DATASTORE_GET = "datastores.get"
    DATASTORE_SECRETS = "datastores.secrets"
    DISCOVERY_GET = "discovery.get"
    DETAILS_GET = "details.get"
    LOG_GET = "log.get"


class Trouble(StrEnum):
    """What can go wrong below HTTP."""

    RESET = "reset"
    WRONG_CERTIFICATE = "wrong certificate"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as the service sees it."""

    method: str
    url: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    @property
    def json(self) -> dict[str, Json]:
        document: dict[str, Json] = json.loads(self.body)
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def json_reply(status: int, document: Json) -> Reply:
    return Reply(status=status, headers={"Content-Type": "application/json"}, body=json.dumps(document).encode())


def error_reply(status: int, *, code: str, message: str) -> Reply:
    """Return an error as Resource Manager and the blob service say it, asking for no wait before a repetition."""
    reply = json_reply(status, {"error": {"code": code, "message": message}})
    return Reply(
        status=status, headers={**reply.headers, "x-ms-error-code": code, "retry-after-ms": "1"}, body=reply.body
    )


@dataclass(slots=True, kw_only=True)
class Fault:
    """A scripted failure of one kind of request."""

    step: Step
    outcome: Reply | Trouble
    n_left: int | None
    """How many requests still fail; None for all of them."""
    n_before: int
    """How many requests of the kind still succeed before."""

    def use(self) -> Reply | Trouble | None:
        """Return what a request of the kind gets, None for the usual reply, counting the request."""
        if self.n_before > 0:
            self.n_before -= 1
            return None
        if self.n_left is None:
            return self.outcome
        self.n_left -= 1
        return self.outcome if self.n_left >= 0 else None
