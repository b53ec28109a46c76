"""The status of a node as one JSON document: what `peili status` asks for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from peili.http.server import ServerStatistics
from peili.observe.cold_pulls import ColdPullStatistics
from peili.observe.health import Readiness
from peili.observe.recent import Recent
from peili.routing.protocol import RouterStatistics
from peili.store.protocol import StoreStatistics
from peili.version import VERSION


def render_status(
    readiness: Readiness,
    router: RouterStatistics,
    store: StoreStatistics,
    server: ServerStatistics,
    recent: Recent,
    cold_pulls: ColdPullStatistics | None,
) -> dict[str, Any]:
    """The document, of JSON's types only; sizes in bytes, times in seconds.

    `cold_pulls`: None where blobs in flight are not followed.
    """
    return {
        "version": VERSION,
        "ready": readiness.ready,
        "reason": readiness.reason,
        "router": asdict(router),
        "store": {**asdict(store), "keys": {str(kind): count for kind, count in store.keys.items()}},
        "registry": {"connections": server.connections, "in_flight": server.in_flight},
        "totals": asdict(recent.totals),
        "cold_pulls": asdict(cold_pulls) if cold_pulls is not None else None,
        "requests": [asdict(record) for record in recent.requests()],
    }
