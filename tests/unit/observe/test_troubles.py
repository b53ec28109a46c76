from __future__ import annotations

from dataclasses import dataclass

from peili.observe.health import ALONE_AFTER, Health, decide_readiness
from peili.observe.troubles import LONELY_AFTER, Notice, Troubles


def test_a_store_that_does_not_answer_is_said_once_and_so_is_its_return() -> None:
    troubles = Troubles(0.0)
    assert troubles.store("") is None
    assert troubles.store("no socket") == Notice(True, "the content store does not answer", "no socket")
    assert troubles.store("no socket") is None
    assert troubles.store("") == Notice(False, "the content store answers again")


def test_a_containerd_that_asks_nobody_is_said_once_and_so_is_its_repair() -> None:
    troubles = Troubles(0.0)
    assert troubles.setup("") is None
    assert troubles.setup("not set") == Notice(True, "this node's containerd does not ask Peili", "not set")
    assert troubles.setup("not set") is None
    assert troubles.setup("") == Notice(False, "this node's containerd is set up to ask Peili")


def test_ten_minutes_without_peers_are_said_once_with_the_reason_and_what_to_do() -> None:
    troubles = Troubles(0.0)
    assert troubles.peers(0, "", LONELY_AFTER - 1, expected=True) is None
    notice = troubles.peers(0, "no such name", LONELY_AFTER, expected=True)
    assert notice is not None
    assert notice.warning
    assert "no such name" in notice.problem
    assert "--bootstrap" in notice.problem
    assert troubles.peers(0, "no such name", LONELY_AFTER * 2, expected=True) is None
    assert troubles.peers(3, "", LONELY_AFTER * 3, expected=True) == Notice(False, "peers are back")
    assert troubles.peers(0, "", LONELY_AFTER * 3 + 1, expected=True) is None
    assert troubles.peers(0, "", LONELY_AFTER * 4 + 1, expected=True) is not None


def test_a_cluster_of_one_is_no_trouble() -> None:
    assert Troubles(0.0).peers(0, "", LONELY_AFTER * 9, expected=False) is None


@dataclass
class Looker:
    """Who has looked at containerd's settings."""

    looked: bool = True
    problem: str = ""

    async def run(self) -> None:
        """Nothing to look at."""


def health(**changes: object) -> Health:
    fields: dict[str, object] = {
        "listening": True,
        "synchronised": True,
        "store_answering": True,
        "store_problem": "",
        "router_ready": True,
        "up_seconds": 1.0,
        "draining": False,
    }
    return Health(**(fields | changes))  # type: ignore[arg-type]


def test_a_node_is_ready_when_everything_is_there_and_says_what_is_not() -> None:
    assert decide_readiness(health()).ready
    assert decide_readiness(health(setup=Looker())).ready
    for changes, reason in (
        ({"listening": False}, "listening"),
        ({"synchronised": False}, "walk"),
        ({"store_answering": False, "store_problem": "no socket"}, "no socket"),
        ({"router_ready": False}, "no peer"),
        ({"draining": True}, "shutting down"),
        ({"setup": Looker(looked=False)}, "not known yet"),
        ({"setup": Looker(problem="config_path is not set")}, "config_path is not set"),
    ):
        readiness = decide_readiness(health(**changes))
        assert not readiness.ready
        assert reason in readiness.reason


def test_without_a_peer_a_node_is_ready_after_a_while() -> None:
    assert not decide_readiness(health(router_ready=False, up_seconds=ALONE_AFTER - 0.1)).ready
    assert decide_readiness(health(router_ready=False, up_seconds=ALONE_AFTER)).ready
