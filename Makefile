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

# Results: the files of benchmarks/results, and those of the quick form.
RESULTS := benchmarks/results
QUICK := runs/quick
SHARED := $(wildcard $(or $(LESJAX_SHARED),../shared)/data)
BENCH := $(BIN)/python benchmarks

.PHONY: help demo models test test-slow lint docs notebooks notebooks-quick results results-errors results-cost results-quick

help:
	@echo "make demo            run the demonstration into demo/"
	@echo "make models          train the shipped models anew"
	@echo "make test            run the tests"
	@echo "make test-slow       run those that are left out for their time"
	@echo "make lint            run ruff and basedpyright"
	@echo "make docs            build the documentation into docs/_build"
	@echo "make notebooks       execute the notebooks and write their pages in docs/notebooks; ARGS=03 for one"
	@echo "make notebooks-quick execute them with tiny models, as CI does"
	@echo "make results         compute all of benchmarks/RESULTS.md again, which takes hours; the same command resumes"
	@echo "make results-quick   the same commands for a few steps, into runs/quick"

demo: $(VENV)/.installed
	$(BIN)/lesjax demo --out demo

models: $(VENV)/.installed
	$(BIN)/python -m data_generation.models

# More than 8 workers cost more memory than they save time.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

# Tests left out of `make test` for their time.
test-slow: ARGS += -m slow
test-slow: test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# -E: also pages whose docstrings have changed. The log of jax is not the business of the pages.
docs: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

notebooks: $(VENV)/.installed-dev
	$(BIN)/python notebooks/make_notebooks.py pair $(ARGS)
	$(BIN)/python notebooks/make_notebooks.py run $(ARGS)

# The quick forms compute little: the compiler takes less time without its costly passes, see tests/conftest.py.
OLD_JAX = $(shell $(BIN)/python -c 'from importlib.metadata import version; print(version("jax") < "0.11")')
notebooks-quick results-quick: export JAX_DISABLE_MOST_OPTIMIZATIONS := 1
notebooks-quick results-quick: export XLA_FLAGS = $(if $(filter True,$(OLD_JAX)),--xla_cpu_use_fusion_emitters=false)

notebooks-quick: $(VENV)/.installed-dev
	$(BIN)/python notebooks/make_notebooks.py run --quick $(ARGS)

# Finished trainings are kept in runs/. Simulations and timings start anew; these want a machine that does nothing else.
results: results-errors results-cost
	$(BENCH)/tables.py --page docs/results.md

results-errors: $(VENV)/.installed
	$(BENCH)/demo.py --json $(RESULTS)/demo.json
	$(BENCH)/learning_curves.py gas --json $(RESULTS)/learning_curves.json
	$(BENCH)/learning_curves.py gas --cutoffs 4 5.5 --sizes 100 --models short_range les \
	    --json $(RESULTS)/learning_curves.json
	$(BENCH)/learning_curves.py kf_water nacl_water --json $(RESULTS)/learning_curves.json \
	    --plot docs/images/learning_curves.png
	JAX_ENABLE_X64=1 $(BENCH)/dimers.py --data shipped --classes CC CP PP --json $(RESULTS)/dimers_shipped.json
	$(BENCH)/charge_transfer.py --json $(RESULTS)/charge_transfer.json --plot docs/images/charge_transfer.png
	$(BENCH)/start_of_charges.py --json $(RESULTS)/start_of_charges.json
	$(BENCH)/fit_charges.py --json $(RESULTS)/fit_charges.json
	$(BENCH)/lone_atoms.py --json $(RESULTS)/lone_atoms.json
	JAX_ENABLE_X64=1 $(BENCH)/argon.py --json $(RESULTS)/argon.json
	JAX_ENABLE_X64=1 $(BENCH)/ewald_accuracy.py --json $(RESULTS)/ewald_accuracy.json
	JAX_ENABLE_X64=1 $(BENCH)/ewald_accuracy.py --earlier --sigmas 1 --json $(RESULTS)/ewald_accuracy_earlier.json
	$(BENCH)/plan_history.py --number 8 --json $(RESULTS)/plan_history.json
	JAX_ENABLE_X64=1 $(BENCH)/interruptions.py --json $(RESULTS)/interruptions.json
	for seed in 1 2 3; do $(BIN)/python -m tests.fuzz --seed $$seed --count 4000 --json $(RESULTS)/fuzz.json; done
	JAX_ENABLE_X64=1 $(BENCH)/canonical.py --steps 150000 --json $(RESULTS)/canonical.json
