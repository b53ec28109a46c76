"""`peili demo`: a whole cluster on this machine, without root and without containerd."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from peili.demo.story import Story


@click.command()
@click.option("--keep", is_flag=True, help="Leave the nodes running at the end, until Ctrl-C.")
def demo(keep: bool) -> None:
    """Show on this machine what Peili does: five nodes, a slow upstream, a new image, a crash, an outage."""
    import trio

    from peili.demo.process import NodeFailed
    from peili.demo.puller import PullFailed
    from peili.demo.story import Story

    with tempfile.TemporaryDirectory(prefix="peili-demo-") as directory:
        story = Story(click.echo, Path(directory))
        failed: BaseExceptionGroup[Exception] | None = None
        try:
            if not trio.run(_play, story, keep):
                click.echo("stopped")
        except* (PullFailed, NodeFailed, OSError) as group:
            failed = group
        except* KeyboardInterrupt:
            click.echo("stopped")
        if failed is not None:  # not above: see run_daemon
            _fail(failed, story.logs())


async def _play(story: Story, keep: bool) -> bool:
    """Whether it came to its end: SIGTERM and SIGHUP (the terminal is closed) stop it as Ctrl-C does.

    The nodes have sessions of their own: without that they would be left behind.
    """
    import trio

    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]  # nohup
    with trio.open_signal_receiver(signal.SIGTERM, *hangup) as signals:
        async with trio.open_nursery() as nursery:
            playing = trio.CancelScope()

            async def watch() -> None:
                async for _ in signals:  # also a second one, while the nodes are stopped
                    playing.cancel()

            nursery.start_soon(watch)
            with playing:
                await story.run(keep=keep)
            nursery.cancel_scope.cancel()
    return not playing.cancelled_caught


def _fail(group: BaseExceptionGroup[Exception], logs: str) -> None:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    click.echo(f"{logs}\nThe demo failed: {error}", err=True)
    sys.exit(1)
