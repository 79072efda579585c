"""`raeflow study` as an entry point for `ray job submit --working-dir . -- python -m jobs.study ...`."""

import sys

from raeflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
