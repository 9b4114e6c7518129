"""The emulated service against the real libraries: what the other tests of this folder rest on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import requests

from tests.azure import fake_az
from tests.azure.emulator import AzureEmulator
from tests.azure.fake_node import FakeCluster, has_private_mounts
from tests.azure.https_emulator import served_azure
from tests.azure.in_process import emulated_azure, write_settings
from tests.azure.messages import Reply, Trouble
from tests.azure.routes import TOKEN

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Command

# azure-ai-ml 1.35 is written for marshmallow 3, which announces what version 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")


@pytest.fixture
def service() -> Iterator[AzureEmulator]:
    with emulated_azure() as emulated:
        yield emulated


def open_client(service: AzureEmulator, folder: Path) -> MLClient:
    from azure.ai.ml import MLClient  # noqa: PLC0415  # takes seconds

    return MLClient.from_config(service.credential(), path=str(write_settings(folder / "config.json")))


def make_job(folder: Path, *, text: str = "echo 1", n_nodes: int = 1) -> Command:
    from azure.ai.ml import Input, Output, command  # noqa: PLC0415

    code = folder / "code"
    (code / "sub").mkdir(parents=True, exist_ok=True)
    (code / "main.sh").write_text("echo main\n")
    (code / "sub" / "table.txt").write_text("a\n")
    return command(
        command=text,
        code=str(code),
        inputs={"wsi_data": Input(type="uri_folder", path="azureml:xseligam-ccmct-wsi:1", mode="ro_mount")},
        outputs={"patch_dataset": Output(type="uri_folder", mode="upload")},
        environment="xseligam_mitos:17",
        compute="xseligam-mitos-train",
        experiment_name="Trial",
        environment_variables={"FROM_JOB": "yes"},
        instance_count=n_nodes,
        distribution={"type": "pytorch", "process_count_per_instance": 1} if n_nodes > 1 else None,
    )


def test_a_job_is_kept_with_its_code(service: AzureEmulator, tmp_path: Path) -> None:
    submitted = open_client(service, tmp_path).jobs.create_or_update(make_job(tmp_path))
    job = service.jobs[str(submitted.name)]
    assert service.snapshot(job) == {"main.sh": b"echo main\n", "sub/table.txt": b"a\n"}
    assert job.properties["experimentName"] == "Trial"
    assert submitted.status == "Starting"
    assert submitted.studio_url


def test_code_that_is_there_is_not_sent_again(service: AzureEmulator, tmp_path: Path) -> None:
    client = open_client(service, tmp_path)
    client.jobs.create_or_update(make_job(tmp_path))
    client.jobs.create_or_update(make_job(tmp_path))
    assert len(service.asked("jobs.put")) == 2
    assert len(service.asked("codes.put")) == 1
    assert len(service.asked("blob.put")) == 2


def test_what_exists_is_found_and_nothing_else(service: AzureEmulator, tmp_path: Path) -> None:
    from azure.core.exceptions import ResourceNotFoundError  # noqa: PLC0415

    client = open_client(service, tmp_path)
    assert client.compute.get("xseligam-mitos-train").tier == "dedicated"
    assert client.environments.get("xseligam_mitos", version="17").version == "17"
    assert client.data.get("xseligam-ccmct-wsi", version="1").type == "uri_folder"
    service.computes["xseligam-mitos-train"].tier = "LowPriority"
    assert client.compute.get("xseligam-mitos-train").tier == "low_priority"
    absents: tuple[Callable[[], object], ...] = (
        lambda: client.compute.get("other"),
        lambda: client.environments.get("xseligam_mitos", version="18"),
        lambda: client.data.get("xseligam-ccmct-wsi", version="2"),
        lambda: client.jobs.get("none"),
    )
    for absent in absents:
        with pytest.raises(ResourceNotFoundError):
            absent()


def test_a_status_goes_on_from_reading_to_reading(service: AzureEmulator, tmp_path: Path) -> None:
    client = open_client(service, tmp_path)
    name = str(client.jobs.create_or_update(make_job(tmp_path)).name)
    assert [client.jobs.get(name).status for _ in range(3)] == ["Running", "Completed", "Completed"]


def test_a_cancelled_job_says_so(service: AzureEmulator, tmp_path: Path) -> None:
    client = open_client(service, tmp_path)
    service.job_statuses = ["Running"]
    name = str(client.jobs.create_or_update(make_job(tmp_path)).name)
    client.jobs.begin_cancel(name)
    assert client.jobs.get(name).status == "Canceled"


@pytest.mark.parametrize("outcome", [400, 403, 404, 409, 429, 500, *Trouble])
def test_failures_are_scripted(service: AzureEmulator, tmp_path: Path, outcome: int | Trouble) -> None:
    from azure.core.exceptions import AzureError, HttpResponseError  # noqa: PLC0415

    client = open_client(service, tmp_path)
    service.fail("jobs.put", outcome, message="as scripted")
    with pytest.raises(AzureError) as failed:
        client.jobs.create_or_update(make_job(tmp_path))
    if isinstance(outcome, int):
        assert isinstance(failed.value, HttpResponseError)
        assert failed.value.status_code == outcome
        assert "as scripted" in str(failed.value)
    assert service.jobs == {}


def test_a_failure_can_be_limited(service: AzureEmulator, tmp_path: Path) -> None:
    service.fail("jobs.put", 503, times=2)
    open_client(service, tmp_path).jobs.create_or_update(make_job(tmp_path))
    assert len(service.asked("jobs.put")) == 3
    assert len(service.jobs) == 1


def test_a_failure_can_come_later(service: AzureEmulator, tmp_path: Path) -> None:
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415

    client = open_client(service, tmp_path)
    service.fail("jobs.put", 400, after=1)
    client.jobs.create_or_update(make_job(tmp_path))
    with pytest.raises(HttpResponseError):
        client.jobs.create_or_update(make_job(tmp_path))


def test_variables_must_be_strings(service: AzureEmulator, tmp_path: Path) -> None:
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415

    job = make_job(tmp_path)
    job.environment_variables["NUMBER"] = 3
    with pytest.raises(HttpResponseError, match="strings to strings"):
        open_client(service, tmp_path).jobs.create_or_update(job)


def test_logs_are_streamed(
    service: AzureEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    client = open_client(service, tmp_path)
    service.job_statuses = ["Starting", "Running", "Running", "Running", "Completed"]
    name = str(client.jobs.create_or_update(make_job(tmp_path)).name)
    service.jobs[name].logs["user_logs/std_log.txt"] = "START\nDONE\n"
    client.jobs.stream(name)
    assert "START\nDONE\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "error", "text"),
    [
        pytest.param("sas datastore", ValueError, "Incorrect padding", id="signatures"),
        pytest.param("identity datastore", TypeError, None, id="identity"),
    ],
)
def test_logs_in_a_datastore_break_the_stream(
    service: AzureEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Literal["sas datastore", "identity datastore"],
    error: type[Exception],
    text: str | None,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    client = open_client(service, tmp_path)
    service.job_statuses = ["Running"]
    service.log_place = place
    name = str(client.jobs.create_or_update(make_job(tmp_path)).name)
    service.jobs[name].logs["user_logs/std_log.txt"] = "START\n"
    with pytest.raises(error, match=text):  # a flaw of the library
        client.jobs.stream(name)


def test_requests_without_authorisation_are_refused(service: AzureEmulator) -> None:
    from tests.azure.emulator import WORKSPACE_ID  # noqa: PLC0415

    assert requests.get(f"{service.arm}{WORKSPACE_ID}", timeout=60).status_code == 401
    assert requests.put(f"{service.blob}/code-1/a", data=b"1", timeout=60).status_code == 403


def test_damaged_uploads_are_refused(service: AzureEmulator) -> None:
    url = f"{service.blob}/code-1/a?sig=1"
    assert requests.put(url, data=b"1", headers={"Content-MD5": "AAAA"}, timeout=60).status_code == 400
    assert requests.put(url, data=b"1", headers={"If-None-Match": "*"}, timeout=60).status_code == 201
    assert requests.put(url, data=b"2", headers={"If-None-Match": "*"}, timeout=60).status_code == 409
    assert requests.get(url, timeout=60).content == b"1"


def test_no_other_host_is_reached(service: AzureEmulator) -> None:
    with pytest.raises(AssertionError, match="not emulated"):
        requests.get("https://login.microsoftonline.com/", timeout=60)
    with pytest.raises(AssertionError, match="does not know"):
        requests.get(f"{service.arm}/unheard/of", timeout=60)


def test_it_is_served_over_https(tmp_path: Path) -> None:
    with served_azure(tmp_path) as served:
        verify = str(served.certificate)
        assert requests.get(f"{served.url}/discovery", verify=verify, timeout=60).json()["api"] == served.url
        served.service.reply_with("discovery.get", Reply(status=200, body=b"not JSON"))
        assert requests.get(f"{served.url}/discovery", verify=verify, timeout=60).text == "not JSON"
        served.service.fail("log.get", Trouble.RESET)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"{served.url}/logs/a/b", verify=verify, timeout=60)


def test_another_certificate_is_shown_on_request(tmp_path: Path) -> None:
    with served_azure(tmp_path, is_trusted=False) as served, pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{served.url}/discovery", verify=str(served.certificate), timeout=60)


def test_az_hands_out_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.identity import AzureCliCredential, CredentialUnavailableError  # noqa: PLC0415

    calls = fake_az.install_az(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert AzureCliCredential().get_token("https://management.azure.com/.default").token == TOKEN
    assert len(fake_az.read_calls(calls)) == 1
    fake_az.install_az(tmp_path, account="logged out")
    with pytest.raises(CredentialUnavailableError):
        AzureCliCredential().get_token("https://management.azure.com/.default")


@pytest.fixture(params=[pytest.param(True, id="mounts"), pytest.param(False, id="no mounts")])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> FakeCluster:
    if request.param and not has_private_mounts():
        pytest.skip("this machine allows no private mounts")
    data = tmp_path / "data"
    data.mkdir()
    (data / "slide.svs").write_text("pixels")
    nodes, datastore = tmp_path / "nodes", tmp_path / "datastore"
    return FakeCluster(folder=nodes, data=data, datastore=datastore, has_mounts=request.param)


def run_job(cluster: FakeCluster, folder: Path, text: str, *, n_nodes: int = 1) -> tuple[str, dict[str, str], Path]:
    """Submit a job, let the cluster run it, and return its status, its logs and where its output is."""
    with emulated_azure(on_job=cluster.start) as service:
        cluster.service = service
        submitted = open_client(service, folder).jobs.create_or_update(make_job(folder, text=text, n_nodes=n_nodes))
        job = service.jobs[str(submitted.name)]
        cluster.wait()
    return job.status, job.logs, cluster.output(job.name)


def test_a_node_runs_the_command_in_its_folders(cluster: FakeCluster, tmp_path: Path) -> None:
    text = 'sh main.sh; cat sub/table.txt; cp "${{inputs.wsi_data}}/slide.svs" "${{outputs.patch_dataset}}/copy"; env'
    status, logs, output = run_job(cluster, tmp_path, text + "; echo at ${{inputs.wsi_data}}")
    assert status == "Completed"
    lines = logs["user_logs/std_log.txt"].splitlines()
    assert lines[:2] == ["main", "a"]
    assert "FROM_JOB=yes" in lines
    assert not [line for line in lines if line.startswith(("PYTEST", "RANK", "MASTER", "AZUREML_DEV"))]
    assert lines[-1].endswith("/cap/data-capability/wd/INPUT_wsi_data")
    assert (output / "copy").read_text() == "pixels"


def test_a_node_that_fails_uploads_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    status, _, output = run_job(cluster, tmp_path, 'echo 1 > "${{outputs.patch_dataset}}/a"; exit 3')
    assert status == "Failed"
    assert not output.exists()


def test_the_input_of_a_node_is_read_only(cluster: FakeCluster, tmp_path: Path) -> None:
    data = "${{inputs.wsi_data}}"
    # Without mounts only the permissions say so, and root need not obey them.
    text = f"! rm {data}/slide.svs" if cluster.has_mounts else f'[ -z "$(find -L {data} -perm /222)" ]'
    status, logs, _ = run_job(cluster, tmp_path, text)
    assert status == "Completed", logs
    assert (cluster.data / "slide.svs").read_text() == "pixels"
    (cluster.data / "slide.svs").write_text("free again")


def test_nodes_know_each_other_and_share_no_folder(cluster: FakeCluster, tmp_path: Path) -> None:
    text = 'echo "$MASTER_ADDR $NODE_RANK of $WORLD_SIZE" > "${{outputs.patch_dataset}}/$RANK"; '
    status, logs, output = run_job(cluster, tmp_path, text + 'ls "${{outputs.patch_dataset}}"', n_nodes=2)
    assert status == "Completed"
    assert logs == {"user_logs/std_log_process_0.txt": "0\n", "user_logs/std_log_process_1.txt": "1\n"}
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        "0": "127.0.0.1 0 of 2\n",
        "1": "127.0.0.1 1 of 2\n",
    }


def test_a_node_that_fails_ends_the_others(cluster: FakeCluster, tmp_path: Path) -> None:
    """Nobody waits for the other one so long: the test, and the cluster, give up before."""
    status, _, _ = run_job(cluster, tmp_path, "[ $RANK = 0 ] || sleep 3600; exit 1", n_nodes=2)
    assert status == "Failed"


def test_a_node_can_be_late(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.starts_after_s = {1: 0.5}
    begun_ns = time.time_ns()
    text = 'date +%s%N > "${{outputs.patch_dataset}}/$RANK"'
    _, _, output = run_job(cluster, tmp_path, text, n_nodes=2)
    assert int((output / "1").read_text()) - begun_ns > 5e8


def test_private_mounts_leave_nothing_behind(cluster: FakeCluster, tmp_path: Path) -> None:
    run_job(cluster, tmp_path, "true")
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
