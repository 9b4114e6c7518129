"""The parts of Azure Machine Learning that ``submit_job.py`` talks to, as an object that answers requests.

It knows no sockets: `in_process` and `https_emulator` carry the messages. It is as strict as the service is known to
be: every request needs its authorisation, uploads must not overwrite and must match their checksum, a job must name a
code version that exists, and its variables must be strings.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.azure.blob_store import BlobStore, listing
from tests.azure.credential import Credential
from tests.azure.messages import Fault, Json, Reply, Request, Step, Trouble, error_reply, json_reply
from tests.azure.routes import SAS, check_authorisation, step_of
from tests.azure.workspace import SYSTEM_DATA, TRIPLE, WORKSPACE_ID, Compute, Workspace, asset, not_found

__all__ = ["TRIPLE", "WORKSPACE_ID", "AzureEmulator", "Compute", "EmulatedJob"]


@dataclass(slots=True, kw_only=True)
class EmulatedJob:
    """A job as the service keeps it."""

    name: str
    properties: dict[str, Json]
    """The body's ``properties``, as they arrived."""
    statuses: list[str]
    """What the next readings of the status tell; the last one stays."""
    logs: dict[str, str] = field(default_factory=dict)
    """File name such as ``user_logs/std_log.txt``, and its text so far."""

    @property
    def status(self) -> str:
        return self.statuses[0]

    def next_status(self) -> str:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


