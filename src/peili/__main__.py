"""`python -m peili` is the command `peili`."""

from __future__ import annotations

from peili.cli import main

if __name__ == "__main__":
    main()
