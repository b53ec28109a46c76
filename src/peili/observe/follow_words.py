"""Messages between nodes and coordinators as people read them, in the log and in labels."""

from __future__ import annotations

from peili.follow.message import Answer, Ask, Follow, Join, Keep, Lead, Leave, Renew, Source, Wait


def name_of(ask: type[Ask]) -> str:
    """What a metric calls a kind of message: join, renew or leave."""
    return ask.__name__.lower()


def brief(message: Ask | Answer | None) -> str:
    """One message in a few words; None: nobody answered."""
    match message:
        case Join(offset=offset, purpose=purpose, excluded=excluded):
            text = f"join {purpose.name.lower()} at {offset} without {len(excluded)}"
        case Renew(offset=offset, source=source, excluded=excluded):
            text = f"renew at {offset} {'follows' if source else 'leads'} without {len(excluded)}"
        case Leave(outcome=outcome):
            text = f"leave {outcome.name.lower()}"
        case Lead(milliseconds):
            text = f"lead within {milliseconds} ms"
        case Follow(sources, depth):
            text = f"follow at depth {depth}: " + ", ".join(map(_brief_source, sources))
        case Wait(milliseconds):
            text = f"wait {milliseconds} ms"
        case Keep(depth, milliseconds, queued):
            text = f"keep, depth {depth}, again in {milliseconds} ms" + (", the lead queues" if queued else "")
        case None:
            text = "silent"
    return text


def _brief_source(source: Source) -> str:
    return f"{source.peer.host} {'committed' if source.committed else f'at {source.offset}'}"
