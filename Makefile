# All targets use .venv, which is created on first use. PYTHON selects the interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOOR := .venv-floor
# The versions of Python that `pythons-test` tests. The other tests use PYTHON.
NEWER_PYTHONS ?= 3.13
OTHER_VENVS := $(NEWER_PYTHONS:%=.venv-%)
RUNS ?= runs
# One process per core; OMP_NUM_THREADS=1 makes each of them single-threaded.
PYTEST := -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
ON_ANY_CPU := not slow and not slurm and not gpu and not browser

.DEFAULT_GOAL := help
.PHONY: help install demo test integration-test slurm-test floor-test pythons-test check check-slow lint types bench gpu-check evidence wheel-smoke clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# uv installs faster than pip. It does not read pip's configuration; where it fails, pip installs. uv compiles modules only on
# request. They must be compiled before the tests: a module of POT raises a warning then, which is an error in tests.
INSTALL = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(1) || $(BIN)/python -m pip install --quiet $(1)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet uv

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(call INSTALL,--editable .)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(call INSTALL,--editable '.[dev]')
	@touch $@

install: $(VENV)/.installed ## Install the package into .venv

demo: $(VENV)/.installed ## Train and score four runs over k and p on real images (minutes on two cores)
	WGAN_SWEEP_RUNS="$(RUNS)" $(BIN)/wgan-sweep -m loss=wgan_div div.k=1,2 div.p=2,6 optimizer.lr=1e-3 launch=parallel

test: $(VENV)/.installed-dev ## Run the fast tests, with one single-threaded process per core
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

integration-test: $(VENV)/.installed-dev ## Run the longer tests: processes, compilers, whole trainings, every option (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "integration and $(ON_ANY_CPU)"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

slurm-test: $(VENV)/.installed-dev ## Test sweeps on a local SLURM cluster, set up from Debian packages (root; minutes)
	PYTHON=$(CURDIR)/$(BIN)/python tests/slurm/run.sh

# Tests of what depends most on the versions of libraries.
FLOOR_TESTS := $(addprefix tests/, test_checkpoints.py test_compiling.py test_composing.py test_critics.py test_gradient_terms.py \
	test_graphs.py test_hydra_internals.py test_library_internals.py test_metrics.py test_packaging.py test_precision.py \
	test_torchmetrics.py test_trainer.py report/test_evidence.py report/test_formats.py report/test_report.py)

$(FLOOR)/.installed: pyproject.toml | $(VENV)/.installed-dev
	$(BIN)/uv venv --quiet --clear --seed --python 3.11 $(FLOOR)
	$(BIN)/uv pip install --quiet --python $(FLOOR) --resolution lowest-direct --requirements pyproject.toml --extra test
	$(BIN)/uv pip install --quiet --python $(FLOOR) --no-deps --editable .
	@touch $@

floor-test: $(FLOOR)/.installed ## Test the lowest versions of all dependencies, on Python 3.11
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python $(PYTEST) -m "$(ON_ANY_CPU)" $(FLOOR_TESTS)

# Tests of what depends most on the version of Python. An interpreter need not be on the PATH: pyenv's is used, else uv
# finds or downloads one.
PYTHON_TESTS := $(addprefix tests/, test_api.py test_cli.py test_composing.py test_config.py test_extending.py test_identity.py \
	test_launch.py test_packaging.py test_processes.py test_trainer.py)
PYENV_VERSIONS := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions

$(OTHER_VENVS:%=%/.installed): .venv-%/.installed: pyproject.toml | $(VENV)/.installed-dev
	$(BIN)/uv venv --quiet --clear --seed --python "$(firstword $(wildcard $(PYENV_VERSIONS)/$*.*/bin/python) $*)" $(@D)
	$(BIN)/uv pip install --quiet --python $(@D) --editable '.[test]'
	@touch $@

pythons-test: $(OTHER_VENVS:%=%/.installed) ## Run fast tests on the newest version of Python, with the latest dependencies
	for venv in $(OTHER_VENVS); do \
		OMP_NUM_THREADS=1 $$venv/bin/python $(PYTEST) $(PYTHON_TESTS) || exit 1; \
	done

check: lint types test integration-test wheel-smoke floor-test pythons-test slurm-test ## Run everything that CI runs

check-slow: $(VENV)/.installed-dev ## Run the slow tests, on whole data sets (longer than CI's)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "slow and not slurm"

$(VENV)/.installed-bench: $(VENV)/.installed
	$(call INSTALL,--editable '.[bench]')
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/others torchgan torch-mimicry  # torchgan installs a top-level package `tests`
	@touch $@

bench: $(VENV)/.installed-bench ## Measure the cost of iterations, scoring and sweeps, next to other implementations
	PYTHONPATH=$(VENV)/others $(BIN)/python -m wgan_sweep.bench

gpu-check: $(VENV)/.installed-bench $(VENV)/.installed-dev ## Check on a GPU all that only a GPU can show (ten minutes at most)
	PYTHONPATH=$(VENV)/others $(BIN)/python -m wgan_sweep.bench.gpu_check

evidence: $(VENV)/.installed ## Write the results of .github/evidence/README.md again, from its archives
	$(BIN)/python .github/evidence/build.py

wheel-smoke: $(VENV)/.installed-dev ## Build the wheel, install it into a new environment, and use it elsewhere
	BUILD_PYTHON=$(BIN)/python tests/wheel_smoke.sh

clean: ## Remove the environments and build outputs; keep runs
	rm -rf $(VENV) $(VENV)-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
