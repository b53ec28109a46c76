"""`--basic-auth-file` of every command that has one: a missing or broken file is named with its setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from peili.cli import main

TARGET = "--mirror-target=http://127.0.0.1:5000"
BROKEN = {"missing": None, "no colon": "secret-word", "two lines": "user:secret-word\nuser:secret-word\n"}


def write(directory: Path, content: str | None) -> Path:
    path = directory / "password"
    if content is not None:
        path.write_text(content)
    return path


def check(
    directory: Path, *words: str, env: Mapping[str, str] | None = None
) -> tuple[int, dict[str, dict[str, str]]]:
    places = [f"--containerd-socket={directory}/c.sock", f"--containerd-config-path={directory}/certs.d"]
    result = CliRunner().invoke(main, ["check", "--json", *places, *words], env=env)
    return result.exit_code, {found["name"]: found for found in json.loads(result.output)}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_check_says_that_the_file_is_broken(tmp_path: Path, content: str | None) -> None:
    path = write(tmp_path, content)
    for words, env in (([f"--basic-auth-file={path}"], None), ([], {"PEILI_BASIC_AUTH_FILE": str(path)})):
        status, found = check(tmp_path, *words, env=env)
        assert status == 1
        said = found["basic authentication"]
        assert said["level"] == "fail"
        for part in ("--basic-auth-file", "PEILI_BASIC_AUTH_FILE", str(path)):
            assert part in said["what"]
        assert "secret-word" not in str(found)
        assert found["access"]["level"] == "warn"  # it protects nothing


def test_check_takes_a_good_file(tmp_path: Path) -> None:
    _, found = check(tmp_path, f"--basic-auth-file={write(tmp_path, 'user:password')}")
    assert found["basic authentication"]["level"] == found["access"]["level"] == "ok"


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("command", ["run", "configure"])
def test_run_and_configure_refuse_a_broken_file(tmp_path: Path, command: str, content: str | None) -> None:
    path = write(tmp_path, content)
    own = [TARGET, f"--containerd-config-path={tmp_path}/certs.d"] if command == "configure" else []
    for words, env in (([f"--basic-auth-file={path}"], None), ([], {"PEILI_BASIC_AUTH_FILE": str(path)})):
        result = CliRunner().invoke(main, [command, *own, *words], env=env)
        assert result.exit_code == 2
        said = " ".join(result.output.split())
        for part in ("--basic-auth-file", "PEILI_BASIC_AUTH_FILE", str(path)):
            assert part in said
        assert "secret-word" not in said
    assert not (tmp_path / "certs.d").exists()


def test_configure_writes_what_is_in_a_good_file(tmp_path: Path) -> None:
    path, root = write(tmp_path, "user:password\n"), tmp_path / "certs.d"
    words = [TARGET, f"--containerd-config-path={root}", f"--basic-auth-file={path}"]
    result = CliRunner().invoke(main, ["configure", *words])
    assert result.exit_code == 0, result.output
    assert "Basic dXNlcjpwYXNzd29yZA==" in (root / "_default/hosts.toml").read_text()
