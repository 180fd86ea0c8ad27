# make demo   run the shipped example on a local Dask cluster
# make test   run the test suite
#
# Each sets up .venv by itself: with uv where it is installed, else with venv and pip.
# Needed: make and Python 3.11 or newer.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test lint format types clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile | head -2
	@echo 'make lint   ruff and import-linter;  make types   mypy;  make format   ruff format'

demo: $(VENV)/.stamp-run
	@$(BIN)/python -m graphflow demo

test: $(VENV)/.stamp-dev
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.stamp-dev
	$(BIN)/mypy

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# With pip, the package and the tools go into one command: a second one could move a shared dependency.
$(VENV)/.stamp-run: pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		echo 'Setting up $(VENV) with uv'; \
		uv sync --quiet --no-dev; \
	else \
		$(need_python); \
		echo 'Setting up $(VENV) with pip'; \
		test -x $(BIN)/python || '$(PYTHON)' -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .; \
	fi
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		echo 'Setting up $(VENV) with uv'; \
		uv sync --quiet; \
	else \
		$(need_python); \
		echo 'Setting up $(VENV) with pip'; \
		test -x $(BIN)/python || '$(PYTHON)' -m venv $(VENV); \
		$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' \
			> $(VENV)/dev-requirements.txt; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . -r $(VENV)/dev-requirements.txt; \
	fi
	@touch $(VENV)/.stamp-run $@

define need_python
set -e; test -n '$(PYTHON)' || { echo 'graphflow needs Python 3.11 or newer, and none was found. Set PYTHON=/path/to/python3.' >&2; exit 1; }
endef
