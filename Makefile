# Each target sets up its environment by itself: once, and again when what it is made from changes.
# pip's PIP_* variables apply.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
CONSTRAINTS := .ci/constraints.txt
# the version that the CUDA build of the newest torch allowed requires; its CPU build names none
TRITON := 3.7.1
# each worker has one half of the files, then takes from the other: most fixtures of modules are made once
PYTEST := -m pytest -q -n $(WORKERS) --dist worksteal
# set in many containers; each process that a test starts would compile our modules again
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup search test test-full test-latest lint format types pytest golden constraints latest clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

search: $(READY) ## search the shipped space; given again after a stop, it goes on
	$(BIN)/composer search specs/space.yaml

test: lint types pytest ## ruff, mypy and the tests, with small samples

test-full: lint types ## the same with large samples and long runs
	@printf '\n== pytest --full\n'
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) --full

test-latest: latest ## the tests on the newest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 .venv-latest/bin/python $(PYTEST)

lint: $(READY) ## ruff check, ruff format --check
	@printf '\n== ruff\n'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## format all code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(READY) ## mypy --strict
	@printf '\n== mypy --strict\n'
	$(BIN)/mypy

pytest: $(READY) ## the tests alone, warnings as errors
	@printf '\n== pytest\n'
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

golden: $(READY) ## refresh the golden files and the generated parts of the docs
	$(BIN)/python docs/generate.py

constraints: latest ## pin the newest versions, for make and CI; run the tests afterwards
	.venv-latest/bin/python -m pip freeze --exclude-editable \
		| sed -e 's/+cpu$$//' -e 's/^triton==.*/triton==$(TRITON)/' > $(CONSTRAINTS).new
	@mv $(CONSTRAINTS).new $(CONSTRAINTS)

setup: $(READY) ## make .venv with composer and its development tools

# $(call install,ENVIRONMENT,PIP OPTIONS): a new environment with composer and its development tools
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo 'composer needs Python 3.11 or later; name one with: make PYTHON=python3.12 ...' >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo '$(PYTHON) has no venv; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
@echo 'installing composer into $(1) (PyTorch and Lightning among it: takes minutes, once)'
@rm -rf $(1)
@$(PYTHON) -m venv $(1)
@$(1)/bin/python -m pip install -q $(2) -e '.[dev]'
@touch $(1)/.ready
endef

$(READY): pyproject.toml $(CONSTRAINTS)
	$(call install,.venv,-c $(CONSTRAINTS))

latest:
	$(call install,.venv-latest)

clean: ## remove the environments and caches; runs stay
	rm -rf .venv .venv-latest .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
