"""The command line. `peili --help` lists the commands; every setting is a PEILI_ environment variable as well.

Only what changes how one call goes is a flag alone: --json, --watch, --keep.
"""

from __future__ import annotations

import click

from peili.commands.check import check
from peili.commands.configure import cleanup, configure
from peili.commands.demo import demo
from peili.commands.explain import explain
from peili.commands.run import run
from peili.commands.status import status
from peili.commands.version import version


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Peili: the image mirror that a Kubernetes cluster carries in itself."""


# All but two print --json as well: the log of `run` is JSON, and `demo` is a story to look at.
for command in (run, configure, cleanup, check, status, explain, version, demo):
    main.add_command(command)
