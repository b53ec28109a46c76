"""The layout store reads what the ctr of each containerd exports, unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from peili.demo.images import build_image, build_index
from peili.oci.key import Key
from peili.oci.reference import Reference
from peili.store.layout import LayoutStore
from tests.fakes.containerd_process import RealContainerd, binaries, binary_id, running

pytestmark = [pytest.mark.containerd, pytest.mark.slow]
PATIENCE = 60.0  # seconds until a test is given up
INDEX_NAME, IMAGE_NAME = "registry.test:5000/team/app:1.0", "docker.io/library/tool:latest"


@pytest.fixture(params=binaries(), ids=binary_id)
def containerd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealContainerd]:
    with running(request.param, tmp_path / "containerd", cri=False) as containerd:
        yield containerd


async def test_what_ctr_exports_is_read_with_its_names(containerd: RealContainerd, tmp_path: Path) -> None:
    await containerd.wait_answers()
    index, image = build_index("exported index"), build_image("exported image")
    containerd.import_image(INDEX_NAME, index)
    containerd.import_image(IMAGE_NAME, image)
    archive, directory = tmp_path / "images.tar", tmp_path / "layout"
    containerd.ctr("images", "export", "--all-platforms", str(archive), INDEX_NAME, IMAGE_NAME)
    directory.mkdir()
    await trio.run_process(["tar", "-xf", str(archive), "-C", str(directory)])
    store = LayoutStore(directory)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(store.run)
        blobs = {**index.blobs, **image.blobs}
        assert set(store.keys()) == {Key(INDEX_NAME), Key(IMAGE_NAME), *(Key(str(digest)) for digest in blobs)}
        assert store.resolve(Reference.parse(INDEX_NAME)) == index.descriptor
        assert store.resolve(Reference.parse(IMAGE_NAME)) == image.descriptor
        for digest, content in blobs.items():
            with await store.open(digest) as blob:
                assert blob.size == len(content)
        assert store.statistics().problem == ""
        nursery.cancel_scope.cancel()
