"""One node: the rooms wired together around a store and a router; the top nursery, readiness and shutdown."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog
import trio

from peili.beat import sleep_to_beat
from peili.follow.poison import Poison
from peili.follow.serving import Admission, admit
from peili.follow.slots import Slots
from peili.http.client import Client
from peili.http.errors import HttpError
from peili.http.message import Headers, SocketAddress
from peili.http.server import Exchange, Server, listen
from peili.members.membership import Membership
from peili.members.peer_requests import PeerRequests
from peili.members.request_mac import MEMBER_HEADER
from peili.mirror.attempt import Asker
from peili.mirror.body_budget import BodyBudget
from peili.mirror.explain import Explainer
from peili.mirror.follower import Follower
from peili.mirror.giveup import GiveUps
from peili.mirror.growing_source import SourceAsker
from peili.mirror.held import Tree
from peili.mirror.history import History
from peili.mirror.keeper import Keeper
from peili.mirror.lookup import Lookup
from peili.mirror.mirror import Mirror
from peili.mirror.peer_ids import PeerIds
from peili.mirror.race import RaceLimits
from peili.mirror.second_look import SecondLook
from peili.mirror.source_race import Sources
from peili.mirror.verdicts import Verdicts
from peili.observe.cold_pulls import ColdPulls, ColdPullStatistics, Coordinating
from peili.observe.health import Health, Readiness, Setup, decide_readiness
from peili.observe.log import log_request
from peili.observe.metrics import Metrics
from peili.observe.operations import Operations
from peili.observe.recent import Recent
from peili.observe.status import render_status
from peili.observe.troubles import Troubles
from peili.observe.upstream import watch_upstream
from peili.oci.digest import Digest
from peili.oci.reference import Reference
from peili.registry.clients import ClientNetworks
from peili.registry.endpoint import Registry
from peili.registry.gate import MIRRORED_HEADER, SPEGEL_MIRRORED_HEADER, Gate
from peili.registry.policy import Policy
from peili.registry.record import RequestRecord
from peili.registry.uploads import Uploads
from peili.routing.peer_ids import raw_id, text_id
from peili.routing.protocol import Router
from peili.settings import RouterProtocol, RunSettings
from peili.store.protocol import Store
from peili.sync import Provided, keep_provided
from peili.version import VERSION

_log = structlog.get_logger()
OPEN_CLUSTER = (
    "no --cluster-secret-file: everybody who reaches this node's ports can answer for tags and read every image"
)
_PEER_IDS = PeerIds(to_bytes=raw_id, to_text=text_id)
_LOOK_AGAIN = 1.0  # seconds
_CLOSING = 1.0  # seconds for closing idle connections at the end


class StartFailed(Exception):
    """The node cannot start; the text says what is wrong, where, and what to do."""


@dataclass(slots=True)
class _State:
    """What readiness is decided from; times of trio's clock."""

    listening_since: float | None = None
    synchronised: bool = False
    router_ready: bool = False
    draining: bool = False


