"""A network of namespaces: a bridge in one of its own, and one for each node, joined by a veth pair."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import ipaddress
import json
import os
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.integration.lab.processes import CommandError, command

IPV4 = ipaddress.IPv4Network("10.77.0.0/24")
IPV6 = ipaddress.IPv6Network("fd77:7065:696c:69::/64")
NAMED = Path("/run/netns")
CONFIGURED = Path("/etc/netns")  # `ip netns exec NAME` shows the files of NAME there as those of /etc
CLONE_NEWNET = 0x40000000
THREAD_TIMEOUT = 30.0  # seconds

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_OURS = re.compile(r"peili-(\d+)-[0-9a-f]+-.*")


@dataclass(frozen=True, slots=True)
class Counters:
    """What a node's interface has moved, in bytes."""

    received: int
    sent: int


class Namespace:
    """A node's network: eth0 with an IPv4 and an IPv6 address, at port `port` of the bridge."""

    def __init__(self, name: str, bridge: str, number: int) -> None:
        self.name = name
        self.number = number
        self.address = str(IPV4[number])
        self.address6 = str(IPV6[number])
        self._bridge = bridge
        self._port = f"port{number}"

    def up(self) -> None:
        """Make the namespace and join it to the bridge."""
        command("ip", "netns", "add", self.name)
        ip = ("ip", "-n", self.name)
        pair = ("type", "veth", "peer", "name", "eth0", "netns", self.name)
        command("ip", "-n", self._bridge, "link", "add", self._port, *pair)
        command("ip", "-n", self._bridge, "link", "set", self._port, "master", "bridge0", "up")
        command(*ip, "link", "set", "lo", "up")
        command(*ip, "address", "add", f"{self.address}/{IPV4.prefixlen}", "dev", "eth0")
        command(*ip, "address", "add", f"{self.address6}/{IPV6.prefixlen}", "dev", "eth0", "nodad")
        command(*ip, "link", "set", "eth0", "up")

    def reachable(self, yes: bool) -> None:
        """Let packets through, or lose them all without a word: no RST, no ICMP."""
        command("ip", "-n", self._bridge, "link", "set", self._port, "up" if yes else "down")

    def side(self, number: int) -> None:
        """Move this node to the bridge of this number, where it reaches those on the same one; all begin at 0."""
        name, ip = f"bridge{number}", ("ip", "-n", self._bridge, "link")
        with contextlib.suppress(CommandError):  # it is there already
            command(*ip, "add", name, "type", "bridge", "stp_state", "0")
        command(*ip, "set", name, "up")
        command(*ip, "set", self._port, "master", name)

    def limit(self, megabits: int | None) -> None:
        """Limit what this node sends, in Mbit/s; None lifts it."""
        tc = ("tc", "-n", self.name, "qdisc")
        if megabits is None:
            with contextlib.suppress(CommandError):
                command(*tc, "del", "dev", "eth0", "root")
            return
        # The bucket must hold a tick of the timer (rate / 200) and a super-packet of 64 KiB, or the rate is
        # never reached.
        burst = max(128 * 1024, megabits * 1_000_000 // 8 // 200)
        shape = ("rate", f"{megabits}mbit", "burst", str(burst), "latency", "50ms")
        command(*tc, "replace", "dev", "eth0", "root", "tbf", *shape)

    def crawl(self, kilobits: int) -> None:
        """Let this node send so few kbit/s, one packet at a time; `limit` lifts it.

        What was queued before is lost: a super-packet in there would never fit the bucket.
        """
        self.limit(None)
        shape = ("rate", f"{kilobits}kbit", "burst", "1600", "limit", "1000000")
        command("tc", "-n", self.name, "qdisc", "replace", "dev", "eth0", "root", "tbf", *shape)

    def reset(self, port: int) -> None:
        """Reset every connection that others have to this port here (ss -K: the peer gets an RST)."""
        command("ss", "--net", self.name, "--kill", "--tcp", "sport", "=", f":{port}")

    def counters(self) -> Counters:
        """What eth0 has moved so far."""
        [link] = json.loads(command("ip", "-n", self.name, "-s", "-j", "link", "show", "eth0"))
        return Counters(link["stats64"]["rx"]["bytes"], link["stats64"]["tx"]["bytes"])

    def set_hosts(self, names: dict[str, str]) -> None:
        """What names mean to programs started in here from now on: name to address."""
        directory = CONFIGURED / self.name
        directory.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {name}" for name, address in names.items())]
        (directory / "hosts").write_text("\n".join([*lines, ""]))
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")

    def inside(self, work: Callable[[], T]) -> T:
        """Do something in this namespace, in a thread of its own; sockets opened there stay there."""
        result: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with (NAMED / self.name).open() as file:
                    if _libc.setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"setns({self.name})")
                result.append(work())
            except BaseException as error:  # noqa: BLE001 it is raised again in the caller's thread
                errors.append(error)

        thread = threading.Thread(target=enter, name=self.name, daemon=True)
        thread.start()
        thread.join(THREAD_TIMEOUT)
        if errors:
            raise errors[0]
        if not result:
            raise TimeoutError(f"no end after {THREAD_TIMEOUT:g} s in {self.name}")
        return result[0]

    def connect(self, host: str, port: int, timeout: float = 10.0) -> socket.socket:
        """A TCP connection from this node."""
        return self.inside(lambda: socket.create_connection((host, port), timeout))

    def get(
        self,
        host: str,
        port: int,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        timeout: float = 10.0,
    ) -> Answer:
        """One HTTP request from this node, and the whole answer; raise OSError."""
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        connection.sock = self.connect(host, port, timeout)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, response.read())
        except http.client.HTTPException as error:
            raise OSError(f"{method} http://{host}:{port}{path}: {error!r}") from error
        finally:
            connection.close()

    def down(self) -> None:
        """Remove the namespace. The port first: with the namespace alone it would go some time later."""
        with contextlib.suppress(CommandError):
            command("ip", "-n", self._bridge, "link", "delete", self._port)
        with contextlib.suppress(CommandError):
            command("ip", "netns", "delete", self.name)
        shutil.rmtree(CONFIGURED / self.name, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; the names of the header's fields in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Network:
    """The bridge and its nodes. Names carry the process id of the tests and a random tag."""

    def __init__(self) -> None:
        sweep()
        self.tag = f"peili-{os.getpid()}-{secrets.token_hex(3)}"
        self._bridge = f"{self.tag}-bridge"
        self._nodes: list[Namespace] = []

    def up(self) -> None:
        """Make the bridge, in a namespace of its own."""
        command("ip", "netns", "add", self._bridge)
        command("ip", "-n", self._bridge, "link", "add", "bridge0", "type", "bridge", "stp_state", "0")
        command("ip", "-n", self._bridge, "link", "set", "bridge0", "up")

    @staticmethod
    def address(number: int, *, ipv6: bool = False) -> str:
        """The address of a node, as URLs write it, whether the node is there or not."""
        return f"[{IPV6[number]}]" if ipv6 else str(IPV4[number])

    def node(self, number: int) -> Namespace:
        """A new node with the addresses of this number."""
        node = Namespace(f"{self.tag}-{number}", self._bridge, number)
        self._nodes.append(node)
        node.up()
        return node

    def down(self) -> None:
        """Remove everything."""
        for node in self._nodes:
            node.down()
        self._nodes.clear()
        with contextlib.suppress(CommandError):
            command("ip", "netns", "delete", self._bridge)


def sweep() -> None:
    """Remove what tests left behind that were killed: namespaces whose names tell a process id that is no more."""
    names = {path.name for directory in (NAMED, CONFIGURED) if directory.is_dir() for path in directory.iterdir()}
    for name in names:
        match = _OURS.fullmatch(name)
        if match and not Path("/proc", match[1]).exists():
            with contextlib.suppress(CommandError):
                command("ip", "netns", "delete", name)
            shutil.rmtree(CONFIGURED / name, ignore_errors=True)
