"""`python -m lazysif` and the `lazysif` command."""

from __future__ import annotations

import sys


def main() -> None:
    from lazysif.cli.main import run

    sys.exit(run())


if __name__ == "__main__":
    main()
