from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from peili.containerd.facts import RegistryFact, parse_version
from peili.containerd.findings import (
    Facts,
    Finding,
    HostsFact,
    Level,
    NamespaceFact,
    PlaceFact,
    State,
    findings,
)
from peili.containerd.reports import Problem

OURS, CACHE = "http://127.0.0.1:5000", "https://cache"
ROOT = Path("/etc/containerd/certs.d")
CRI, IMAGES = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"
REGISTRY = RegistryFact("the CRI", "/etc/containerd/config.toml", CRI, str(ROOT), False)
GOOD = Facts(
    PlaceFact("/run/c.sock", State.GOOD),
    "1.6.20~ds1",
    REGISTRY,
    ROOT,
    PlaceFact("/var/lib/c", State.GOOD),
    (OURS,),
    (HostsFact(ROOT / "_default/hosts.toml", True, (OURS,)),),
    PlaceFact("0.0.0.0:5000", State.GOOD),
    PlaceFact("0.0.0.0:9090", State.MISSING),
    PlaceFact("/password", State.GOOD),
    PlaceFact("/secret", State.GOOD),
    PlaceFact("0.0.0.0:5001", State.GOOD),
)


def one(facts: Facts, name: str) -> Finding:
    (found,) = [finding for finding in findings(facts) if finding.name == name]
    return found


def test_a_node_that_is_as_it_must_be() -> None:
    assert {finding.level for finding in findings(GOOD)} == {Level.OK}
    assert all(not finding.advice for finding in findings(GOOD))


def test_whatever_is_wrong_says_what_to_do() -> None:
    bad = Facts(
        PlaceFact("/run/c.sock", State.DENIED, "no permission to open /run/c.sock"),
        None,
        RegistryFact("", "/etc/containerd/config.toml", "", detail="it is gone"),
        ROOT,
        PlaceFact("", State.UNKNOWN),
        (),
        (),
        PlaceFact("0.0.0.0:5000", State.OTHER, "another program"),
        PlaceFact("0.0.0.0:9090", State.OTHER, "another program"),
        router_port=PlaceFact("0.0.0.0:5001", State.OTHER, "another program"),
    )
    assert [(finding.name, finding.level) for finding in findings(bad)] == [
        ("socket", Level.FAIL),
        ("version", Level.WARN),
        ("config_path", Level.WARN),
        ("discard_unpacked_layers", Level.WARN),
        ("content", Level.WARN),
        ("hosts.toml", Level.FAIL),
        ("registry port", Level.FAIL),
        ("router port", Level.FAIL),
        ("operations port", Level.FAIL),
        ("access", Level.WARN),
        ("cluster secret", Level.WARN),
    ]
    silent = [finding.name for finding in findings(bad) if not finding.advice]
    assert silent == ["version", "discard_unpacked_layers"]


@pytest.mark.parametrize(
    ("text", "level", "words"),
    [
        ("1.6.20~ds1", Level.OK, "dial_timeout"),
        ("v2.0.7", Level.OK, "containerd v2.0.7"),
        ("2.1.9+unknown", Level.OK, ""),
        ("v2.1.0", Level.WARN, "bytes=0-"),
        ("2.1.2", Level.WARN, "bytes=0-"),
        ("2.1.3", Level.OK, ""),
        ("2.4.0-beta.1", Level.OK, ""),
        ("1.5.13", Level.FAIL, "too old"),
        ("3.0.0", Level.WARN, "newer"),
        ("dev", Level.WARN, "not known"),
        (None, Level.WARN, "not known"),
    ],
)
def test_versions(text: str | None, level: Level, words: str) -> None:
    found = one(replace(GOOD, version=text), "version")
    assert found.level is level
    assert words in found.what


def test_version_numbers() -> None:
    assert parse_version("1.6.20~ds1") == (1, 6, 20)
    assert parse_version("v2.3.0-rc.1") == (2, 3, 0)
    assert parse_version("2.3") == (2, 3, 0)
    assert parse_version("containerd") is parse_version("9" * 5000) is None


