"""What of one stream of tasks is where: not taken yet, on its way, waiting to be brought home, lost."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from distributed import Future

from wsi_extract.cluster.bundles import Bundle, Bundler
from wsi_extract.cluster.casualties import Casualties
from wsi_extract.cluster.placement import Placement


class Phase(Enum):
    """What happens to a bundle."""

    RUN = "run"
    """Somewhere, and when it has ended all is done."""
    MAKE = "make"
    """Files are made that have to be delivered."""
    DELIVER = "deliver"
    """What was made is brought home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A bundle on its way."""

    bundle: Bundle
    node: int
    """Where it was sent, which need not be where it runs."""
    phase: Phase
    is_alone: bool
    """Whether nothing else is in flight."""
    made: Future[Any] | None = None
    """What is delivered; kept until it was."""


@dataclass(kw_only=True)
class Shift:
    """One stream of tasks on its way through the cluster."""

    placement: Placement
    bundler: Bundler
    arrivals: Any
    """Where calls come to an end, see `wsi_extract.cluster.cluster_calls.ClusterCalls.arrivals`."""
    in_flight: dict[Future[Any], Flight] = field(default_factory=dict)
    made: deque[Flight] = field(default_factory=deque)
    """What waits for its delivery."""
    casualties: Casualties = field(default_factory=Casualties)
    n_out: Counter[int] = field(default_factory=Counter)
    """Bundles that each node was sent, until they are done."""
    n_delivering: int = 0
    next_look_s: float = 0.0

    @property
    def n_in_flight(self) -> int:
        """Bundles that were taken, and of which it is not known yet what became of them."""
        return len(self.in_flight) + len(self.made) + len(self.casualties)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left, and nothing is in flight that could bring something new."""
        return not (self.n_in_flight or self.placement.n_waiting or self.bundler.n_suspects)

    def futures(self) -> list[Future[Any]]:
        """Return all that the cluster still does, or keeps."""
        flights = (*self.in_flight.values(), *self.made)
        return [*self.in_flight, *(flight.made for flight in flights if flight.made is not None)]

    def add(self, future: Future[Any], flight: Flight) -> None:
        """Note what was sent."""
        self.in_flight[future] = flight
        self.arrivals.add(future)
        if flight.phase is Phase.DELIVER:
            self.n_delivering += 1
        else:
            self.n_out[flight.node] += 1

    def land(self, future: Future[Any]) -> Flight:
        """Return what has come to an end."""
        flight = self.in_flight.pop(future)
        if flight.phase is Phase.DELIVER:
            self.n_delivering -= 1
        return flight
