"""Readiness: a pure decision with its reason, so that an operator reads why a node is not ready."""

from __future__ import annotations

from dataclasses import dataclass

# With no peer and no word from bootstrap a node becomes ready all the same: it harms nothing.
ALONE_AFTER = 30.0


@dataclass(frozen=True, slots=True)
class Health:
    """What readiness is decided from. `up_seconds` since the process was listening."""

    listening: bool
    synchronised: bool
    store_answering: bool
    store_problem: str
    router_ready: bool
    up_seconds: float
    draining: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready, or the reason why not."""

    ready: bool
    reason: str


def decide_readiness(health: Health) -> Readiness:
    """Ready once the first sync is done, the ports listen, the store answers and routing has settled.

    Losing peers later is a metric and not unreadiness: the node still serves what it has.
    """
    if health.draining:
        return Readiness(False, "shutting down")
    if not health.listening:
        return Readiness(False, "not listening yet")
    if not health.store_answering:
        return Readiness(False, health.store_problem or "the content store does not answer")
    if not health.synchronised:
        return Readiness(False, "the first walk through the content store is not done yet")
    if not health.router_ready and health.up_seconds < ALONE_AFTER:
        return Readiness(False, f"no peer yet; ready without one after {ALONE_AFTER:.0f} s")
    return Readiness(True, "ready")
