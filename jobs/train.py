"""`raeflow train` as an entry point for `ray job submit --working-dir . -- python -m jobs.train ...`."""

import sys

from raeflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