class Node:
    """One Peili. Store and router are given: the daemon, the demo and tests choose them; so is the membership,
    which the router shares (None: everybody is a member), and who looks at containerd's settings."""

    def __init__(
        self,
        settings: RunSettings,
        store: Store,
        router: Router,
        membership: Membership | None = None,
        coordination: Coordinating | None = None,
        setup: Setup | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.recent = Recent()
        self._provided = Provided()
        self.cold_pulls = ColdPulls(self.metrics)
        self.body_budget = BodyBudget()
        self._settings = settings
        self._store = store
        self._router = router
        self._membership = membership
        self._coordination = coordination
        self._setup = setup
        self._policy = Policy(
            settings.mirrored_registries, settings.filters, settings.resolve_tags, settings.resolve_latest
        )
        self._client = Client()
        self._poison = Poison()
        self._verdicts = Verdicts(store, self._poison, self.metrics, _PEER_IDS)
        self._keeper: Keeper | None = None
        self._slots: Slots | None = None
        self._endpoint = self._registry_endpoint()
        self._registry = Server(self._answer, on_error=_log_error)
        self._operations = Server(self._operations_endpoint().handle, on_error=_log_error)
        self._state = _State()
        self._stop = trio.Event()

    def stop(self) -> None:
        """Ask the running node to end cleanly: withdraw, then let transfers finish within the grace period."""
        self._stop.set()

    def readiness(self) -> Readiness:
        """Whether this node is ready, and why not."""
        store, since = self._store.statistics(), self._state.listening_since
        return decide_readiness(
            Health(
                listening=since is not None,
                synchronised=self._state.synchronised,
                store_answering=store.answering,
                store_problem=store.problem,
                router_ready=self._state.router_ready,
                up_seconds=trio.current_time() - since if since is not None else 0.0,
                draining=self._state.draining,
                setup=self._setup,
            )
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`, or until cancelled, which ends transfers at once.

        `task_status.started()` is called once everything listens. Raise StartFailed.
        """
        settings = self._settings
        async with (
            self._closing_client(),
            _listening(settings.registry_address, "--registry-address") as registry_listeners,
            _listening(settings.operations_address, "--operations-address") as operations_listeners,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(self._operations.run, operations_listeners)
            await nursery.start(self._registry.run, registry_listeners)
            router_scope = await nursery.start(self._run_router)
            self._observe()
            self._state.listening_since = trio.current_time()
            if self._keeper is not None:
                await nursery.start(self._keeper.run)
            sync_scope = await nursery.start(self._sync)
            _log.info("listening", version=VERSION, registry=str(settings.registry_address))
            if self._membership is None:
                _log.warning(OPEN_CLUSTER)
            else:
                nursery.start_soon(self._membership.run, _log.warning)
            if self._setup is not None:
                nursery.start_soon(self._setup.run)
            nursery.start_soon(self._announce_readiness)
            nursery.start_soon(self._watch_troubles)
            task_status.started()
            await self._stop.wait()
            await self._end(router_scope, sync_scope)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _closing_client(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with trio.move_on_after(_CLOSING, shield=True):
                await self._client.aclose()

    async def _end(self, router_scope: trio.CancelScope, sync_scope: trio.CancelScope) -> None:
        _log.info("stopping", grace_seconds=self._settings.grace_period)
        self._state.draining = True
        sync_scope.cancel()
        router_scope.cancel()  # the router says goodbye on its way out, while transfers finish
        await self._registry.drain(self._settings.grace_period)
        _log.info("stopped")

    async def _run_router(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(self._router.run)
                except OSError as error:
                    raise StartFailed(
                        _port_problem(self._settings.router_address, "--router-address", error)
                    ) from error
                task_status.started(scope)
                await self._router.wait_ready()
                self._state.router_ready = True

    async def _sync(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Run the store, and once it has walked, keep the router told of what it holds."""
        with trio.CancelScope() as scope:
            task_status.started(scope)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._store.run)
                nursery.start_soon(watch_upstream, self._store, self.recent, self.metrics.missed)
                await nursery.start(self._verdicts.run)
                await nursery.start(keep_provided, self._store, self._router, self._policy.offers, self._provided)
                self._state.synchronised = True

    async def _announce_readiness(self) -> None:
        """Say once when the node becomes ready, and what keeps it from it when that takes long."""
        said = ""
        while True:
            readiness = self.readiness()
            if readiness.ready:
                _log.info("ready", keys=sum(self._store.statistics().keys.values()))
                return
            if readiness.reason not in (said, self._setup.problem if self._setup else ""):
                said = readiness.reason
                _log.info("not ready yet", reason=said)
            await trio.sleep(0.2)

    async def _watch_troubles(self) -> None:
        """Log what an operator should read; heed the limit of downloads that the store's version has."""
        troubles, slots = Troubles(trio.current_time()), 0
        while True:
            await sleep_to_beat(_LOOK_AGAIN)
            store, router = self._store.statistics(), self._router.statistics()
            if self._slots is not None and store.download_slots != slots:
                slots = store.download_slots
                self._slots.limit(slots)
            expected, now = bool(self._settings.bootstrap), trio.current_time()
            for notice in (
                troubles.store(store.problem) if self._state.synchronised else None,
                troubles.setup(self._setup.problem) if self._setup else None,
                troubles.peers(len(router.peers), router.bootstrap_problem, now, expected=expected),
            ):
                if notice is not None:
                    fields = {"problem": notice.problem} if notice.problem else {}
                    (_log.warning if notice.warning else _log.info)(notice.event, **fields)

    def _registry_endpoint(self) -> Registry:
        settings, history = self._settings, History()
        asker = Asker(self._client, self._peer_requests(), self.body_budget, silence=settings.stall_timeout)
        limits = RaceLimits(settings.resolve_timeout)
        lookup = Lookup(self._router, asker, history, limits, self.metrics)
        stall = settings.stall_timeout
        follower = self._follower(lookup, history) if settings.follow is not None else None
        self._explainer = Explainer(
            self._store, self._router, lookup, self._policy, timeout=settings.resolve_timeout
        )
        look = SecondLook(lookup, asker, self._verdicts, history, self.metrics, stall_timeout=stall)
        mirror = Mirror(
            lookup,
            history,
            GiveUps(),
            self.metrics,
            self._verdicts,
            look,
            stall_timeout=stall,
            follower=follower,
        )
        uploads = Uploads(settings.max_uploads)
        return Registry(self._store, mirror, self._policy, self._gate(), self._record, uploads, self._admit)

    def _follower(self, lookup: Lookup, history: History) -> Follower | None:
        """What follows blobs in flight; None where the router has no coordinators."""
        settings, coordination = self._settings, self._coordination
        if settings.follow is None or coordination is None:
            return None
        self._slots = slots = Slots(replace(settings.follow, slots=0))  # until containerd's version is known
        self._keeper = Keeper(self._store, coordination, settings.follow, self._poison, slots, self.cold_pulls)
        sources = SourceAsker(self._client, self._peer_requests().headers, silence=settings.stall_timeout)
        remembered = Sources(history, self.metrics, _PEER_IDS)
        tree = Tree(coordination, sources, settings.follow, slots, self._poison, self.cold_pulls, remembered)
        port = settings.registry_address.port
        return Follower(self._store, tree, self._keeper, lookup, port=port, zone=settings.zone)

    def _admit(self, digest: Digest, size: int, start: int, followers: int) -> Admission:
        """Whether one more follower may take a growing blob of ours."""
        if self._settings.follow is None:
            return Admission.BEHIND
        active = self._keeper is None or self._keeper.is_active(digest)
        return admit(self._settings.follow, followers=followers, size=size, start=start, active=active)

    def _gate(self) -> Gate:
        """Who may ask: with a secret its members, and clients on this machine or where the settings say."""
        settings, restricted = self._settings, self._membership is not None or self._settings.client_networks
        clients = ClientNetworks(settings.client_networks) if restricted else None
        return Gate(MEMBER_HEADER, self._membership, clients, settings.credentials)

    def _peer_requests(self) -> PeerRequests:
        """What our requests to peers carry; the password only where there is no better proof."""
        spegel = self._settings.router_protocol is RouterProtocol.SPEGEL
        mark = SPEGEL_MIRRORED_HEADER if spegel else MIRRORED_HEADER
        fields = {mark: "true", "User-Agent": f"peili/{VERSION}"}
        if self._membership is None and self._settings.credentials is not None:
            fields["Authorization"] = self._settings.credentials.header
        return PeerRequests(Headers.of(fields), self._membership)

    def _operations_endpoint(self) -> Operations:
        return Operations(
            self.readiness,
            self.metrics.render,
            lambda: render_status(
                self.readiness(),
                self._router.statistics(),
                self._store.statistics(),
                self._registry.statistics(),
                self.recent,
                self._cold_pulls(),
            ),
            self._explain,
        )

    def _cold_pulls(self) -> ColdPullStatistics | None:
        if self._keeper is None or self._coordination is None:
            return None
        return self.cold_pulls.statistics(self._coordination.coordinator.statistics())

    async def _answer(self, exchange: Exchange) -> None:
        if self._keeper is not None:
            self.cold_pulls.asked(exchange.request.target)
        await self._endpoint.handle(exchange)

    async def _explain(self, reference: Reference) -> dict[str, Any]:
        return asdict(await self._explainer.explain(reference))

    def _observe(self) -> None:
        self.metrics.observe(
            router=self._router.statistics,
            store=self._store.statistics,
            provided=self._provided.by_kind,
            server=self._registry.statistics,
            ready=lambda: self.readiness().ready,
            tasks=lambda: trio.lowlevel.current_statistics().tasks_living,
        )

    def _record(self, record: RequestRecord) -> None:
        self.metrics.request(record)
        self.recent.request(record)
        log_request(_log, record)


@asynccontextmanager
async def _listening(address: SocketAddress, setting: str) -> AsyncIterator[Sequence[trio.SocketListener]]:
    try:
        listeners = await listen(address)
    except OSError as error:
        raise StartFailed(_port_problem(address, setting, error)) from error
    try:
        yield listeners
    finally:
        for listener in listeners:
            with trio.CancelScope(shield=True):
                await listener.aclose()


def _port_problem(address: SocketAddress, setting: str, error: OSError) -> str:
    # The system's words alone: whoever raised this has named the address as well.
    what = os.strerror(error.errno) if error.errno else str(error)
    return (
        f"cannot listen on {address}: {what}. Another program may hold the port (`ss -ltnp`), or the address "
        f"is not one of this node; change {setting}"
    )


def _log_error(exchange: Exchange, error: Exception) -> None:
    """A fault of ours, or of a socket, while a request was answered."""
    log = _log.debug if isinstance(error, HttpError) else _log.error
    log("request failed", target=exchange.request.target[:200], client=str(exchange.request.client), exc_info=error)
