"""`python -m loadgen.mock`: the same as `slackwater-loadgen mock`."""

from __future__ import annotations

import sys

from loadgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["mock", *sys.argv[1:]]))
