"""`python -m tunesmith` is the command `tunesmith`."""

import sys

from tunesmith.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