ifneq ($(SHARED),)
	JAX_ENABLE_X64=1 $(BENCH)/dimers.py --data shared --json $(RESULTS)/dimers.json --plot docs/images/dimer_CC.png
	$(BENCH)/real_data.py --json $(RESULTS)/real_data.json
	$(BENCH)/finetuning.py --json $(RESULTS)/finetuning.json
	$(BENCH)/water_infrared.py runs/real_data/water/model --json $(RESULTS)/water_infrared.json \
	    --plot docs/images/water_infrared.png
	JAX_ENABLE_X64=1 $(BENCH)/fit_on_mace.py --json $(RESULTS)/fit_on_mace.json
	$(BENCH)/conservation.py --json $(RESULTS)/conservation.json
	JAX_ENABLE_X64=1 $(BENCH)/conservation.py --json $(RESULTS)/conservation.json
else
	@echo "The published sets are left out: no folder ../shared; LESJAX_SHARED names another place."
endif

results-cost: $(VENV)/.installed
	$(BENCH)/ewald_accuracy.py --cost --json $(RESULTS)/ewald_plan_cost.json
	$(BENCH)/crossover.py --json $(RESULTS)/crossover.json
	$(BENCH)/direct_sum.py --json $(RESULTS)/direct_sum.json
	@if $(BIN)/python -c 'import jaxpme, torchpme' 2>/dev/null; \
	then $(BENCH)/peers.py --json $(RESULTS)/peers.json --figure docs/images/ewald_scaling.png --resume; \
	else echo "Other packages are left out: $(BIN)/pip install -r benchmarks/requirements.txt"; fi
ifneq ($(SHARED),)
	$(BENCH)/training_step.py --json $(RESULTS)/training_step.json
	$(BENCH)/ensembles.py --json $(RESULTS)/ensembles.json
	$(BENCH)/water_ase.py --json $(RESULTS)/water_ase.json
	$(BENCH)/md.py --json $(RESULTS)/md.json
	@if $(BIN)/python -c 'import mace, mlip' 2>/dev/null; \
	then $(BENCH)/graph_models.py --json $(RESULTS)/graph_models.json; \
	else echo "mace-torch and mlip are left out: see benchmarks/graph_models.py"; fi
endif

# Small models and a few steps: shows that the commands run, and nothing about errors.
SMALL := --set model.short_range.max_l=1 --set model.short_range.max_nu=2 --set training.phases.0.epochs=2 --set training.eval_every=2
results-quick: $(VENV)/.installed
	$(BENCH)/learning_curves.py gas --quick --json $(QUICK)/results/learning_curves.json
	$(BENCH)/learning_curves.py kf_water --quick --models les --json $(QUICK)/results/learning_curves.json \
	    --plot $(QUICK)/learning_curves.png
	JAX_ENABLE_X64=1 $(BENCH)/dimers.py --data shipped --classes CC --models les --seeds 0 $(SMALL) \
	    --set training.phases.1.epochs=2 --work $(QUICK)/dimers --json $(QUICK)/results/dimers_shipped.json
	$(BENCH)/charge_transfer.py silver_trimers/les/0 $(SMALL) --set training.phases.1.epochs=2 \
	    --work $(QUICK)/charge_transfer --json $(QUICK)/results/charge_transfer.json
	$(BENCH)/tables.py --results $(QUICK)/results --out $(QUICK)/RESULTS.md

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
