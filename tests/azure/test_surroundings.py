"""What a machine has to be like before anybody logs in on it."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from tests.azure.repositories import ROOT
from wsi_extract.azure_job import service
from wsi_extract.azure_job.surroundings import CERTIFICATE_VARIABLES, PACKAGES, check_surroundings
from wsi_extract.errors import PreflightError
from wsi_extract.node_start.requirements import read_requirements


def test_usual_variables_are_no_problem(tmp_path: Path) -> None:
    check_surroundings({})
    check_surroundings({"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": certifi.where()})
    check_surroundings({"REQUESTS_CA_BUNDLE": str(tmp_path), "CURL_CA_BUNDLE": "/not/looked/at"})
    check_surroundings({"AZUREML_DEV_URL_MFE": "https://x.example", "WSI_EXTRACT_ALLOW_DEV_URL": "1"})


@pytest.mark.parametrize("name", CERTIFICATE_VARIABLES)
def test_certificates_that_are_not_there_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=rf"^{name} names {tmp_path}/nope.pem, which is not there") as caught:
        check_surroundings({name: str(tmp_path / "nope.pem")})
    assert caught.value.exit_code == 2
    (tmp_path / "nope.pem").write_text("no certificate")
    with pytest.raises(PreflightError, match=f"{name} names .*there are no certificates in it"):
        check_surroundings({name: str(tmp_path / "nope.pem")})


def test_another_host_is_named() -> None:
    with pytest.raises(PreflightError, match=r"sent to https://elsewhere\.example"):
        check_surroundings({"AZUREML_DEV_URL_MFE": "https://elsewhere.example"})


def test_the_packages_are_those_of_the_list_that_users_install(tmp_path: Path) -> None:
    lines = (ROOT / "requirements-azure.txt").read_text(encoding="utf-8").splitlines()
    listed = tmp_path / "listed.txt"
    listed.write_text("\n".join(line for line in lines if not line.startswith("-r ")), encoding="utf-8")
    assert read_requirements(listed) == PACKAGES


def test_packages_of_other_versions_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "azure_ai_ml-1.30.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: azure-ai-ml\nVersion: 1.30.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        PreflightError, match=r"azure-ai-ml 1\.30\.0, needed >=1\.35\.2,<2\. .*requirements-azure"
    ) as caught:
        service.load_libraries()
    assert "\n" not in str(caught.value)
