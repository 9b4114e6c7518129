"""Says how to reach the dashboard from where the user sits: on this machine, behind SSH, or behind an Azure ML job.

Asks nobody: what it knows is the link, the name of this machine and the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
OF_THIS_MACHINE = frozenset({"localhost", "::1", LOOPBACK, ""})
EVERYWHERE = frozenset({"0.0.0.0", "::"})
STATUS_PAGE = "/status"
SSH_PORT = 22
CLUSTER_SSH_PORT = 50000
"""Where the first node of an Azure ML compute cluster listens; the next ones follow."""


def describe_dashboard(link: str | None, *, environ: Mapping[str, str], host: str) -> list[str]:
    """Return what to print about the dashboard: its address, and how to get there.

    Parameters
    ----------
    link
        ``http://HOST:PORT/status``, as Dask gives it; ``None`` when the cluster has no dashboard.
    environ
        Environment of this process: ``SSH_CONNECTION`` shows a remote shell, ``AZUREML_RUN_ID`` a job.
    host
        Name or address of this machine, as others know it.

    Returns
    -------
    list of str
        At least one line. The first begins with ``dashboard: `` and the link.
    """
    if link is None:
        return ["dashboard: this cluster has none"]
    parts = urlsplit(link)
    target, port = parts.hostname or LOOPBACK, parts.port or 80
    is_here = target in OF_THIS_MACHINE | EVERYWHERE
    path = parts.path or STATUS_PAGE
    job = environ.get("AZUREML_RUN_ID", "")
    if job:
        return _routes_of_job(link, job=job, host=host if is_here else target, port=port, path=path)
    connection = environ.get("SSH_CONNECTION", "").split()
    if not connection:
        return [f"dashboard: {link}"]
    user = environ.get("USER") or environ.get("LOGNAME") or "USER"
    port_flag = f"-p {connection[3]} " if len(connection) == 4 and connection[3] != str(SSH_PORT) else ""
    tunnel = f"{port}:{_bracketed(LOOPBACK if is_here else target)}:{port}"
    return [
        f"dashboard: {link}",
        f"  from your computer: ssh -N {port_flag}-L {tunnel} {user}@{host}",
        f"  and then open http://localhost:{port}{path}",
    ]


def _routes_of_job(link: str, *, job: str, host: str, port: int, path: str) -> list[str]:
    """Return the ways to a node of an Azure ML job; all but the last one need a service of the job."""
    is_open = (urlsplit(link).hostname or "") not in OF_THIS_MACHINE
    far = f"  cluster with SSH key: ssh -N -p {CLUSTER_SSH_PORT} -L {port}:{_bracketed(host)}:{port} ADMIN@PUBLIC_IP"
    return [
        f"dashboard: {link} on node {host}",
        f"  job.services vscode: panel Ports, forward {port}; jupyterlab: JUPYTER_URL/proxy/{port}{path}",
        f"  job.services ssh: az ml job connect-ssh --name {job} --node-index 0 --private-key-file-path KEY",
        far if is_open else f"{far}, if dashboard_address is 0.0.0.0:{port}",
    ]


def _bracketed(host: str) -> str:
    """Return a host as it stands in ``-L``: addresses of IPv6 in brackets.

    >>> _bracketed("fe80::1"), _bracketed("10.0.0.4")
    ('[fe80::1]', '10.0.0.4')
    """
    return f"[{host}]" if ":" in host else host
