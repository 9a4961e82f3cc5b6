"""``python -m lesjax``: the command ``lesjax``."""

import sys

from lesjax.signals import stopping


def main() -> int:
    """Run the command; a signal during the first imports ends it with a line, too."""
    with stopping(for_good=True):
        from lesjax import cli

        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
