"""The demo's nodes: real `peili run` processes on loopback addresses, each with an OCI layout as its store."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from peili.demo.images import Layout
from peili.http.client import Client
from peili.http.errors import HttpError
from peili.http.message import Headers, SocketAddress

REGISTRY_PORT = 5000
ROUTER_PORT = 5001
OPERATIONS_PORT = 9090
_READY_WITHIN = 40.0  # seconds; a node without any peer becomes ready after 30
_ASK_AGAIN = 0.05  # seconds
_MAXIMUM_STATUS = 4 * 1024 * 1024


class NodeFailed(Exception):
    """A node's process did not become ready; the text says where its log is."""


def unused_network() -> str:
    """The first three numbers of a loopback network that nobody is likely to use."""
    return f"127.{random.randrange(64, 250)}.{random.randrange(1, 250)}"


class NodeProcess:
    """One node: its address, its layout, its process."""

    def __init__(self, number: int, network: str, base: Path, client: Client) -> None:
        self.number = number
        self.name = f"node {number}"
        self.host = f"{network}.{number}"
        self.directory = base / f"node{number}"
        self.layout = Layout(self.directory)
        self.log = base / f"node{number}.log"
        self.registry = SocketAddress(self.host, REGISTRY_PORT)
        self._network = network
        self._client = client
        self._process: trio.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process; it finds the others through the first node."""
        addresses = {"registry": REGISTRY_PORT, "router": ROUTER_PORT, "operations": OPERATIONS_PORT}
        command = [sys.executable, "-m", "peili", "run", "--store", f"layout:{self.directory}"]
        for name, port in addresses.items():
            command += [f"--{name}-address", f"{self.host}:{port}"]
        first, second = f"{self._network}.1:{ROUTER_PORT}", f"{self._network}.2:{ROUTER_PORT}"
        command += ["--bootstrap", f"static:{first},{second}"]
        with self.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(),
            )

    async def wait_ready(self) -> None:
        """Wait until the node says that it is ready; raise NodeFailed."""
        with trio.move_on_after(_READY_WITHIN):
            while self._process is not None and self._process.poll() is None:
                try:
                    response = await self._ask("/readyz")
                except HttpError:
                    pass
                else:
                    await response.aclose()
                    if response.status == 200:
                        return
                await trio.sleep(_ASK_AGAIN)
        raise NodeFailed(f"{self.name} did not become ready; its log is {self.log}")

    async def status(self) -> dict[str, Any]:
        """The node's status document."""
        async with await self._ask("/status") as response:
            document: dict[str, Any] = json.loads(await response.read(_MAXIMUM_STATUS, timeout=5))
            return document

    def kill(self) -> None:
        """End the process as a power cut would."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """End the process cleanly, and reap it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with trio.move_on_after(10):
                await process.wait()
                return
            process.kill()
            await process.wait()

    async def _ask(self, target: str) -> Any:
        address = SocketAddress(self.host, OPERATIONS_PORT)
        return await self._client.open(address, "GET", target, Headers(), connect_timeout=2, head_timeout=2)


def _environment() -> dict[str, str]:
    """Without the operator's own settings, which would change the story."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PEILI_")}
