"""`raeflow search` as an entry point for `ray job submit --working-dir . -- python -m jobs.search ...`."""

import sys

from raeflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