@pytest.mark.parametrize(("section", "version"), [(CRI, "1.7.2"), (IMAGES, "2.1.9"), ("", "1.7.2"), ("", "2.1.9")])
def test_a_missing_config_path_names_the_very_lines(section: str, version: str) -> None:
    registry = replace(REGISTRY, config_path=None, section=section)
    found = one(replace(GOOD, registry=registry, version=version), "config_path")
    assert found.level is Level.FAIL
    expected = section or (CRI if version.startswith("1") else IMAGES)
    assert f'[plugins."{expected}".registry]\n  config_path = "{ROOT}"' in found.advice
    assert "/etc/containerd/config.toml" in found.advice


@pytest.mark.parametrize(
    ("path", "version", "level", "words"),
    [
        (f"{ROOT}:/etc/docker/certs.d", "2.1.9", Level.FAIL, "ignore every hosts.toml"),
        (f"{ROOT}:/etc/docker/certs.d", None, Level.FAIL, "ignore every hosts.toml"),
        (f"{ROOT}:/etc/docker/certs.d", "1.7.1", Level.WARN, "several"),
        ("/a:/b", "1.7.1", Level.FAIL, "several"),
        ("/elsewhere", "1.7.1", Level.FAIL, "reads /elsewhere, but Peili writes"),
        (f"{ROOT}/", "1.7.1", Level.OK, ""),
    ],
)
def test_a_config_path_that_leads_elsewhere(path: str, version: str | None, level: Level, words: str) -> None:
    found = one(replace(GOOD, registry=replace(REGISTRY, config_path=path), version=version), "config_path")
    assert found.level is level
    assert words in found.what


def test_a_list_is_split_as_long_as_layers_are_discarded() -> None:
    registry = replace(REGISTRY, config_path=f"{ROOT}:/etc/docker/certs.d", discard_unpacked_layers=True)
    assert one(replace(GOOD, registry=registry, version="2.1.9"), "config_path").level is Level.WARN


def test_old_mirror_tables_stand_in_the_way() -> None:
    for path in (None, str(ROOT)):
        found = one(replace(GOOD, registry=replace(REGISTRY, config_path=path, mirrors=True)), "config_path")
        assert found.level is Level.FAIL
        assert "remove the tables registry.mirrors" in found.advice


def test_discarded_layers_are_no_layers_for_peers() -> None:
    found = one(replace(GOOD, registry=replace(REGISTRY, discard_unpacked_layers=True)), "discard_unpacked_layers")
    assert found.level is Level.WARN
    assert "offers none" in found.what
    unset = one(replace(GOOD, registry=replace(REGISTRY, discard_unpacked_layers=None)), "discard_unpacked_layers")
    assert unset.level is Level.OK


@pytest.mark.parametrize(
    ("state", "words"), [(State.DENIED, "uid 0"), (State.MISSING, "mount"), (State.OTHER, "name")]
)
def test_content_that_cannot_be_read(state: State, words: str) -> None:
    found = one(replace(GOOD, content=PlaceFact("/var/lib/c", state)), "content")
    assert found.level is Level.FAIL
    assert words in found.advice


def levels(*facts: HostsFact) -> list[Level]:
    return [finding.level for finding in findings(replace(GOOD, hosts=facts)) if finding.name == "hosts.toml"]


def hosts(name: str, *urls: str, exists: bool = True) -> HostsFact:
    return HostsFact(ROOT / name / "hosts.toml", exists, urls)


def test_with_the_default_directory_everything_must_ask_us_first() -> None:
    default = hosts("_default", OURS)
    assert levels(default, hosts("a", OURS, CACHE)) == [Level.OK, Level.OK]
    assert levels(default, hosts("a", CACHE, OURS)) == [Level.OK, Level.WARN]
    assert levels(default, hosts("a", CACHE)) == [Level.OK, Level.WARN]
    assert levels(default, hosts("a", exists=False)) == [Level.OK, Level.WARN]


