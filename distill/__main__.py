"""`python -m distill` is the `distill` command."""

import sys

from distill.command import main

if __name__ == "__main__":
    sys.exit(main())