class AzureEmulator:
    """One workspace with one user's compute, environment and data, a blob container per code version, and the jobs.

    Attributes
    ----------
    requests
        Everything that was asked, in order, failed requests included.
    jobs, codes, blobs
        What was made: jobs by name, code versions by (name, version), blobs by ``container/folder/file``.
    computes, environments, data
        What exists; take an entry out and the service does not know it.
    job_statuses, first_log
        What new jobs tell of themselves, unless a cluster runs them.
    log_place
        ``details``: run details link the logs; else they lie in a datastore, which hands out signatures or expects
        the user's identity.
    """

    def __init__(self, *, arm: str, blob: str, api: str, on_job: Callable[[EmulatedJob], None] | None = None) -> None:
        self.arm, self.blob, self.api = arm, blob, api
        self.requests: list[Request] = []
        self.jobs: dict[str, EmulatedJob] = {}
        self.codes: dict[tuple[str, str], dict[str, Json]] = {}
        self._store = BlobStore()
        self.blobs = self._store.blobs
        self._workspace = Workspace(api=api)
        self.computes = self._workspace.computes
        self.environments = self._workspace.environments
        self.data = self._workspace.data
        self.job_statuses = ["Starting", "Running", "Completed"]
        self.first_log = ""
        self.log_place: Literal["details", "sas datastore", "identity datastore"] = "details"
        self._on_job = on_job
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._handlers: dict[Step, Callable[[Request], Reply]] = {
            Step.WORKSPACE_GET: self._workspace.workspace_get,
            Step.COMPUTE_GET: self._workspace.compute_get,
            Step.ENVIRONMENT_GET: self._workspace.environment_get,
            Step.DATA_GET: self._workspace.data_get,
            Step.CODE_LIST: self._code_list,
            Step.CODE_GET: self._code_get,
            Step.CODE_UPLOAD: self._code_upload,
            Step.BLOB_HEAD: self._store.head,
            Step.BLOB_PUT: self._store.put,
            Step.BLOB_METADATA: self._store.put_metadata,
            Step.BLOB_GET: self._store.get,
            Step.BLOB_LIST: self._blob_list,
            Step.CODE_PUT: self._code_put,
            Step.JOB_PUT: self._job_put,
            Step.JOB_GET: self._job_get,
            Step.JOB_CANCEL: self._job_cancel,
            Step.DATASTORE_GET: self._datastore_get,
            Step.DATASTORE_SECRETS: lambda _: json_reply(200, {"secretsType": "Sas", "sasToken": SAS}),
            Step.DISCOVERY_GET: lambda _: json_reply(200, {"api": self.api, "history": self.api}),
            Step.DETAILS_GET: self._details_get,
            Step.LOG_GET: self._log_get,
        }

    # --- for tests

    def credential(self) -> Credential:
        return Credential()

    def fail(
        self,
        step: Step | str,
        outcome: int | Trouble = 500,
        *,
        code: str = "ScriptedFailure",
        message: str = "scripted failure",
        times: int | None = None,
        after: int = 0,
    ) -> None:
        """Let requests of a kind fail, ``times`` of them (default: all), once ``after`` of them have succeeded."""
        reply = outcome if isinstance(outcome, Trouble) else error_reply(outcome, code=code, message=message)
        self._faults.append(Fault(step=Step(step), outcome=reply, n_left=times, n_before=after))

    def reply_with(self, step: Step | str, reply: Reply) -> None:
        """Let all requests of a kind get one and the same reply, however senseless."""
        self._faults.append(Fault(step=Step(step), outcome=reply, n_left=None, n_before=0))

    def asked(self, *steps: Step | str) -> list[Request]:
        """Return the requests of some kinds, of all kinds by default."""
        wanted = {Step(step) for step in steps} or set(Step)
        return [request for request in self.requests if step_of(request) in wanted]

    def snapshot(self, job: EmulatedJob) -> dict[str, bytes]:
        """Return the files of a job's code by their names relative to its folder, as a node gets them."""
        code_id = str(job.properties["codeId"])
        name, version = re.fullmatch(r".*/codes/([^/]+)/versions/([^/]+)", code_id).groups()  # type: ignore[union-attr]
        prefix = str(self.codes[name, version]["codeUri"]).removeprefix(f"{self.blob}/").rstrip("/") + "/"
        return {key.removeprefix(prefix): blob.content for key, blob in self.blobs.items() if key.startswith(prefix)}

    # --- the service

    def answer(self, request: Request) -> Reply | Trouble:
        """Return the reply to a request; one the service does not know is an error of the test."""
        with self._lock:
            self.requests.append(request)
            step = step_of(request)
            for fault in self._faults:
                if fault.step is step and (outcome := fault.use()) is not None:
                    return outcome
            return check_authorisation(request, step=step) or self._handlers[step](request)

    def _code_list(self, request: Request) -> Reply:
        wanted = request.query.get("hash")
        found: list[Json] = [
            {"id": f"{WORKSPACE_ID}/codes/{name}/versions/{version}", "name": version, "properties": properties}
            for (name, version), properties in self.codes.items()
            if wanted == dict(properties["properties"])["hash_sha256"]  # type: ignore[arg-type]
        ]
        return json_reply(200, {"value": found})

    def _code_get(self, request: Request) -> Reply:
        _, name, _, version = request.path.rsplit("/", 3)
        if (name, version) not in self.codes:
            return not_found(request)
        return asset(request, self.codes[name, version])

    def _code_upload(self, request: Request) -> Reply:
        name = request.path.split("/codes/")[1].split("/")[0]
        uri = f"{self.blob}/code-{name}"
        credential: Json = {"credentialType": "SAS", "sasUri": f"{uri}?{SAS}"}
        reference: Json = {"blobUri": uri, "credential": credential, "storageAccountArmId": f"{WORKSPACE_ID}/storage"}
        return json_reply(200, {"pendingUploadId": name, "blobReferenceForConsumption": reference})

    def _code_put(self, request: Request) -> Reply:
        _, name, _, version = request.path.rsplit("/", 3)
        properties = request.json["properties"]
        assert isinstance(properties, dict)
        self.codes[name, version] = properties
        return asset(request, properties, status=201)

    # --- jobs

    def _job_put(self, request: Request) -> Reply:
        name = request.path.rsplit("/", 1)[1]
        properties = request.json["properties"]
        assert isinstance(properties, dict)
        problem = self._problem_of(properties)
        if problem is not None:
            return error_reply(400, code="UserError", message=problem)
        if name in self.jobs:
            return error_reply(409, code="Conflict", message=f"A job with name {name} exists.")
        job = EmulatedJob(name=name, properties=properties, statuses=list(self.job_statuses))
        if self.first_log:
            job.logs["user_logs/std_log.txt"] = self.first_log
        self.jobs[name] = job
        reply = json_reply(201, self._resource(job))
        if self._on_job is not None:
            self._on_job(job)
        return reply

    def _problem_of(self, properties: dict[str, Json]) -> str | None:
        name, _, version = str(properties.get("codeId")).split("/codes/")[-1].split("/")
        if (name, version) not in self.codes:
            return f"The code version {properties.get('codeId')} does not exist."
        variables = properties.get("environmentVariables")
        if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
            return "environmentVariables must be a map of strings to strings."
        return None

    def _job_get(self, request: Request) -> Reply:
        job = self.jobs.get(request.path.rsplit("/", 1)[1])
        if job is None:
            return not_found(request)
        job.next_status()
        return json_reply(200, self._resource(job))

    def _resource(self, job: EmulatedJob) -> Json:
        services: dict[str, Json] = {
            "Studio": {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{job.name}"}
        }
        properties: dict[str, Json] = {**job.properties, "status": job.status, "services": services}
        if self.log_place != "details":
            uri = f"azureml://datastores/workspaceartifactstore/ExperimentRun/dcid.{job.name}"
            outputs = dict(job.properties.get("outputs") or {})  # type: ignore[arg-type]
            outputs["default"] = {"uri": uri, "mode": "ReadWriteMount", "jobOutputType": "uri_folder"}
            properties["outputs"] = outputs
        return {
            "id": f"{WORKSPACE_ID}/jobs/{job.name}",
            "name": job.name,
            "type": "Microsoft.MachineLearningServices/workspaces/jobs",
            "systemData": SYSTEM_DATA,
            "properties": properties,
        }

    def _job_cancel(self, request: Request) -> Reply:
        job = self.jobs.get(request.path.rsplit("/", 2)[1])
        if job is None:
            return not_found(request)
        job.statuses[:] = ["CancelRequested", "Canceled"]
        return Reply(status=200)

    def _datastore_get(self, request: Request) -> Reply:
        properties: dict[str, Json] = {
            "datastoreType": "AzureBlob",
            "accountName": "emulated",
            "containerName": "azureml",
            "endpoint": "core.windows.net",
            "protocol": "https",
            "credentials": {"credentialsType": "Sas" if self.log_place == "sas datastore" else "None"},
        }
        return asset(request, properties)

    def _blob_list(self, request: Request) -> Reply:
        prefix = request.query.get("prefix", "")
        names = [f"ExperimentRun/dcid.{job.name}/{file}" for job in self.jobs.values() for file in job.logs]
        return listing([name for name in names if name.startswith(prefix)], url=f"{self.blob}{request.path}")

    # --- run history

    def _details_get(self, request: Request) -> Reply:
        job = self.jobs[request.path.rsplit("/", 2)[1]]
        job.next_status()
        files: Json = {name: f"{self.api}/logs/{job.name}/{name}" for name in job.logs}
        return json_reply(200, {"runId": job.name, "status": job.status, "logFiles": files, "warnings": []})

    def _log_get(self, request: Request) -> Reply:
        name, file = request.path.removeprefix("/logs/").split("/", 1)
        return Reply(status=200, headers={"Content-Type": "text/plain"}, body=self.jobs[name].logs[file].encode())
