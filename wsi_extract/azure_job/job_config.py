"""Settings of a job, the ``job`` object of config.json: where it runs, on what, and where the result goes.

What is extracted stands in ``extraction``. Four of its values and the places inside the data asset can be given here,
for this job only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from wsi_extract.printable import as_one_line

LONGEST_JOB_S = 21 * 24 * 3600
"""The service ends jobs after 21 days."""
SAFE_PATH = re.compile(r"[\w./:=@%+,-]+")
"""Paths that two shells and the service leave alone between quotes."""
ASSET_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}:[A-Za-z0-9][A-Za-z0-9_.-]{0,29}")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$"
VARIABLE_FORM = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OWN_VARIABLES = frozenset(f"WSI_EXTRACT_{name}" for name in ("SETUP", "ON_PARTIAL", "COMMIT", "NODES"))
"""Set from the other settings of ``job``; further ones of this beginning are for the user to set."""
PREFIX = "azureml:"
_NO_CLUSTERS: Mapping[str, str] = {
    "local": "on this machine run run_extraction.py itself",
    "serverless": "serverless nodes have no size here, and slides and output must fit on the disk of the node",
}
"""Names that Azure ML takes for something else than a cluster, and why they will not do."""
PUBLIC_KEY_PATTERN = r"^(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+( [^\r\n]*)?$"


def _without_prefix(value: object) -> object:
    return value.removeprefix(PREFIX) if isinstance(value, str) else value


def _as_text(value: object) -> object:
    """Numbers and truth values as the texts that the service wants; anything else is for the type to refuse."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _check_asset(value: str) -> str:
    if value.endswith("@latest"):
        raise ValueError("@latest may be another version tomorrow: give NAME:VERSION")
    if ASSET_FORM.fullmatch(value) is None:
        raise ValueError("give NAME:VERSION")
    return value


def _check_compute(value: str) -> str:
    reason = _NO_CLUSTERS.get(value.casefold())
    if reason is not None:
        raise ValueError(f"give the name of a compute cluster; {reason}")
    return value


def _check_path(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts:
        raise ValueError("give a path inside the data asset, relative to its top folder")
    if SAFE_PATH.fullmatch(value) is None:
        raise ValueError("only letters, digits and . _ / : = @ % + , - can stand in it; rename it in the data asset")
    return value


def _check_line(value: str) -> str:
    if not value.strip() or as_one_line(value) != value:
        raise ValueError("give one line of text")
    return value


def _check_variables(values: Mapping[str, str]) -> Mapping[str, str]:
    for name in values:
        if VARIABLE_FORM.fullmatch(name) is None:
            raise ValueError(f"{as_one_line(name[:40])!r} is no name of an environment variable")
        if name.upper() in OWN_VARIABLES:
            raise ValueError(f"{name}: it is set from the other settings of 'job'")
    return values


Text = Annotated[str, BeforeValidator(_as_text)]
Line = Annotated[str, Field(max_length=255), AfterValidator(_check_line)]
Asset = Annotated[str, BeforeValidator(_without_prefix), AfterValidator(_check_asset)]
DataAsset = Annotated[Asset, AfterValidator(lambda value: PREFIX + value)]
PathInData = Annotated[str, Field(max_length=1024), AfterValidator(_check_path)]


class OutputConfig(BaseModel):
    """Where the data set goes."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    mode: Literal["upload", "rw_mount"] = Field(
        "upload", description="when files arrive: at the end of a job that succeeds, or each as it is finished"
    )
    name: str | None = Field(None, pattern=NAME_PATTERN, description="register the result as this data asset")
    version: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,29}$", description="its version; default: the next one"
    )
    path: str | None = Field(
        None,
        max_length=1024,
        pattern=r"^azureml://[\w.:/${}@%+=,-]+$",
        description="folder for the files, azureml://datastores/NAME/paths/FOLDER/; default: the service chooses",
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.version is not None and self.name is None:
            raise ValueError("version: give output.name too, the data asset that gets this version")
        return self


class JobConfig(BaseModel):
    """All settings of a job; see the description of each field."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    compute: Annotated[str, BeforeValidator(_without_prefix), AfterValidator(_check_compute)] = Field(
        "xseligam-mitos-train", pattern=NAME_PATTERN, description="compute cluster"
    )
    environment: Asset = Field("xseligam_mitos:17", description="environment, NAME:VERSION")
    data: DataAsset = Field(
        "azureml:xseligam-ccmct-wsi:1", description="data asset with slides and annotations, NAME:VERSION"
    )
    data_mode: Literal["ro_mount", "download"] = Field("ro_mount", description="how the node gets it")
    wsi_dir: PathInData = Field("WSI", description="folder of the slides in the data asset")
    annotation_json: PathInData = Field(
        "databases/MITOS_WSI_CCMCT_HEAEL.json", description="annotation file in the data asset"
    )
    patches_per_slide: int | None = Field(None, description="instead of extraction's")
    patch_size: int | None = Field(None, description="instead of extraction's")
    train_val_split: float | None = Field(None, description="instead of extraction's")
    seed: int | None = Field(None, description="instead of extraction's")
    nodes: int = Field(1, ge=1, le=100, description="machines that work together")
    trusted_network: bool = Field(default=False, description="the nodes may talk to each other unencrypted")
    tls_dir: PathInData | None = Field(
        None, description="folder in the data asset with ca.pem, cert.pem and key.pem: the nodes encrypt what they say"
    )
    output: OutputConfig = Field(OutputConfig(), description="where the data set goes")
    experiment: str = Field("Mitos-Patch-Extraction", pattern=NAME_PATTERN, description="experiment of the studio")
    display_name: Line | None = Field(None, description="name in the studio; default: extract-patches-Npps")
    tags: dict[str, Text] = Field({}, description="shown in the studio")
    environment_variables: Annotated[dict[str, Text], AfterValidator(_check_variables)] = Field(
        {}, description="further environment variables of the job"
    )
    timeout_s: int | None = Field(None, ge=60, le=LONGEST_JOB_S, description="seconds after which the job is ended")
    setup: Literal["auto", "never"] = Field(
        "auto", description="install what requirements.txt asks for and the environment lacks, apart from it"
    )
    services: tuple[Literal["vscode", "jupyterlab", "ssh"], ...] = Field(
        (), description="ways into the running job, as for the dashboard"
    )
    ssh_public_key: str | None = Field(None, pattern=PUBLIC_KEY_PATTERN, description="for services: ssh")

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        problems = []
        if self.nodes > 1 and not self.trusted_network and self.tls_dir is None:
            problems.append(
                f"nodes: {self.nodes} nodes send each other Python objects, and whoever else reaches their ports can "
                "have code run there. Set tls_dir, or trusted_network to true where nobody else is in the network"
            )
        if self.nodes == 1 and self.tls_dir is not None:
            problems.append("tls_dir: it belongs to nodes above 1")
        if len(set(self.services)) < len(self.services):
            problems.append("services: one is given twice")
        if ("ssh" in self.services) != (self.ssh_public_key is not None):
            problems.append("services ssh and ssh_public_key: give both or none")
        if problems:
            raise ValueError("; job.".join(problems))
        return self

    @property
    def is_encrypted(self) -> bool:
        """Whether the nodes talk to each other through TLS."""
        return self.nodes > 1 and self.tls_dir is not None
