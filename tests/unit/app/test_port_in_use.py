"""`peili run` where another program has one of its ports: it says so once, names the setting, and ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.fakes.nodes import next_host

PORTS = {"registry": 5000, "router": 5001, "operations": 9090}


@pytest.mark.parametrize("taken", list(PORTS))
async def test_a_port_in_use_is_named_once_with_its_setting(tmp_path: Path, taken: str) -> None:
    host = next_host()
    options = [f"--{name}-address={host}:{port}" for name, port in PORTS.items()]
    command = [sys.executable, "-m", "peili", "run", f"--store=layout:{tmp_path}", *options]
    with trio.socket.socket() as other:
        await other.bind((host, PORTS[taken]))
        other.listen()
        with trio.fail_after(60):
            ended = await trio.run_process(
                command, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True, check=False
            )
    assert ended.returncode == 1
    said = json.loads(ended.stderr.splitlines()[-1])
    assert said["event"] == "cannot start"
    assert said["problem"].startswith(f"cannot listen on {host}:{PORTS[taken]}: Address already in use. ")
    assert said["problem"].count("cannot listen") == 1
    assert said["problem"].endswith(f"change --{taken}-address")
