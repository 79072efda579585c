# Two commands do everything on a fresh machine with Python 3.11 or newer: `make quickstart`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Named data sets are looked up here; a folder beside the project is taken where there is one.
export RAEFLOW_DATA ?= $(abspath $(wildcard ../shared/data))

.PHONY: quickstart test lint slow setup bench clean

quickstart: $(VENV)/.installed
	$(BIN)/raeflow study quickstart
	@echo
	@echo "activate  . $(BIN)/activate    (then raeflow and mlflow run by their names)"

test: $(VENV)/.tested lint
	$(BIN)/python -m pytest

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Checks that take minutes: serving over HTTP, large files, long searches.
slow: $(VENV)/.tested
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.tested
	for b in selection score_speed train_speed variant_speed search_overhead; do $(BIN)/python benchmarks/$$b.py || exit 1; done
	$(BIN)/python benchmarks/detection.py --quick --processes 2 --out runs/bench/detection_quick.jsonl

setup: $(VENV)/.tested

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "raeflow needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# A stamp file for each set of packages, so that a second run installs nothing.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.tested: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
