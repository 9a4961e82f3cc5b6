# Needs make and a Python >= 3.11 with its venv module; the rest is installed into $(VENV).
#
#   make demo PYTHON=/path/to/python3.12     an interpreter of your choice
#   make test ARGS="tests/ewald -x"          anything that pytest takes
#   make test VENV=/tmp/other                another environment

VENV ?= .venv
PYTHON ?=
PYTHONS ?= python3 python3.13 python3.12 python3.11
ARGS ?=

BIN := $(VENV)/bin
CANDIDATES := $(or $(PYTHON),$(PYTHONS))

.PHONY: help demo test lint docs

help:
	@echo "make demo   run the demonstration into demo/"
	@echo "make test   run the tests"
	@echo "make lint   run ruff and basedpyright"
	@echo "make docs   build the documentation into docs/_build"

demo: $(VENV)/.installed
	$(BIN)/lesjax demo --out demo

# More than 8 workers cost more memory than they save time.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# -E: also pages whose docstrings have changed. The log of jax is not the business of the pages.
docs: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

# Editable, so that only a change of pyproject.toml asks for a new installation.
$(VENV)/.installed: pyproject.toml $(BIN)/python
	@echo "Installing lesjax into $(VENV). The first time takes minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(BIN)/python
	@echo "Installing lesjax[dev] into $(VENV). The first time takes minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml $(BIN)/python
	@echo "Installing lesjax[docs] into $(VENV). The first time takes minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@ $(VENV)/.installed

# A command may be there and still not run (a pyenv shim, a Debian python3 without venv): try each.
$(BIN)/python:
	@for python in $(CANDIDATES); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	        >/dev/null 2>&1; then \
	        echo "Creating $(VENV) with $$python, $$("$$python" --version)"; \
	        "$$python" -m venv --clear "$(VENV)"; \
	        exit; \
	    fi; \
	done; \
	echo "No Python >= 3.11 with the venv module found; tried: $(CANDIDATES)." >&2; \
	echo "Install one (Debian, Ubuntu: python3 python3-venv), or name yours:" >&2; \
	echo "    make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3" >&2; \
	exit 1
