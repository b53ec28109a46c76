from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.routers import Cluster, open_cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with open_cluster() as cluster:
        yield cluster
