"""The workspace of the emulated service, and what a job can use of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.azure.messages import Json, Reply, Request, error_reply, json_reply

SUBSCRIPTION_ID = "11111111-2222-4333-8444-555555555555"
RESOURCE_GROUP = "group-of-tests"
WORKSPACE_NAME = "workspace-of-tests"
WORKSPACE_ID = (
    f"/subscriptions/{SUBSCRIPTION_ID}/resourceGroups/{RESOURCE_GROUP}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE_NAME}"
)
TRIPLE = {
    "subscription_id": SUBSCRIPTION_ID,
    "resource_group": RESOURCE_GROUP,
    "workspace_name": WORKSPACE_NAME,
}
"""What ``config.json`` says of the emulated workspace."""
SYSTEM_DATA: dict[str, Json] = {
    "createdBy": "tester",
    "createdByType": "User",
    "createdAt": "2026-01-02T03:04:05.678900+00:00",
}


@dataclass(slots=True, kw_only=True)
class Compute:
    tier: str = "Dedicated"
    """``Dedicated`` or ``LowPriority``."""
    max_nodes: int = 4


@dataclass(slots=True, kw_only=True)
class Workspace:
    """What exists: names of computes, (name, version) of environments, and of data with its type."""

    api: str
    computes: dict[str, Compute] = field(default_factory=lambda: {"xseligam-mitos-train": Compute()})
    environments: set[tuple[str, str]] = field(default_factory=lambda: {("xseligam_mitos", "17")})
    data: dict[tuple[str, str], str] = field(default_factory=lambda: {("xseligam-ccmct-wsi", "1"): "uri_folder"})

    def workspace_get(self, _: Request) -> Reply:
        properties: Json = {
            "workspaceId": "99999999-2222-4333-8444-555555555555",
            "discoveryUrl": f"{self.api}/discovery",
            "friendlyName": WORKSPACE_NAME,
        }
        body: Json = {"id": WORKSPACE_ID, "name": WORKSPACE_NAME, "location": "westeurope", "properties": properties}
        return json_reply(200, body)

    def compute_get(self, request: Request) -> Reply:
        name = request.path.rsplit("/", 1)[1]
        if name not in self.computes:
            return not_found(request)
        compute = self.computes[name]
        scale: Json = {"minNodeCount": 0, "maxNodeCount": compute.max_nodes, "nodeIdleTimeBeforeScaleDown": "PT2M"}
        inner: Json = {"vmSize": "STANDARD_D4S_V3", "vmPriority": compute.tier, "scaleSettings": scale}
        properties: Json = {"computeType": "AmlCompute", "provisioningState": "Succeeded", "properties": inner}
        return json_reply(200, {"id": request.path, "name": name, "location": "westeurope", "properties": properties})

    def environment_get(self, request: Request) -> Reply:
        _, name, _, version = request.path.rsplit("/", 3)
        if (name, version) not in self.environments:
            return not_found(request)
        return asset(request, {"image": "registry.example/mitos:17", "environmentType": "UserCreated"})

    def data_get(self, request: Request) -> Reply:
        _, name, _, version = request.path.rsplit("/", 3)
        if (name, version) not in self.data:
            return not_found(request)
        uri = "azureml://datastores/workspaceblobstore/paths/ccmct/"
        return asset(request, {"dataType": self.data[name, version], "dataUri": uri})


def not_found(request: Request) -> Reply:
    name = request.path.rsplit("/workspaces/", 1)[-1]
    return error_reply(404, code="ResourceNotFound", message=f"The resource {name} was not found.")


def asset(request: Request, properties: dict[str, Json], *, status: int = 200) -> Reply:
    name = request.path.rsplit("/", 1)[1]
    return json_reply(status, {"id": request.path, "name": name, "systemData": SYSTEM_DATA, "properties": properties})
