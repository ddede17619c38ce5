# Each target sets up .venv by itself: once, and again when pyproject.toml changes. pip's PIP_* variables apply.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup search test lint format types pytest golden clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

search: $(READY) ## search the shipped space; given again after a stop, it goes on
	$(BIN)/composer search specs/space.yaml

test: lint types pytest ## every check there is: ruff, mypy, pytest

lint: $(READY) ## ruff check, ruff format --check
	@printf '\n== ruff\n'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## format all code, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(READY) ## mypy --strict
	@printf '\n== mypy --strict\n'
	$(BIN)/mypy

pytest: $(READY) ## the tests, warnings as errors
	@printf '\n== pytest\n'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

golden: $(READY) ## refresh the golden files and what is generated in the docs
	$(BIN)/python docs/generate.py

setup: $(READY) ## make .venv with composer and its tools in it

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'composer needs Python 3.11 or later; name one with: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) has no venv; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'installing composer into .venv (torch and Lightning among it: minutes, once)'
	@test -e $(READY) || rm -rf .venv # what an interrupted installation left
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

clean: ## remove .venv and caches; runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
