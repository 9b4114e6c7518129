"""What is said about the dashboard, from where the user sits."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from wsi_extract.console.dashboard_address import describe_dashboard

HERE = "http://127.0.0.1:8787/status"
SSH = {"SSH_CONNECTION": "10.0.0.9 51234 10.0.0.4 22", "USER": "ada"}
JOB = {"AZUREML_RUN_ID": "plum_sky_x1"}


@pytest.mark.parametrize(
    ("link", "environ", "lines"),
    [
        pytest.param(HERE, {}, [f"dashboard: {HERE}"], id="this machine"),
        pytest.param(None, JOB, ["dashboard: this cluster has none"], id="no dashboard"),
        pytest.param(
            HERE,
            SSH,
            [
                f"dashboard: {HERE}",
                "  from your computer: ssh -N -L 8787:127.0.0.1:8787 ada@node7",
                "  and then open http://localhost:8787/status",
            ],
            id="SSH",
        ),
        pytest.param(
            "http://127.0.0.1:41234/status",
            SSH | {"SSH_CONNECTION": "10.0.0.9 51234 10.0.0.4 2222"},
            [
                "dashboard: http://127.0.0.1:41234/status",
                "  from your computer: ssh -N -p 2222 -L 41234:127.0.0.1:41234 ada@node7",
                "  and then open http://localhost:41234/status",
            ],
            id="SSH, other ports",
        ),
        pytest.param(
            "http://head:8787/status",
            {"SSH_CONNECTION": "nonsense"},
            [
                "dashboard: http://head:8787/status",
                "  from your computer: ssh -N -L 8787:head:8787 USER@node7",
                "  and then open http://localhost:8787/status",
            ],
            id="SSH, dashboard of another machine",
        ),
        pytest.param(
            "http://[fe80::1]:8787/status",
            SSH,
            [
                "dashboard: http://[fe80::1]:8787/status",
                "  from your computer: ssh -N -L 8787:[fe80::1]:8787 ada@node7",
                "  and then open http://localhost:8787/status",
            ],
            id="SSH, IPv6",
        ),
    ],
)
def test_what_is_said(link: str | None, environ: dict[str, str], lines: list[str]) -> None:
    assert describe_dashboard(link, environ=environ, host="node7") == lines


def test_a_job_is_told_every_way_to_its_node() -> None:
    first, *ways = describe_dashboard(HERE, environ=JOB | SSH, host="10.0.0.4")  # the job counts, not the shell
    assert first == f"dashboard: {HERE} on node 10.0.0.4"
    text = "\n".join(ways)
    assert len(ways) == 3
    assert "vscode: panel Ports, forward 8787" in text
    assert "/proxy/8787/status" in text
    assert "az ml job connect-ssh --name plum_sky_x1 --node-index 0 " in text
    assert "ssh -N -p 50000 -L 8787:10.0.0.4:8787 " in text
    assert text.endswith("if dashboard_address is 0.0.0.0:8787")  # a loopback address is not reached from other nodes


def test_a_dashboard_that_listens_everywhere_needs_no_advice_to_do_so() -> None:
    *_, last = describe_dashboard("http://0.0.0.0:9000/status", environ=JOB, host="10.0.0.4")
    assert last.endswith("ssh -N -p 50000 -L 9000:10.0.0.4:9000 ADMIN@PUBLIC_IP")


@pytest.mark.parametrize("environ", [{}, SSH, JOB])
def test_lines_are_short_and_begin_alike(environ: dict[str, str]) -> None:
    lines = describe_dashboard(HERE, environ=environ, host="a" * 32)
    assert lines[0].startswith(f"dashboard: {HERE}")
    assert urlsplit(lines[0].split()[1]).port == 8787
    assert max(map(len, lines)) < 160
    assert len(lines) <= 4
