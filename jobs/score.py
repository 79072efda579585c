"""`raeflow score` as an entry point for `ray job submit --working-dir . -- python -m jobs.score ...`."""

import sys

from raeflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
