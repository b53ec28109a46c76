"""`peili explain` and `peili status` against a running node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from peili.cli import main
from peili.demo.images import build_index
from peili.oci.key import Key
from peili.routing.memory import MemoryNetwork
from tests.fakes.nodes import TestNode, running_node

NAME = "docker.io/library/app:1"
INDEX = build_index("app")


async def ask(node: TestNode, *arguments: str) -> Result:
    address = ("--operations-address", f"{node.host}:9090")
    return await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, [*arguments, *address]))


async def test_every_part_is_explained_here_and_on_a_peer(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with running_node(network, tmp_path / "1") as one, running_node(network, tmp_path / "2") as two:
        one.layout.add(NAME, INDEX)
        await one.wait_offered(Key(NAME))
        await one.wait_offered(Key(str(INDEX.parts[0].layers[0].digest)))
        here = await ask(one, "explain", "app:1", "--json")
        there = await ask(two, "explain", "app:1", "--json")
        digests = {str(digest) for digest in INDEX.blobs}
        for result, local, action in ((here, True, "from this node"), (there, False, "from a peer")):
            document = json.loads(result.output)
            assert (result.exit_code, document["problem"]) == (0, "")
            assert {part["name"] for part in document["parts"]} == digests | {NAME}
            assert {(part["local"], part["action"]) for part in document["parts"]} == {(local, action)}
        assert all(part["providers"] == [f"{one.host}:5000"] for part in json.loads(there.output)["parts"])
        text = (await ask(two, "explain", "app:1")).output
        assert "from a peer" in text
        assert f"{one.host}:5000" in text


async def test_a_missing_layer_comes_from_upstream_and_scripts_can_tell(tmp_path: Path) -> None:
    missing = INDEX.parts[0].layers[0].digest
    async with running_node(MemoryNetwork(), tmp_path) as node:
        node.layout.add(NAME, INDEX, without=[missing])
        await node.wait_offered(Key(NAME))
        await node.wait_offered(Key(str(INDEX.parts[0].layers[1].digest)))
        result = await ask(node, "explain", "app:1", "--json")
        upstream = [
            part["name"] for part in json.loads(result.output)["parts"] if part["action"] == "from upstream"
        ]
        assert (result.exit_code, upstream) == (1, [str(missing)])


async def test_an_unknown_image_goes_upstream(tmp_path: Path) -> None:
    async with running_node(MemoryNetwork(), tmp_path) as node:
        result = await ask(node, "explain", "nothing:1")
        assert result.exit_code == 1
        assert "a pull goes upstream" in result.output


@pytest.mark.parametrize("command", [("status",), ("explain", "app:1")])
def test_no_node_is_said_plainly(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*command, "--operations-address", "127.0.0.1:1"])
    assert result.exit_code == 2
    assert "no Peili answers at http://127.0.0.1:1" in result.output


def test_what_is_no_image_is_said_plainly() -> None:
    result = CliRunner().invoke(main, ["explain", "App:1"])
    assert result.exit_code == 2
    assert "not a repository name" in result.output


async def test_the_status_shows_the_store_and_the_latest_requests(tmp_path: Path) -> None:
    async with running_node(MemoryNetwork(), tmp_path) as node:
        node.layout.add(NAME, INDEX)
        await node.wait_offered(Key(NAME))
        await node.get("/v2/library/app/manifests/1?ns=docker.io")
        await node.records(1)
        document = json.loads((await ask(node, "status", "--json")).output)
        assert document["ready"] is True
        assert document["requests"][0]["repository"] == "library/app"
        result = await ask(node, "status")
        assert result.exit_code == 0
        for part in ("ready", "1 tag", "docker.io/library/app 1", "200", "local"):
            assert part in result.output
