"""What daemon.py makes of the settings: the store, the router and who looks at containerd's set-up."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from peili import daemon
from peili.containerd.setup import SetupSettings
from peili.follow.settings import FollowSettings
from peili.http.message import SocketAddress
from peili.node import StartFailed
from peili.oci.key import Key
from peili.routing.bootstrap import parse_source
from peili.routing.kademlia import KademliaSettings
from peili.settings import ContainerdStoreSettings, RouterProtocol, RunSettings
from peili.store.containerd import ContainerdStore
from peili.version import VERSION
from tests.fakes import containerd as fakes
from tests.fakes.nodes import settings_for

SOURCE = parse_source("static:127.0.0.1:7")
NETWORK = ipaddress.ip_network("10.0.0.0/8")


def of_containerd(socket: Path, namespace: str = "k8s.io", content_path: Path | None = None) -> RunSettings:
    store = ContainerdStoreSettings(socket, namespace, content_path, Path("/certs.d"), Path("/c.toml"))
    return replace(settings_for("127.0.0.1", Path("/none")), store=store)


async def keys(store: object) -> set[Key]:
    assert isinstance(store, ContainerdStore)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            await nursery.start(store.run)
        found = set(store.keys())
        nursery.cancel_scope.cancel()
    return found


async def test_the_store_reads_in_the_namespace_and_from_the_path_that_are_named(tmp_path: Path) -> None:
    with fakes.running(tmp_path) as fake:
        named, other = Key(fake.add_blob(b"here")), Key(fake.add_blob(b"elsewhere"))
        assert await keys(daemon.build_store(of_containerd(fake.socket))) == {named, other}
        assert ("containerd-namespace", "k8s.io") in fake.metadata
        path = tmp_path / "mounted" / "blobs" / "sha256"
        path.mkdir(parents=True)
        fake.path(str(named)).rename(path / str(named).partition(":")[2])
        store = daemon.build_store(of_containerd(fake.socket, "moby", tmp_path / "mounted"))
        assert await keys(store) == {named}
        assert ("containerd-namespace", "moby") in fake.metadata


def test_who_looks_at_the_set_up_knows_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SetupSettings] = []
    monkeypatch.setattr("peili.containerd.setup.ContainerdSetup", seen.append)
    daemon.build_setup(of_containerd(Path("/c.sock"), "moby"))
    assert seen == [SetupSettings(Path("/c.sock"), "moby", Path("/certs.d"), Path("/c.toml"))]
    assert daemon.build_setup(settings_for("127.0.0.1", Path("/layout"))) is None


@pytest.mark.parametrize("protocol", RouterProtocol)
def test_the_router_is_told_what_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, protocol: RouterProtocol
) -> None:
    seen: list[KademliaSettings] = []

    def make(values: KademliaSettings, **others: Any) -> None:
        assert others["members"] is None
        seen.append(values)

    monkeypatch.setattr(daemon, "KademliaRouter", make)
    follow = FollowSettings(fan_out=7)
    settings = replace(
        settings_for("127.0.0.9", Path("/layout")),
        router_address=SocketAddress("127.0.0.9", 11),
        registry_address=SocketAddress("127.0.0.9", 12),
        advertise_address="127.0.0.10",
        bootstrap=(SOURCE,),
        zone="a",
        data_directory=Path("/data"),
        follow=follow,
        peer_networks=(NETWORK,),
        router_protocol=protocol,
    )
    daemon.build_router(settings, None)
    daemon.build_router(replace(settings, advertise_address=None), None)
    spegel = protocol is RouterProtocol.SPEGEL
    expected = KademliaSettings(
        "127.0.0.9",
        11,
        advertise=("127.0.0.10",),
        prefix=f"/{protocol.value}",
        registry_port=12,
        zone="a",
        agent=f"peili/{VERSION}",
        identity_directory=Path("/data"),
        bootstrap=(SOURCE,),
        follow=follow,
        assume_registry_port=spegel,
        believe_records=spegel,
        peer_networks=(NETWORK,),
    )
    assert seen == [expected, replace(expected, advertise=())]


def test_the_identity_lies_in_the_data_directory(tmp_path: Path) -> None:
    settings = replace(settings_for("127.0.0.1", tmp_path), data_directory=tmp_path / "data")
    first, second = (daemon.build_router(settings, None).peer_id for _ in range(2))
    assert first == second
    assert daemon.build_router(replace(settings, data_directory=None), None).peer_id != first
    (tmp_path / "data" / "identity.pem").write_text("no key")
    with pytest.raises(StartFailed, match=f"--data-dir {tmp_path}/data: .* holds no private key in PEM"):
        daemon.build_router(settings, None)
