"""Calls to the workers of a Dask cluster: to hand bundles over, to wait for them, to fetch what became of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from dask.delayed import delayed
from distributed import Client, Future, KilledWorker, as_completed
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from wsi_extract.cluster.bundles import Bundle
from wsi_extract.cluster.clusters import ANSWER_S, RESUME, scheduler_lost, workers_of
from wsi_extract.cluster.node_cluster import HOME_RESOURCE
from wsi_extract.cluster.worker_calls import deliver_bundle, make_bundle, run_bundle
from wsi_extract.errors import EnvironmentFaultError

LOOK_ROUND_S = 1.0
"""How often the driver stops waiting for results to see whether the scheduler is still there."""
FETCH_ROUND_S = 5.0
"""How often it does so while it waits for a result that is ready."""
DELIVERY = "deliver"
"""Stage of what brings files home."""
FIRST = 10
"""Priority of that: workers of other nodes keep the files in their memory until then."""


class ResultLostError(Exception):
    """The results of a bundle are lost, and it is not known why."""


@dataclass(kw_only=True)
class ClusterCalls:
    """The workers of a cluster, for one run."""

    client: Client
    token: str
    """Random part of the keys: Dask takes two tasks of one key for the same, also from different runs."""
    stall_s: float
    """How long nothing at all may arrive although there are workers."""
    patience_s: float = 120.0
    """How long the cluster may be without workers."""
    _n_submitted: int = 0
    _last_arrival_s: float = 0.0
    _last_workers_s: float = 0.0

    @property
    def plugin_name(self) -> str:
        """Name of the plugin of this run at the workers."""
        return f"wsi-extract-slides-{self.token}"

    def run_anywhere(self, bundle: Bundle) -> Future[Any]:
        """Have a bundle run by any worker."""
        return self._compute(run_bundle, bundle)

    def run_at_home(self, bundle: Bundle) -> Future[Any]:
        """Have a bundle run by a worker of the node that the output folder is on."""
        return self._compute(run_bundle, bundle, resources={HOME_RESOURCE: 1})

    def run_near(self, bundle: Bundle, *, addresses: Sequence[str]) -> Future[Any]:
        """Have a bundle that writes nothing run by one of these workers, or by any when they have gone."""
        return self._compute(run_bundle, bundle, workers=addresses, allow_other_workers=True)

    def make_near(self, bundle: Bundle, *, addresses: Sequence[str]) -> Future[Any]:
        """Have the files of a bundle made by one of these workers, or by any when they have gone."""
        return self._compute(make_bundle, bundle, workers=addresses, allow_other_workers=True)

    def deliver(self, made: Future[Any], bundle: Bundle) -> Future[Any]:
        """Have the files that were made fetched and written by a worker of the node that the output folder is on."""
        future: Future[Any] = self.client.submit(
            deliver_bundle,
            made,
            self.plugin_name,
            key=self._key(DELIVERY, bundle),
            resources={HOME_RESOURCE: 1},
            priority=FIRST,
            pure=False,
        )
        return future

    def _compute(self, function: Any, bundle: Bundle, **places: Any) -> Future[Any]:
        call = delayed(function, pure=False, traverse=False)
        lazy = call(bundle, self.plugin_name, dask_key_name=self._key(bundle[0].stage, bundle))
        future: Future[Any] = self.client.compute(lazy, optimize_graph=False, **places)
        return future

    def _key(self, stage: str, bundle: Bundle) -> tuple[str, int, int]:
        """Return the key of a call: stage, slide and number of the first task.

        The dashboard cuts a key at the first word that is not purely alphabetic: one bar per stage, one group per
        slide. Slide names must not enter the key.
        """
        self.check_connection()
        self._n_submitted += 1  # a task that is tried again is another one to Dask
        return f"{stage}-s{bundle[0].slide_ordinal:07d}-{self.token}", bundle[0].index, self._n_submitted

    def arrivals(self) -> Any:
        """Return what yields the calls that are added to it, as they end."""
        return as_completed()

    def begin(self) -> None:
        """Note that from now on something is waited for."""
        self._last_arrival_s = self._last_workers_s = time.monotonic()

    def wait(self, arrivals: Any, *, until_s: float | None = None) -> bool:
        """Wait until a call has ended; return whether one has, or it is ``until_s`` of `time.monotonic` before.

        Raises
        ------
        EnvironmentFaultError
            When none can end any more.
        """
        while not arrivals.has_ready():
            if until_s is not None and time.monotonic() >= until_s:
                return False
            with arrivals.thread_condition:
                if not arrivals.has_ready():  # notified under the condition's lock, after it is ready
                    arrivals.thread_condition.wait(timeout=min(LOOK_ROUND_S, self.patience_s))
            self.check_connection()
            self._check_progress()
        self._last_arrival_s = self._last_workers_s = time.monotonic()
        return True

    def _check_progress(self) -> None:
        now_s = time.monotonic()
        if now_s - self._last_arrival_s >= self.stall_s and workers_of(self.client):
            raise EnvironmentFaultError(
                f"nothing has come from the workers of the Dask cluster for {now_s - self._last_arrival_s:.0f} s: they "
                "hang, or are paused because their memory is full.",
                f"Look at their logs, or give them more memory. {RESUME}",
            )
        if now_s - self._last_workers_s >= self.patience_s:
            if not workers_of(self.client):
                raise _no_workers(f"for {self.patience_s:.0f} s")
            self._last_workers_s = now_s

    def check_connection(self) -> None:
        """Refuse to go on without a scheduler.

        Raises
        ------
        EnvironmentFaultError
            When it has gone.
        """
        if self.client.status != "running":
            raise scheduler_lost(self.client)

    def fetch(self, future: Future[Any]) -> Any:
        """Return what a call that ended has returned; look now and then whether there is anybody left to ask.

        Its state may be "lost" or "pending" by now, when the worker died with the result.

        Raises
        ------
        KilledWorker
            When its worker died.
        ResultLostError
            When its result does not come.
        EnvironmentFaultError
            When the scheduler has gone, there are no workers, or a worker refuses to take part.
        OSError
            When the call itself failed with it, not the way to its result.
        """
        until_s = time.monotonic() + ANSWER_S
        while True:
            try:
                return future.result(timeout=FETCH_ROUND_S)
            except CancelledError as error:
                raise scheduler_lost(self.client) from error
            except (NoWorkerError, NoValidWorkerError) as error:  # as soon as the scheduler was told to say so
                raise _no_workers("for too long") from error
            except (KilledWorker, EnvironmentFaultError):  # the second is an OSError as well, but that of a worker
                raise
            except (TimeoutError, OSError) as error:
                if future.status == "error":  # what the call itself raised: to ask again would bring it again
                    raise
                self.check_connection()
                if time.monotonic() >= until_s:
                    raise ResultLostError from error


def deaths_in(error: Exception) -> int:
    """Return how many workers died, as an error of `ClusterCalls.fetch` tells."""
    return error.allowed_failures + 1 if isinstance(error, KilledWorker) else 0


def _no_workers(how_long: str) -> EnvironmentFaultError:
    return EnvironmentFaultError(f"the Dask cluster has had no workers {how_long}.", f"Look at their logs. {RESUME}")
