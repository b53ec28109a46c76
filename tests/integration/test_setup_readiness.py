"""A node whose containerd asks no mirror: unready, with the reason everywhere, and of use to its peers."""

from __future__ import annotations

import pytest

from tests.integration.lab.laboratory import Lab
from tests.integration.lab.scenario import wait_offered
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.containerd


@pytest.mark.parametrize("version", ["installed", "sid"])
def test_a_node_whose_containerd_is_not_set_up(version: str) -> None:
    with Lab() as lab:
        registry = lab.registry()
        good, bad = lab.containerds([version, version])
        for node in (good, bad):
            node.configure()
        good.start_peili()
        # What an operator sees whose chart writes to another directory than containerd reads. Its content is where
        # it is mounted, and not where containerd says that it is.
        mounted = bad.containerd.content.with_name("mounted-elsewhere")
        mounted.symlink_to(bad.containerd.content)
        bad.start_peili(
            "--containerd-config-path=/not/there",
            f"--containerd-config-file={bad.containerd.configuration}",
            f"--containerd-content-path={mounted}",
            "--containerd-namespace=k8s.io",
        )
        good.wait_peili()
        wait_until(lambda: b"Peili writes /not/there" in bad.ready().body, "the reason at /readyz", 30)
        assert bad.ready().status == 503
        said = "this node's containerd does not ask Peili"
        wait_until(lambda: said in bad.log.read_text(), "the reason in the log", 30)

        image = lab.pool.random_image("setup")
        reference = registry.add(image, "setup/serves", "1")
        bad.pull(reference)
        wait_offered(good, reference, image)
        good.pull(reference)
        assert good.holds(image)
        log = bad.log.read_text()
        assert f'"content": "{mounted}"' in log
        assert log.count(said) == log.count("Peili writes /not/there") == 1
