"""Processes of `peili run` with a cluster secret, from its file to the bytes of a pull."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from peili.cli import main
from peili.demo.images import Layout, build_image
from peili.demo.process import OPERATIONS_PORT, REGISTRY_PORT, ROUTER_PORT
from peili.http.client import Client
from peili.http.errors import HttpError
from peili.http.message import Headers, SocketAddress
from tests.fakes.nodes import fetch, next_host

NAME = "docker.io/library/app:1"
IMAGE = build_image("member processes", layer_sizes=(2_000_000,))
TAG = "/v2/library/app/manifests/1?ns=docker.io"
BLOB = f"/v2/library/app/blobs/{IMAGE.layers[0].digest}?ns=docker.io"
SECRET, OTHER = "5ec4e7" * 6, "07fe4a" * 6
PATIENCE = 30.0


class Process:
    """A node that runs."""

    def __init__(self, host: str, log: Path) -> None:
        self.host = host
        self.log = log
        self._client = Client()

    async def status(self) -> dict[str, Any]:
        address = SocketAddress(self.host, OPERATIONS_PORT)
        async with await self._client.open(
            address, "GET", "/status", Headers(), connect_timeout=2, head_timeout=5
        ) as response:
            document: dict[str, Any] = json.loads(await response.read(4_000_000, timeout=5))
            return document

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until the node's status is so."""
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    status = await self.status()
                    if condition(status):
                        return status
                except HttpError:
                    pass  # it does not listen yet
                await trio.sleep(0.05)  # another process: there is nothing else to wait for

    async def aclose(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def peili_run(directory: Path, first: str | None, *, secret: str | None) -> AsyncIterator[Process]:
    """A node whose first peer is at `first`; its secret comes by the environment variable."""
    host = next_host()
    command = [sys.executable, "-m", "peili", "run", "--store", f"layout:{directory}"]
    for name, port in (("registry", REGISTRY_PORT), ("router", ROUTER_PORT), ("operations", OPERATIONS_PORT)):
        command += [f"--{name}-address", f"{host}:{port}"]
    command += ["--bootstrap", f"static:{first or host}:{ROUTER_PORT}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEILI_")}
    if secret is not None:
        path = directory.with_suffix(".secret")
        path.write_text(secret + "\n")
        environment["PEILI_CLUSTER_SECRET_FILE"] = str(path)
    log = directory.with_suffix(".log")
    with log.open("wb") as file:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        )
    node = Process(host, log)
    try:
        yield node
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()
            await node.aclose()


async def test_members_pull_from_each_other_and_strangers_from_nobody(tmp_path: Path) -> None:
    for name in ("one", "two", "none", "other"):
        Layout(tmp_path / name)
    Layout(tmp_path / "one").add(NAME, IMAGE)
    forged = build_image("forged")
    Layout(tmp_path / "none").add("docker.io/library/forged:1", forged)
    async with (
        peili_run(tmp_path / "one", None, secret=SECRET) as one,
        peili_run(tmp_path / "two", one.host, secret=SECRET) as two,
        peili_run(tmp_path / "none", one.host, secret=None) as none,
        peili_run(tmp_path / "other", one.host, secret=OTHER) as other,
    ):
        await two.until(lambda status: status["router"]["records"] and status["ready"])
        await one.until(lambda status: status["router"]["refused_peers"] >= 2)
        for stranger in (none, other):
            await stranger.until(lambda status: status["router"]["bootstrap_problem"])

        assert (await fetch(two.host, TAG)).body == IMAGE.blobs[IMAGE.descriptor.digest]
        assert (await fetch(two.host, BLOB)).body == IMAGE.blobs[IMAGE.layers[0].digest]
        assert (await fetch(two.host, "/v2/library/forged/manifests/1?ns=docker.io")).status == 404
        for stranger in (none, other):
            assert (await fetch(stranger.host, TAG)).status == 404
            assert (await fetch(stranger.host, BLOB)).status == 404
        assert (await fetch(one.host, TAG, X_Peili_Mirrored="true")).status == 403

        for member in (one, two):
            router = (await member.status())["router"]
            assert [peer["host"] for peer in router["peers"]] == [two.host if member is one else one.host]
        logs = {node: node.log.read_text() for node in (one, two, none, other)}
        assert ["everybody who reaches" in text for text in logs.values()] == [False, False, True, False]
        assert "refused a peer" in logs[one]
        assert not any(secret in text for text in logs.values() for secret in (SECRET, OTHER))


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_bad_secret_is_refused_and_not_repeated(command: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2")
    arguments = {"run": ["run", "--registry-address", "127.0.0.1:1"], "check": ["check", "--json"]}[command]
    result = CliRunner().invoke(main, [*arguments, "--cluster-secret-file", str(path)])
    assert result.exit_code != 0
    assert "at least 16 bytes" in result.output
    assert "hunter2" not in result.output
