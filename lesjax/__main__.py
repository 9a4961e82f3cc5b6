"""``python -m lesjax``: the command ``lesjax``."""

import sys

from lesjax.cli import main


if __name__ == "__main__":
    sys.exit(main())
