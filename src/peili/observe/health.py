"""Readiness: a pure decision with its reason, so that an operator reads why a node is not ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# With no peer and no word from bootstrap a node becomes ready all the same: it harms nothing.
ALONE_AFTER = 30.0


class Setup(Protocol):
    """Whether this node's containerd is set up to ask us."""

    @property
    def looked(self) -> bool:
        """Whether the first look is over."""
        ...

    @property
    def problem(self) -> str:
        """Why it certainly does not, in a sentence; else empty."""
        ...

    async def run(self) -> None:
        """Look until cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Health:
    """What readiness is decided from. `up_seconds` since the process was listening; `setup` is None where no
    containerd is to ask us."""

    listening: bool
    synchronised: bool
    store_answering: bool
    store_problem: str
    router_ready: bool
    up_seconds: float
    draining: bool
    setup: Setup | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready, or the reason why not."""

    ready: bool
    reason: str


def decide_readiness(health: Health) -> Readiness:
    """Ready once the first sync is done, the ports listen, the store answers and routing has settled.

    Losing peers later is a metric and not unreadiness: the node still serves what it has. A containerd that asks no
    mirror is unreadiness although the node serves its peers: it is what an update has to stop at, and only the
    operator can change it.
    """
    problem = _problem(health)
    return Readiness(not problem, problem or "ready")


def _problem(health: Health) -> str:
    """The first thing that is missing, in the order in which a node starts; empty where nothing is."""
    setup = health.setup
    problems = (
        (health.draining, "shutting down"),
        (not health.listening, "not listening yet"),
        (not health.store_answering, health.store_problem or "the content store does not answer"),
        (not health.synchronised, "the first walk through the content store is not done yet"),
        (setup is not None and not setup.looked, "containerd's settings are not known yet"),
        (setup is not None and setup.problem != "", setup.problem if setup is not None else ""),
        (
            not health.router_ready and health.up_seconds < ALONE_AFTER,
            f"no peer yet; ready without one after {ALONE_AFTER:.0f} s",
        ),
    )
    return next((reason for applies, reason in problems if applies), "")
