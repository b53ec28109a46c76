"""`peili demo`: a whole cluster on this machine, without root and without containerd."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click


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
        try:
            trio.run(lambda: story.run(keep=keep))
        except* (PullFailed, NodeFailed, OSError) as group:
            _fail(group, story.logs())
        except* KeyboardInterrupt:
            click.echo("stopped")


def _fail(group: BaseExceptionGroup[Exception], logs: str) -> None:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    click.echo(f"{logs}\nThe demo failed: {error}", err=True)
    sys.exit(1)
