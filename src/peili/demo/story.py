"""The demo's story: a rollout, a new image on all nodes at once, a crash in the middle, an outage upstream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from peili.demo.images import Image, Layout, build_image
from peili.demo.process import OPERATIONS_PORT, NodeProcess, unused_network
from peili.demo.puller import Host, Pull, PullFailed
from peili.demo.tree import bar, draw, sources_of
from peili.demo.upstream import Link, Upstream
from peili.http.client import Client
from peili.http.message import SocketAddress
from peili.oci.reference import Reference

NODES = 5
UPSTREAM_RATE = 100e6 / 8  # bytes a second: 100 Mbit/s, shared by all
NODE_RATE = 200e6 / 8  # of each node's own link
MEGABYTE = 1_000_000
WEB = Reference.parse("registry.demo/shop/web:1.0")
NEW = Reference.parse("registry.demo/shop/new:1.0")
MODEL = Reference.parse("registry.demo/shop/model:1.0")
_UPSTREAM_PORT = 5002
_TOLD_EVERY = 0.5  # seconds between two words about a pull under way
_LOOK_AGAIN = 0.005  # seconds

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table at the end; `plain` is the same without Peili, None where that could not work."""

    what: str
    seconds: float
    upstream_bytes: int
    plain_seconds: float | None
    plain_upstream_bytes: int | None


