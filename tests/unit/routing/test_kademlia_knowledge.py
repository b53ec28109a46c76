"""What a router makes of peers that are heard, fail, and come back."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from trio.testing import MockClock

from peili.kademlia.contact import Contact
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link
from peili.routing.kademlia.settings import KademliaSettings

PEER = Contact(b"p" * 38, (b"somewhere",))


class FakeLink:
    """As much of a link as counts here."""

    id = PEER.id

    def speaks(self, protocol: str) -> bool:
        return True

    def contact(self) -> Contact:
        return PEER


@pytest.mark.parametrize("silent", [1.0, 59.0, 61.0, 3600.0])
async def test_a_peer_that_was_silent_is_back_however_long_it_was(autojump_clock: MockClock, silent: float) -> None:
    link = cast(Link, FakeLink())
    knowledge = Knowledge(b"o" * 38, KademliaSettings("127.0.0.1", 0))
    back: list[Link] = []
    knowledge.on_member = back.append
    knowledge.heard(link)
    knowledge.heard(link)
    assert back == [link], "new once"

    knowledge.failed(PEER.id)
    await trio.sleep(silent)
    knowledge.heard(link)
    knowledge.heard(link)

    assert back == [link, link]
