"""`raeflow calibrate` as an entry point for `ray job submit --working-dir . -- python -m jobs.calibrate ...`."""

import sys

from raeflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
