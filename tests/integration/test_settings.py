"""Settings that change how pulls go: hosts.toml, tags left to upstream, filters, credentials, IPv6."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.lab.containerd import VERSIONS
from tests.integration.lab.cri import Credentials
from tests.integration.lab.laboratory import REGISTRY, Lab
from tests.integration.lab.node import Node, by_digest
from tests.integration.lab.scenario import stopped, wait_offered
from tests.integration.lab.upstream import Traffic
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.containerd


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        laboratory.registry()
        yield laboratory


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Lab]:
    """The same laboratory; what nodes a test makes end with it."""
    yield lab
    lab.clear_nodes()


def hosts_files(node: Node) -> dict[str, str]:
    """Every file in containerd's registry directory."""
    directory = node.containerd.hosts
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_configure_and_cleanup(fresh: Lab) -> None:
    """Both while containerd runs: it reads hosts.toml on each pull."""
    registry = fresh.registry()
    nodes = fresh.cluster(VERSIONS)
    before = f'server = "{registry.url}"'
    image = fresh.pool.random_image("cleanup")
    reference = registry.add(image, "settings/cleanup", "1")
    nodes[0].pull(reference)
    wait_offered(nodes[1], reference, image)
    written = hosts_files(nodes[1])
    assert before in written[f"{REGISTRY}/hosts.toml"]
    nodes[1].configure()
    assert hosts_files(nodes[1]) == written

    for node in nodes[1:]:
        node.cleanup()
        assert list(hosts_files(node)) == [f"{REGISTRY}/hosts.toml"]
    traffic = Traffic(registry)
    for node in nodes[1:]:
        node.pull(reference)

    assert len(traffic.content()) == 2 * len(image.pulled)


def test_one_default_for_all_registries(fresh: Lab) -> None:
    """A registry that no directory names is found through _default."""
    registry = fresh.registry()
    nodes = fresh.cluster(VERSIONS)
    for position, holder in enumerate(nodes):
        image = fresh.pool.random_image(f"default-{position}")
        reference = registry.add(image, "settings/default", str(position))
        holder.pull(reference)
        # The same image under the name of a registry that is nowhere.
        other = f"nowhere.example:8443/some/where:{position}"
        holder.containerd.ctr("images", "tag", reference, other)
        for puller in nodes:
            if puller is not holder:
                wait_offered(puller, other, image)
                puller.pull(other)


def test_tags_left_to_upstream(fresh: Lab) -> None:
    """Without tags the upstream says what a tag means, and sends nothing else."""
    registry = fresh.registry()
    first, *others = fresh.cluster(VERSIONS, "--no-resolve-tags")
    image = fresh.pool.random_image("no-tags")
    reference = registry.add(image, "settings/tags", "1")
    first.pull(reference)
    wait_offered_by_digest(others[0], reference, image.top.digest)
    assert not others[0].finds(reference)

    traffic = Traffic(registry)
    for node in others:
        node.pull(reference)

    assert traffic.content() == []
    assert [request.method for request in traffic.requests()] == ["HEAD"] * len(others)


def wait_offered_by_digest(asker: Node, reference: str, digest: str) -> None:
    """Wait until the digest is found."""
    name = f"{reference.rpartition(':')[0]}@{digest}"
    wait_until(lambda: asker.finds(name), f"{name} offered")


def test_latest_left_to_upstream_and_filtered_references(fresh: Lab) -> None:
    registry = fresh.registry()
    first, second, _ = fresh.cluster(VERSIONS, "--no-resolve-latest", "--filter=/settings/private")
    images = {name: fresh.pool.random_image(name) for name in ("latest", "tagged", "private")}
    latest = registry.add(images["latest"], "settings/latest", "latest")
    tagged = registry.add(images["tagged"], "settings/latest", "1")
    private = registry.add(images["private"], "settings/private/app", "1")
    for reference in (latest, tagged, private):
        first.pull(reference)
    wait_offered(second, tagged, images["tagged"])
    wait_offered_by_digest(second, latest, images["latest"].top.digest)
    assert not second.finds(latest)
    assert not second.finds(private)

    traffic = Traffic(registry)
    for reference in (latest, tagged, private):
        second.pull(reference)

    fetched = {request.uri.split("/")[3] for request in traffic.content()}
    assert fetched == {"private"}


def test_credentials_between_containerd_and_peers(fresh: Lab, tmp_path: Path) -> None:
    """The pods' own pull secret must not be asked for; a client without credentials is refused."""
    secret = "peili:in-the-laboratory"
    file = tmp_path / "auth"
    file.write_text(f"{secret}\n")
    registry = fresh.registry()
    nodes = fresh.containerds(VERSIONS)
    for node in nodes:
        node.configure(options=[f"--basic-auth-file={file}"])
        node.start_peili(f"--basic-auth-file={file}")
    for node in nodes:
        node.wait_peili()
    first, *others = nodes
    image = fresh.pool.random_image("credentials")
    reference = registry.add(image, "settings/credentials", "1")
    first.pull(reference)

    path = "settings/credentials/manifests/1"
    refused = first.ask(path, ns=REGISTRY)
    assert refused.status == 403
    assert "www-authenticate" not in refused.headers
    given = {"Authorization": f"Basic {b64encode(secret.encode()).decode()}"}

    def offered() -> bool:
        return all(node.ask(path, ns=REGISTRY, headers=given, method="HEAD").status == 200 for node in nodes)

    wait_until(offered, "the tag offered to who has the credentials")
    with stopped(registry):
        others[0].pull(reference, credentials=Credentials("pod", "pull-secret"))
        others[1].pull(by_digest(reference, image))
    assert all(node.holds(image) for node in nodes)
    for node in nodes:
        modes = {path.stat().st_mode & 0o777 for path in node.containerd.hosts.glob("*/hosts.toml")}
        assert modes == {0o600}


def test_peers_over_ipv6(fresh: Lab) -> None:
    registry = fresh.registry()
    first, second, third = fresh.cluster(VERSIONS, ipv6=True)
    image = fresh.pool.random_image("ipv6")
    reference = registry.add(image, "settings/ipv6", "1")
    first.pull(reference)
    wait_offered(second, reference, image)
    with stopped(registry):
        second.pull(reference)
        third.pull(by_digest(reference, image))
    assert second.holds(image)
    assert third.holds(image)
