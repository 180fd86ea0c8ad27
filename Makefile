# make demo         run the shipped example on a local Dask cluster
# make test         run the test suite; PYTEST_ARGS='tests/unit -x' chooses from it
# make check        run all that CI runs
# make lint         ruff and import-linter: style and layers
# make types        mypy
# make docs         build the site of docs/ into build/site
# make format       put the code in form with ruff
# make constraints  write constraints.txt with the newest versions (needs uv)
# make clean        remove .venv and what the tools left
#
# Each sets up .venv by itself: with uv where it is installed, else with venv and pip.
# Needed: make and Python 3.11 or newer.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# Two processes keep two cores busy; they also are what the tests of worker processes were timed with.
PYTEST_ARGS ?= -n 2

.PHONY: demo test check lint format types docs constraints clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.stamp-run
	@$(BIN)/python -m graphflow demo

test: $(VENV)/.stamp-dev
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS)

check:
	bash .ci/run

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.stamp-dev
	$(BIN)/mypy

# Broken links, anchors and references fail.
docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'The site is in build/site/index.html'

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The versions that are newest now, for every Python and system in one file; commit it once everything passed with them.
constraints:
	uv pip compile --quiet --universal --upgrade --python-version 3.11 --group dev --group docs --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file constraints.txt pyproject.toml

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Both ways install the versions of constraints.txt, which are those that passed: what they need is only looked up once.
# With pip, the package and the tools go into one command: a second one could move a shared dependency.
$(VENV)/.stamp-run: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		echo 'Setting up $(VENV) with uv'; \
		$(uv_venv); \
		uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable .; \
	else \
		echo 'Setting up $(VENV) with pip'; \
		$(pip_venv); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .; \
	fi
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		echo 'Setting up $(VENV) with uv'; \
		$(uv_venv); \
		uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable . --group dev; \
	else \
		echo 'Setting up $(VENV) with pip'; \
		$(pip_venv); \
		$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' \
			> $(VENV)/dev-requirements.txt; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . \
			-r $(VENV)/dev-requirements.txt; \
	fi
	@touch $(VENV)/.stamp-run $@

# What builds the site comes into the same environment: it reads the package there.
$(VENV)/.stamp-docs: $(VENV)/.stamp-dev
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --group docs; \
	else \
		$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["docs"], sep="\n")' \
			> $(VENV)/docs-requirements.txt; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt -r $(VENV)/docs-requirements.txt; \
	fi
	@touch $@

define uv_venv
set -e; test -x $(BIN)/python || uv venv --quiet $(if $(PYTHON),--python '$(PYTHON)') $(VENV)
endef

define pip_venv
$(need_python); test -x $(BIN)/python || '$(PYTHON)' -m venv $(VENV)
endef

define need_python
set -e; test -n '$(PYTHON)' || { echo 'graphflow needs Python 3.11 or newer, and none was found. Set PYTHON=/path/to/python3.' >&2; exit 1; }
endef
