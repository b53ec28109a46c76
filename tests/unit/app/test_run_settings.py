from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from peili.cli import main
from peili.commands.options import option
from peili.http.message import SocketAddress
from peili.settings import (
    InvalidSetting,
    parse_duration,
    parse_filter,
    parse_ip_address,
    parse_layout_directory,
    parse_max_uploads,
    parse_mirrored_registry,
    parse_socket_address,
    parse_zone,
    read_credentials,
)

PARSERS: list[Callable[[str], object]] = [
    parse_duration,
    parse_filter,
    parse_ip_address,
    parse_layout_directory,
    parse_max_uploads,
    parse_mirrored_registry,
    parse_socket_address,
    parse_zone,
]


def test_values_are_parsed() -> None:
    assert parse_duration("250ms") == 0.25
    assert parse_duration("1.5s") == 1.5
    assert parse_duration("2m") == 120
    assert (parse_max_uploads("0"), parse_max_uploads("100000")) == (0, 100_000)
    assert parse_socket_address("[::]:5000") == SocketAddress("::", 5000)
    assert parse_socket_address("0.0.0.0:5000") == SocketAddress("0.0.0.0", 5000)
    assert parse_ip_address("fd00::1") == "fd00::1"
    assert parse_layout_directory("layout:/a:b") == Path("/a:b")
    assert parse_mirrored_registry("https://ghcr.io") == "ghcr.io"
    assert parse_mirrored_registry("http://host:5000/") == "host:5000"
    assert parse_mirrored_registry("https://registry-1.docker.io") == "docker.io"
    assert parse_mirrored_registry("quay.io") == "quay.io"


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        (parse_max_uploads, "-1"), (parse_max_uploads, "100001"), (parse_max_uploads, "many"),
        (parse_duration, "2"), (parse_duration, "0s"), (parse_duration, "-1s"), (parse_duration, "25h"),
        (parse_duration, "1 s"), (parse_socket_address, "5000"), (parse_socket_address, ":5000"),
        (parse_socket_address, "::1:5000"), (parse_socket_address, "[127.0.0.1]:5000"),
        (parse_socket_address, "1.2.3.4:0"), (parse_socket_address, "1.2.3.4:65536"), (parse_ip_address, "0.0.0.0"),
        (parse_ip_address, "host"), (parse_layout_directory, "layout:"), (parse_layout_directory, "oci:/x"),
        (parse_mirrored_registry, "ftp://a.b"), (parse_mirrored_registry, "https://a.b/c"),
        (parse_mirrored_registry, "https://user@a.b"), (parse_mirrored_registry, "http://["), (parse_filter, "("),
        (parse_filter, "[[:alpha:]]"), (parse_filter, "a" * 2000), (parse_zone, "a b"), (parse_zone, "a" * 65),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(parser: Callable[[str], object], text: str) -> None:
    with pytest.raises(InvalidSetting):
        parser(text)


@hypothesis_settings(deadline=None)
@given(st.sampled_from(PARSERS), st.text(max_size=80))
def test_any_text_is_parsed_or_refused(parser: Callable[[str], object], text: str) -> None:
    with suppress(InvalidSetting):
        parser(text)


def test_a_credentials_file_is_read_or_its_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    with pytest.raises(InvalidSetting, match="No such file"):
        read_credentials(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSetting, match="UTF-8"):
        read_credentials(path)
    path.write_text("x" * 5000)
    with pytest.raises(InvalidSetting, match="4096"):
        read_credentials(path)
    path.write_text("user:secret\n")
    assert read_credentials(path).user == "user"


def run(*arguments: str, env: dict[str, str] | None = None) -> str:
    result = CliRunner().invoke(main, ["run", *arguments], env=env)
    assert result.exit_code == 2
    return result.output


def test_a_wrong_flag_names_the_setting_the_value_and_what_is_allowed() -> None:
    output = run("--stall-timeout", "2")
    for part in ("--stall-timeout", "PEILI_STALL_TIMEOUT", "'2'", "ms, s, m or h"):
        assert part in output


def test_a_wrong_variable_is_named_as_well() -> None:
    output = run(env={"PEILI_REGISTRY_ADDRESS": "nowhere"})
    for part in ("PEILI_REGISTRY_ADDRESS", "'nowhere'", "0.0.0.0:5000"):
        assert part in output


def test_repeatable_settings_are_separated_by_white_space_and_their_help_says_so() -> None:
    seen: list[tuple[str, ...]] = []

    @click.command()
    @option("--filter", "filters", multiple=True, help="Some.")
    def command(filters: tuple[str, ...]) -> None:
        seen.append(filters)

    for value in ("a b", "a\nb", "a,b"):
        assert CliRunner().invoke(command, env={"PEILI_FILTER": value}).exit_code == 0
    assert seen == [("a", "b"), ("a", "b"), ("a,b",)]
    for name in ("run", "configure", "check"):
        for parameter in main.commands[name].params:
            if isinstance(parameter, click.Option) and parameter.multiple:
                assert "separated by spaces, not commas" in (parameter.help or ""), parameter.name


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--store", "docker", "layout:DIR"),
        ("--bootstrap", "consul:x", "dns:NAME"),
        ("--filter", "(", "regular expression"),
        ("--basic-auth-file", "/nonexistent", "No such file"),
        ("--log-level", "loud", "warning"),
        ("--mirrored-registry", "https://a.b/c", "without a path"),
        ("--advertise-address", "::", "of this node"),
    ],
)
def test_each_wrong_value_says_what_is_allowed(flag: str, value: str, allowed: str) -> None:
    output = run(flag, value)
    assert flag in output
    assert value in output
    assert allowed in " ".join(output.split())


def test_a_cluster_of_the_other_kind_needs_to_know_where_its_peers_are(tmp_path: Path) -> None:
    output = " ".join(run("--router-protocol", "spegel").split())
    for part in ("--router-protocol", "PEILI_ROUTER_PROTOCOL", "'spegel'", "--peer-network CIDR"):
        assert part in output
    assert "10.0.0.0/24" in run("--peer-network", "10.0.0.1/24")
    secret = tmp_path / "secret"
    secret.write_text("a secret of this cluster")
    secret.chmod(0o600)
    output = run("--router-protocol=spegel", "--peer-network=10.0.0.0/8", f"--cluster-secret-file={secret}")
    assert "cannot be members" in " ".join(output.split())


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(main, ["version"]).output.startswith("peili ")