class Story:
    """Plays the whole demo in `base`, an empty directory; `say` prints a line."""

    def __init__(self, say: Say, base: Path) -> None:
        self._say = say
        self._base = base
        self._network = unused_network()
        self._client = Client()
        self._upstream = Upstream(SocketAddress(f"{self._network}.254", _UPSTREAM_PORT), UPSTREAM_RATE)
        self._images: dict[Reference, Image] = {}
        self._rows: list[Row] = []
        self._scratch = 0
        self.nodes = [NodeProcess(number, self._network, base, self._client) for number in range(1, NODES + 1)]

    async def run(self, *, keep: bool) -> None:
        """Play it; raise PullFailed or NodeFailed where something does not go as it should."""
        sizes = {
            WEB: (6 * MEGABYTE, 10 * MEGABYTE, 4 * MEGABYTE),
            NEW: (9 * MEGABYTE, 9 * MEGABYTE, 9 * MEGABYTE),
            MODEL: (50 * MEGABYTE,),
        }
        for reference, layers in sizes.items():
            image = await trio.to_thread.run_sync(_build, reference.repository, layers)
            self._images[reference] = image
            self._upstream.push(f"{reference.repository}:{reference.tag}", image)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._upstream.run)
                await self._start_nodes()
                await self._rollout()
                await self._all_at_once()
                await self._kill_in_the_middle()
                await self._without_upstream()
                self._table()
                if keep:
                    await self._keep()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._stop_nodes()
                await self._client.aclose()

    def logs(self) -> str:
        """The end of each node's log, for when something failed."""
        return "\n".join(
            f"--- {node.name}\n{node.log.read_text()[-2000:]}" for node in self.nodes if node.log.exists()
        )

    async def _start_nodes(self) -> None:
        self._say(f"{NODES} nodes start on {self._network}.1 to .{NODES}, each with one Peili and an empty store;")
        self._say(f"the upstream registry at {self._upstream.address} sends 100 Mbit/s, all together.")
        for node in self.nodes:
            await node.start()
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.wait_ready)
        self._say("All nodes are ready and know each other.\n")

    async def _rollout(self) -> None:
        """The first node pulls from upstream, three more at once from their peers; then the same without Peili."""
        self._say(f"1. A rollout of {WEB}: first node 1, then nodes 2, 3 and 4 at once.")
        started, before = trio.current_time(), self._upstream.bytes_sent
        await self._pull(self.nodes[:1], WEB)
        await self._pull(self.nodes[1:4], WEB)
        seconds, sent = trio.current_time() - started, self._upstream.bytes_sent - before
        self._say("   The same again without Peili, to compare:")
        started, before = trio.current_time(), self._upstream.bytes_sent
        await self._pull_plain(1, WEB)
        await self._pull_plain(3, WEB)
        plain, plain_sent = trio.current_time() - started, self._upstream.bytes_sent - before
        self._rows.append(Row("rollout on 4 nodes", seconds, sent, plain, plain_sent))

    async def _all_at_once(self) -> None:
        """All nodes want an image that nobody has yet: they follow each other's downloads."""
        self._say(f"\n2. {NEW} is new, nobody has it, and all {NODES} nodes pull it at once.")
        growing = await self._growing_bytes()
        started, before = trio.current_time(), self._upstream.bytes_sent
        await self._pull(self.nodes, NEW)
        seconds, sent = trio.current_time() - started, self._upstream.bytes_sent - before
        growing = await self._growing_bytes() - growing
        await self._tell_tree(self._images[NEW])
        self._say(f"   {growing / MEGABYTE:.1f} MB of it were taken while the layer still arrived at its source.")
        self._say("   The same again without Peili, to compare:")
        started, before = trio.current_time(), self._upstream.bytes_sent
        await self._pull_plain(NODES, NEW)
        plain, plain_sent = trio.current_time() - started, self._upstream.bytes_sent - before
        self._tell_bytes(self._images[NEW], sent, plain_sent)
        self._rows.append(Row(f"new image on {NODES} nodes at once", seconds, sent, plain, plain_sent))

    async def _tell_tree(self, image: Image) -> None:
        """Who led which layer, and who took it from whom, as the nodes' own status says."""
        names = {str(node.registry): node.name for node in self.nodes}
        requests = {node.name: (await node.status())["requests"] for node in self.nodes}
        self._say("   Who took which layer from whom:")
        for number, layer in enumerate(image.layers, 1):
            label = f"layer {number}"
            for line in draw(sources_of(str(layer.digest), requests, names)):
                self._say(f"      {label:<8}  {line}")
                label = ""

    async def _growing_bytes(self) -> int:
        """What all nodes took from layers in flight, since they started."""
        return sum([(await node.status())["cold_pulls"]["growing_bytes"] for node in self.nodes])

    def _tell_bytes(self, image: Image, mine: int, plain: int) -> None:
        self._say(f"   What upstream sent, in sizes of the image ({image.size / MEGABYTE:.1f} MB):")
        for what, count in (("with Peili", mine), ("without", plain)):
            self._say(f"      {what:<10}  {count / image.size:4.1f}  {bar(count, max(mine, plain))}")

    async def _kill_in_the_middle(self) -> None:
        """Two nodes have an image; the one that sends it to a third is killed half-way."""
        self._say(f"\n3. {MODEL}: nodes 1 and 2 have it, node 3 pulls it, and the node that sends it is killed.")
        await self._pull(self.nodes[:1], MODEL)
        await self._pull(self.nodes[1:2], MODEL)
        started, before = trio.current_time(), self._upstream.bytes_sent
        async with trio.open_nursery() as nursery:
            pull = self._new_pull(self.nodes[2], MODEL)
            nursery.start_soon(self._kill_sender, pull)
            await self._play(pull, self.nodes[2].name)
            nursery.cancel_scope.cancel()
        seconds, sent = trio.current_time() - started, self._upstream.bytes_sent - before
        started, before = trio.current_time(), self._upstream.bytes_sent
        self._say("   The same again without Peili, to compare:")
        await self._pull_plain(1, MODEL)
        plain, plain_sent = trio.current_time() - started, self._upstream.bytes_sent - before
        self._rows.append(Row("pull while its source is killed", seconds, sent, plain, plain_sent))

    async def _kill_sender(self, pull: Pull) -> None:
        while sum(pull.received.values()) < 20 * MEGABYTE:
            await trio.sleep(_LOOK_AGAIN)
        for node in self.nodes[:2]:
            if (await node.status())["registry"]["in_flight"]:
                node.kill()
                megabytes = sum(pull.received.values()) / MEGABYTE
                self._say(f"   >>> {node.name} is killed after {megabytes:.0f} MB <<<")
                return

    async def _without_upstream(self) -> None:
        """The upstream is gone, and a node that has nothing pulls all the same, by tag."""
        self._say(f"\n4. The upstream registry is stopped. Node 5 does not have {WEB} yet and pulls it.")
        self._upstream.stop()
        started, before = trio.current_time(), self._upstream.bytes_sent
        await self._pull(self.nodes[4:], WEB)
        seconds = trio.current_time() - started
        self._rows.append(
            Row("pull while upstream is down", seconds, self._upstream.bytes_sent - before, None, None)
        )

    async def _pull(self, nodes: Sequence[NodeProcess], reference: Reference) -> None:
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(self._play, self._new_pull(node, reference), node.name)
        # containerd has committed, and Peili tells the peers within the moment that the next pull takes to start.
        for node in nodes:
            await self._wait_offered(node, reference)

    async def _pull_plain(self, count: int, reference: Reference) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(1, count + 1):
                self._scratch += 1
                layout = Layout(self._base / f"plain{self._scratch}")
                hosts = [Host("upstream", self._upstream.address)]
                pull = Pull(self._client, hosts, layout, reference, Link(NODE_RATE))
                # The more of them, the longer they take: said less often.
                nursery.start_soon(self._play, pull, f"plain node {number}", count * _TOLD_EVERY)

    def _new_pull(self, node: NodeProcess, reference: Reference) -> Pull:
        hosts = [Host("peers", node.registry), Host("upstream", self._upstream.address)]
        return Pull(self._client, hosts, node.layout, reference, Link(NODE_RATE))

    async def _play(self, pull: Pull, name: str, told_every: float = _TOLD_EVERY) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_progress, pull, name, told_every)
            await pull.run()
            nursery.cancel_scope.cancel()
        total = sum(pull.received.values())
        parts = ", ".join(f"{count / MEGABYTE:.1f} MB from {host}" for host, count in pull.received.items())
        speed = total / pull.seconds / MEGABYTE
        self._say(f"   {name:<12} done in {pull.seconds:5.2f} s: {parts} ({speed:.0f} MB/s)")

    async def _tell_progress(self, pull: Pull, name: str, told_every: float) -> None:
        while True:
            await trio.sleep(told_every)
            parts = ", ".join(f"{count / MEGABYTE:.1f} MB from {host}" for host, count in pull.received.items())
            self._say(f"   {name:<12} ... {parts or 'nothing yet'}")

    async def _wait_offered(self, node: NodeProcess, reference: Reference) -> None:
        with trio.move_on_after(10):
            wanted = len(node.layout.names()) + len(node.layout.blobs())
            while (await node.status())["router"]["provided_keys"] < wanted:
                await trio.sleep(_LOOK_AGAIN)
            return
        raise PullFailed(f"{node.name} has {reference}, but does not offer it; its log is {node.log}")

    def _table(self) -> None:
        say = self._say
        say("\n                                     with Peili                 without")
        say("                                     seconds   from upstream    seconds   from upstream")
        for row in self._rows:
            mine = f"{row.seconds:7.2f}   {row.upstream_bytes / MEGABYTE:10.1f} MB"
            if row.plain_seconds is None or row.plain_upstream_bytes is None:
                plain = "impossible"
            else:
                plain = f"{row.plain_seconds:7.2f}   {row.plain_upstream_bytes / MEGABYTE:10.1f} MB"
            say(f"   {row.what:<32}  {mine}    {plain}")

    async def _keep(self) -> None:
        self._say(f"\nThe nodes go on running; logs and stores are in {self._base}. Try, in another terminal:")
        address = f"{self.nodes[2].host}:{OPERATIONS_PORT}"
        self._say(f"   .venv/bin/peili status --operations-address {address}")
        self._say(f"   curl -s http://{address}/metrics | grep ^peili")
        self._say(
            f"   curl -sI 'http://{self.nodes[4].registry}/v2/{WEB.repository}/manifests/{WEB.tag}?ns={WEB.registry}'"
        )
        self._say("End it with Ctrl-C.")
        await trio.sleep_forever()

    async def _stop_nodes(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.stop)


def _build(seed: str, layers: tuple[int, ...]) -> Image:
    return build_image(seed, layer_sizes=layers)
