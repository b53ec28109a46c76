"""Who may ask: members, clients on this machine, and who knows the password."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.http.message import Headers, Request, SocketAddress
from peili.members.membership import Membership
from peili.members.request_mac import MEMBER_HEADER
from peili.members.secret_file import SecretFile
from peili.members.secrets import parse_secrets
from peili.oci.errors import ErrorCode, Refusal
from peili.registry.clients import ClientNetworks, is_own_address
from peili.registry.credentials import Credentials
from peili.registry.gate import MIRRORED_HEADER, Caller, Gate

TARGET = "/v2/library/app/manifests/1?ns=docker.io"
NOW = 1_790_000_000.0
HERE, THERE = "10.0.0.1", "10.0.0.2"
MARK = {MIRRORED_HEADER: "true"}


def member(secret: bytes, now: float = NOW) -> Membership:
    return Membership(SecretFile(Path("unused"), parse_secrets(secret)), now=lambda: now)


OURS, THEIRS = member(b"the secret of this cluster"), member(b"the secret of another cluster")
PASSWORD = Credentials("user", "password")
CLIENTS = ClientNetworks((ipaddress.ip_network("192.168.0.0/24"),), is_own=lambda host: host == HERE)
CLOSED = Gate(MEMBER_HEADER, OURS, CLIENTS)


def request(fields: dict[str, str], host: str = THERE, method: str = "GET", target: str = TARGET) -> Request:
    return Request(method, target, Headers.of(fields), SocketAddress(host, 40000))


def stamped(by: Membership = OURS, method: str = "GET", target: str = TARGET) -> dict[str, str]:
    return {**MARK, MEMBER_HEADER: by.stamp(method, target)}


def refused(verdict: Caller | Refusal) -> str:
    assert isinstance(verdict, Refusal)
    assert (verdict.status, verdict.code) == (403, ErrorCode.DENIED)
    return verdict.message


def test_without_settings_everybody_may_ask() -> None:
    assert Gate().judge(request({})) is Caller.CLIENT
    assert Gate().judge(request(MARK)) is Caller.PEER
    assert Gate().judge(request({"X-Spegel-Mirrored": "true"})) is Caller.PEER


def test_a_member_is_a_peer_from_anywhere() -> None:
    assert CLOSED.judge(request(stamped())) is Caller.PEER
    assert CLOSED.judge(request(stamped(), HERE)) is Caller.PEER
    assert CLOSED.judge(request(stamped(method="HEAD"), method="HEAD")) is Caller.PEER


@pytest.mark.parametrize("host", [HERE, THERE, "127.0.0.1"])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (MARK, "no X-Peili-Member"),
        ({"X-Spegel-Mirrored": "true"}, "no X-Peili-Member"),
        ({**MARK, MEMBER_HEADER: "1 5 abc"}, "not of the form"),
        (stamped(THEIRS), "another cluster secret"),
        (stamped(method="HEAD"), "another cluster secret"),
        (stamped(target=TARGET + "x"), "another cluster secret"),
        (stamped(member(b"the secret of this cluster", NOW - 61)), "clocks of the two nodes differ by 61 s"),
        (stamped(member(b"the secret of this cluster", NOW + 3600)), "clocks of the two nodes differ by 3600 s"),
    ],
)
def test_who_says_it_is_a_peer_has_to_prove_it(fields: dict[str, str], words: str, host: str) -> None:
    assert words in refused(CLOSED.judge(request(fields, host)))


def test_two_stamps_are_none() -> None:
    stamp = (MEMBER_HEADER, OURS.stamp("GET", TARGET))
    headers = Headers([*MARK.items(), stamp, stamp])
    refused(CLOSED.judge(Request("GET", TARGET, headers, SocketAddress(THERE, 1))))


def test_without_the_mark_only_clients_of_this_node_may_ask() -> None:
    for host in (HERE, "192.168.0.77"):
        assert CLOSED.judge(request({}, host)) is Caller.CLIENT
    for host in (THERE, "192.168.1.77", "fd00::1", "fe80::1%eth0", "a name"):
        assert f"{host} is in no --client-network" in refused(CLOSED.judge(request({}, host)))
    refused(CLOSED.judge(request({MEMBER_HEADER: OURS.stamp("GET", TARGET)})))


def test_a_password_is_for_clients_and_a_members_proof_is_better() -> None:
    gate = Gate(MEMBER_HEADER, OURS, CLIENTS, PASSWORD)
    right = {"Authorization": PASSWORD.header}
    assert gate.judge(request(right, HERE)) is Caller.CLIENT
    assert "credentials" in refused(gate.judge(request({}, HERE)))
    assert gate.judge(request(stamped())) is Caller.PEER
    refused(gate.judge(request({**MARK, **right})))
    refused(gate.judge(request(right, THERE)))
    open_cluster = Gate(credentials=PASSWORD)
    assert open_cluster.judge(request({**MARK, **right})) is Caller.PEER
    refused(open_cluster.judge(request(MARK)))


def test_no_refusal_carries_a_challenge_or_a_secret() -> None:
    text = refused(CLOSED.judge(request(stamped(THEIRS))))
    assert "the secret of" not in text
    assert OURS.stamp("GET", TARGET).split()[2] not in text


def test_this_machines_addresses_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(is_own_address, ("127.0.0.1", "127.9.9.9", "::1")))
    for address in ("192.0.2.1", "198.51.100.7", "2001:db8::1"):
        assert not is_own_address(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return  # this machine has no route to anywhere
        assert is_own_address(probe.getsockname()[0])


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60) | st.ip_addresses().map(str))
def test_any_host_is_allowed_or_not(host: str) -> None:
    known: Callable[[str], bool] = lambda text: False  # noqa: E731
    assert ClientNetworks(is_own=known).allows(host) is False
