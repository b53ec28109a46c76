"""What makes a node unready because its containerd asks no mirror: only what is certain."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from peili.containerd.configure import ConfigureSettings, configure
from peili.containerd.facts import RegistryFact
from peili.containerd.plugin_settings import CRI_PLUGIN, IMAGES_PLUGIN
from peili.containerd.registry_fact import read_config
from peili.containerd.setup import ContainerdSetup, SetupSettings, Version, certain_problem
from tests.fakes.containerd_process import binaries, binary_id, running

OURS = Path("/etc/containerd/certs.d")
LIST = "/etc/containerd/certs.d:/etc/docker/certs.d"
V16, V20, V21, V22, V23 = (1, 6, 20), (2, 0, 5), (2, 1, 9), (2, 2, 1), (2, 3, 0)


def fact(
    path: str | None, *, discard: bool | None = None, complete: bool = True, source: str = "f"
) -> RegistryFact:
    return RegistryFact(source, "f", "s", path, discard, complete=complete)


@pytest.mark.parametrize(
    ("given", "version", "words"),
    [
        (fact(None), V16, "not set"),
        (fact(""), V16, "not set"),
        (fact(None), V21, "not set"),
        (fact(None), V22, "a list of directories"),
        (fact(""), V23, "not set"),
        (fact(LIST), V21, "several directories"),
        (fact(LIST, discard=False), V22, "several directories"),
        (fact("/cfg"), V16, "it reads /cfg, and Peili writes /etc/containerd/certs.d"),
        (fact("/a:/b"), V20, "it reads /a:/b"),
    ],
)
def test_a_containerd_that_certainly_asks_nobody(given: RegistryFact, version: Version, words: str) -> None:
    problem = certain_problem(given, OURS, version)
    assert words in problem
    assert problem.startswith("containerd asks no mirror: ")
    assert "peili check" in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("given", "version"),
    [
        (fact("/etc/containerd/certs.d"), V16),
        (fact("/etc/containerd/certs.d/"), V23),
        (fact(LIST), V20),
        (fact(LIST, discard=True), V21),  # Amazon Linux: split as long as layers are discarded
        (fact(None, discard=True), V22),
        (fact(LIST), V23),  # a version that may have learnt it
        (fact(None), V23),
        (fact(None, source=""), V21),  # nobody told
        (fact(None, complete=False), V21),  # a file that could not be read may say it
    ],
)
def test_what_is_right_or_not_certain_is_no_problem(given: RegistryFact, version: Version) -> None:
    assert certain_problem(given, OURS, version) == ""


def test_without_a_directory_to_compare_with_any_is_right() -> None:
    assert certain_problem(fact("/cfg"), None, V21) == ""
    assert certain_problem(fact(None), None, V21) != ""


def test_an_import_that_cannot_be_read_makes_the_file_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('version = 3\nimports = ["/nowhere.toml"]\n')
    assert not read_config(path, V21).complete
    path.write_text("version = 3\n")
    assert read_config(path, V21).complete


async def test_a_containerd_that_is_away_says_nothing(tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    setup = ContainerdSetup(SetupSettings(tmp_path / "c.sock", "k8s.io", OURS, tmp_path / "config.toml"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.run)
        while not setup.looked:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert setup.problem == ""


@pytest.mark.containerd
@pytest.mark.parametrize("binary", binaries(), ids=binary_id)
async def test_a_real_containerd_before_and_after_its_settings(binary: Path, tmp_path: Path) -> None:
    async def look(path: Path, file: Path | None) -> str:
        setup = ContainerdSetup(SetupSettings(containerd.socket, "k8s.io", path, file))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(setup.run)
            while not setup.looked:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        return setup.problem

    with running(binary, tmp_path / "containerd") as containerd:
        await containerd.wait_ready()
        config = containerd.directory / "config.toml"
        assert configure(ConfigureSettings(containerd.hosts, ("http://127.0.0.1:5000",))).problems == ()
        assert await look(containerd.hosts, config) == ""
        assert "Peili writes" in await look(tmp_path, config)
        tells = (await containerd_tells(containerd.socket)) is not None
        assert bool(await look(tmp_path, None)) is tells  # 2.x does not say; without its file nothing is certain
        other = tmp_path / "other.toml"
        section = CRI_PLUGIN if tells else IMAGES_PLUGIN
        other.write_text(f'version = {2 if tells else 3}\n[plugins."{section}".registry]\nconfig_path = ""\n')
        assert bool(await look(containerd.hosts, other)) is not tells


async def containerd_tells(socket: Path) -> RegistryFact | None:
    from peili.containerd.registry_fact import ask_cri

    return await ask_cri(socket, "f")
