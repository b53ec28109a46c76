"""How the Peilis under measurement are started."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from tests.integration.lab import node as lab_node

# structlog loads it where it finds it, which costs 4 MB. It comes with import-linter and is in no installation.
_NOT_INSTALLED = "rich"


def without_what_the_tests_bring(directory: Path) -> None:
    """Peilis start as where only requirements/run.txt is installed from now on; PEILI_TEST_COMMAND is obeyed."""
    if "PEILI_TEST_COMMAND" in os.environ:
        return
    script = directory / "peili"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"sys.modules[{_NOT_INSTALLED!r}] = None\n"
        "from peili.cli import main\n"
        "main()\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    lab_node.PEILI = script
