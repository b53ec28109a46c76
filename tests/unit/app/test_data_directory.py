"""`peili run --data-dir` and `--mirrored-registry` as processes: from the flag to what the node does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from peili.demo.images import build_image
from tests.fakes.nodes import fetch, next_host
from tests.fakes.processes import cluster

IMAGE = build_image("data directory", layer_sizes=(1000,))


async def test_a_node_with_a_data_directory_is_the_same_peer_after_a_restart(tmp_path: Path) -> None:
    async with cluster(tmp_path) as made:
        [kept] = await made.start(1, f"--data-dir={tmp_path}/data")
        [fresh] = await made.start(1)
        before = [(await node.status())["router"]["peer_id"] for node in (kept, fresh)]
        for node in (kept, fresh):
            await node.restart()
        after = [(await node.status())["router"]["peer_id"] for node in (kept, fresh)]
    assert after[0] == before[0]
    assert after[1] != before[1]
    identity = tmp_path / "data" / "identity.pem"
    assert identity.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fault", ["below a file", "a file", "a broken identity"])
async def test_an_unusable_data_directory_fails_the_start_with_a_sentence(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "file"
    file.write_text("no key")
    directory = file / "data" if fault == "below a file" else file
    if fault == "a broken identity":
        directory = tmp_path / "data"
        directory.mkdir()
        file.rename(directory / "identity.pem")
    command = [sys.executable, "-m", "peili", "run", f"--store=layout:{tmp_path}", f"--data-dir={directory}"]
    host = next_host()
    command += [f"--{name}-address={host}:{port}" for name, port in (("registry", 1), ("router", 2))]
    with trio.fail_after(60):
        ended = await trio.run_process(
            command, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True, check=False
        )
    said = ended.stderr.decode()
    assert "Traceback" not in said
    assert "--data-dir" in said
    assert str(directory) in said
    if fault == "a file":  # seen with the flags already
        assert ended.returncode == 2
    else:
        assert ended.returncode == 1
        assert json.loads(said.splitlines()[-1])["event"] == "cannot start"


async def test_the_mirrored_registries_are_the_only_ones_and_a_single_one_needs_no_ns(tmp_path: Path) -> None:
    images = [(f"{registry}/a/b:1", IMAGE) for registry in ("one.example", "two.example")]
    options = ("--mirrored-registry=https://one.example", "--mirrored-registry=three.example")
    async with cluster(tmp_path) as made:
        [single] = await made.start(1, options[0], images=images)
        [several] = await made.start(1, *options, images=images)

        async def status(host: str, ns: str) -> tuple[int, bytes]:
            answer = await fetch(host, f"/v2/a/b/manifests/1{ns}")
            return answer.status, answer.body

        for node in (single, several):
            assert (await status(node.host, "?ns=one.example"))[0] == 200
            refused = await status(node.host, "?ns=two.example")
            assert refused[0] == 404
            assert b"two.example is not mirrored" in refused[1]
        assert (await status(single.host, ""))[0] == 200
        refused = await status(several.host, "")
    assert refused[0] == 404
    assert b"exactly one mirrored registry" in refused[1]
