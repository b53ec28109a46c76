"""Installs and drives peer.mjs: js-libp2p as a child process that takes one command a line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.integration.js_libp2p.node import NoNode, find

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "js_libp2p"
FILES = ("package.json", "package-lock.json", "peer.mjs")
INSTALL_TIMEOUT = 300  # seconds
ANSWER_TIMEOUT = 30  # seconds


@cache
def install() -> tuple[Path | None, str]:
    """The directory of the installed peer, or why there is none. Installed once for each version of its files."""
    version = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in FILES)).hexdigest()[:16]
    target = CACHE / version
    if (target / "installed").exists():
        return target, ""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(HERE / name, target)
    try:
        npm = find().npm
    except NoNode as error:
        return None, str(error)
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=target, timeout=INSTALL_TIMEOUT, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"npm ci did not end within {INSTALL_TIMEOUT} s"
    if done.returncode:
        return None, f"npm ci failed: {done.stderr.strip()[-500:]}"
    (target / "installed").touch()
    return target, ""


def require() -> None:
    """Skip the test where js-libp2p is not there; fail it where the integration tests are required."""
    directory, problem = install()
    if directory is None and os.environ.get("PEILI_REQUIRE_CONTAINERD") == "1":
        pytest.fail(f"PEILI_REQUIRE_CONTAINERD=1, but there is no js-libp2p: {problem}", pytrace=False)
    if directory is None:
        pytest.skip(f"no js-libp2p: {problem}")


class JsError(Exception):
    """js-libp2p answered a command with an error."""


@dataclass
class JsPeer:
    """A running peer: its id, its address with the port, and `ask` for everything else."""

    process: trio.Process
    peer: str = ""
    port: int = 0
    _rest: bytes = b""

    async def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Give a command, and wait for its answer. Raise JsError."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps({"command": command, **arguments}).encode() + b"\n")
        answer = await self.line()
        if "error" in answer:
            raise JsError(answer["error"])
        return answer

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        with trio.fail_after(ANSWER_TIMEOUT):
            while b"\n" not in self._rest:
                data = await self.process.stdout.receive_some()
                if not data:
                    raise JsError("the process has ended")
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def js_peer(kad_prefix: str = "") -> AsyncIterator[JsPeer]:
    """A running js-libp2p peer on loopback; with a prefix it takes part in `PREFIX/kad/1.0.0` as a server."""
    directory, problem = install()
    assert directory is not None, problem
    arguments = [*find().node, "peer.mjs", *([kad_prefix] if kad_prefix else [])]
    process = await trio.lowlevel.open_process(
        arguments, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        peer = JsPeer(process)
        hello = await peer.line()
        peer.peer = hello["peer"]
        peer.port = int(hello["addresses"][0].split("/")[4])
        yield peer
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await trio.aclose_forcefully(pipe)