def test_with_names_only_the_named_ones_count() -> None:
    assert levels(hosts("a", OURS), hosts("b", CACHE), hosts("c", exists=False)) == [Level.OK]
    assert levels(hosts("a", CACHE, OURS)) == [Level.WARN]
    assert levels(hosts("a", CACHE)) == levels() == [Level.FAIL]


def test_a_broken_file_is_named_with_its_line() -> None:
    path = ROOT / "b/hosts.toml"
    broken = HostsFact(path, True, (), Problem(path, "it is not TOML", 3))
    facts = replace(GOOD, hosts=(hosts("_default", OURS), broken))
    (found,) = [finding for finding in findings(facts) if finding.level is Level.FAIL]
    assert found.what == f"{path}, line 3: it is not TOML"


def test_ports() -> None:
    assert (
        one(replace(GOOD, operations_port=PlaceFact("x:1", State.GOOD, "not ready")), "operations port").level
        == "warn"
    )
    assert one(replace(GOOD, registry_port=PlaceFact("x:1", State.OTHER, "taken")), "registry port").level == "fail"
    without = replace(
        GOOD, registry_port=None, operations_port=None, router_port=None, basic_auth=None, secret=None
    )
    assert [f.name for f in findings(without)][-1] == "hosts.toml"


def test_who_can_read_is_said() -> None:
    nothing = replace(GOOD, basic_auth=None, secret=None)
    found = one(nothing, "access")
    assert found.level is Level.WARN
    assert "everyone who reaches this node" in found.what
    local = replace(nothing, registry_port=PlaceFact("10.0.0.1:5000", State.GOOD))
    assert "everyone who reaches 10.0.0.1" in one(local, "access").what
    told = {
        one(replace(GOOD, basic_auth=word, secret=secret), "access").what
        for word, secret in ((GOOD.basic_auth, GOOD.secret), (GOOD.basic_auth, None), (None, GOOD.secret))
    }
    assert len(told) == 3
    assert one(replace(GOOD, secret=None), "access").level is Level.OK


def test_a_missing_or_broken_cluster_secret_is_said() -> None:
    assert one(GOOD, "cluster secret").level is Level.OK
    missing = one(replace(GOOD, secret=None), "cluster secret")
    assert missing.level is Level.WARN
    assert "answer for tags and read every image" in missing.what
    broken = replace(GOOD, secret=PlaceFact("/secret", State.OTHER, "/secret: too short"))
    assert one(broken, "cluster secret").level is Level.FAIL
    assert "too short" in one(broken, "cluster secret").what
    assert one(replace(broken, basic_auth=None), "access").level is Level.WARN


def test_a_broken_file_with_the_password_is_said_and_protects_nothing() -> None:
    assert one(GOOD, "basic authentication").level is Level.OK
    assert "basic authentication" not in {found.name for found in findings(replace(GOOD, basic_auth=None))}
    broken = replace(GOOD, basic_auth=PlaceFact("/password", State.OTHER, "/password: one line"), secret=None)
    found = one(broken, "basic authentication")
    assert found.level is Level.FAIL
    for part in ("--basic-auth-file", "PEILI_BASIC_AUTH_FILE", "/password: one line"):
        assert part in found.what
    assert one(broken, "access").level is Level.WARN


def test_a_namespace_that_does_not_exist_is_said_with_those_that_do() -> None:
    assert "namespace" not in {found.name for found in findings(GOOD)}  # containerd did not tell
    there = replace(GOOD, namespace=NamespaceFact("k8s.io", ("default", "k8s.io")))
    assert one(there, "namespace").level is Level.OK
    typo = one(replace(GOOD, namespace=NamespaceFact("k8s.oi", ("k8s.io", "default"))), "namespace")
    assert typo.level is Level.WARN
    assert "no namespace k8s.oi" in typo.what
    assert "default, k8s.io" in typo.what
    assert "--containerd-namespace" in typo.advice
    assert one(replace(GOOD, namespace=NamespaceFact("k8s.io", ())), "namespace").level is Level.OK  # a new node
