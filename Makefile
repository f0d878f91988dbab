# Everything runs in .venv, made on first use. PYTHON picks the interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs

.DEFAULT_GOAL := help
.PHONY: help install demo test slurm-test check lint types bench wheel-smoke clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Install the package into .venv

demo: $(VENV)/.installed ## Four runs over k and p on real images, and their FIDs (minutes on two cores)
	WGAN_SWEEP_RUNS="$(RUNS)" $(BIN)/wgan-sweep -m loss=wgan_div div.k=1,2 div.p=2,6

test: $(VENV)/.installed-dev ## The fast tests, a process and a thread per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

slurm-test: $(VENV)/.installed-dev ## Sweeps on a real SLURM cluster, brought up here from Debian's packages (root; minutes)
	PYTHON=$(CURDIR)/$(BIN)/python tests/slurm/run.sh

check: lint types test wheel-smoke slurm-test ## All that CI runs

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/others torchgan torch-mimicry  # torchgan has a package `tests`, too
	@touch $@

bench: $(VENV)/.installed-bench ## What iterations, scores and sweeps cost, beside the usual ways
	PYTHONPATH=$(VENV)/others $(BIN)/python -m wgan_sweep.bench

wheel-smoke: $(VENV)/.installed-dev ## Build the wheel, install it beside nothing else, and use it from another directory
	BUILD_PYTHON=$(BIN)/python tests/wheel_smoke.sh

clean: ## Remove what was built; runs stay
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
