"""`raeflow report` as an entry point for `ray job submit --working-dir . -- python -m jobs.report ...`."""

import sys

from raeflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
