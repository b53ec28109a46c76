"""Remove what a release's nodes kept as their identity: `forget_identity.py DIRECTORY`.

Only the one file that Peili writes, and the directory once it is empty: a wrong setting must not cost more.
"""

from __future__ import annotations

import sys
from pathlib import Path

IDENTITY_FILE = "identity.pem"


def main(directory: Path) -> None:
    """Remove the identity and its directory; fine where they are gone."""
    (directory / IDENTITY_FILE).unlink(missing_ok=True)
    if directory.is_dir():
        try:
            directory.rmdir()
        except OSError as error:
            print(f"{directory} stays: {error.strerror}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
