# Two commands do all the set-up: `make demo` and `make test`. The rest is convenience.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Processes that test side by side; each computes with one thread.
TESTERS ?= 2
# A real object store for tests. Of its own, as its dependencies are nobody else's.
SWIFT  := .venv-swift
export DCGAN_ROOT   ?= $(CURDIR)/data
# Prefect's own files stay beside the data, whatever profile the user has.
export PREFECT_HOME ?= $(CURDIR)/data/prefect
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
# The first start compiles a fresh .venv and makes the database: more than the default 20 s on a slow machine.
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 180
export DO_NOT_TRACK ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help setup demo test lint format bench up clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(BIN)/.installed ## Make .venv and install everything into it, when needed

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "dcgan needs Python 3.11 to 3.13 and $(PYTHON) is $$($(PYTHON) --version); try: make setup PYTHON=python3.12"; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "==> installing dcgan and what it stands on (PyTorch is large: a few minutes, about 7 GB)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,s3,demo,export,dev]'
	@touch $@
	@echo "==> ready"

demo: setup ## Run the whole pipeline on built-in photos, then say where the report is
	@mkdir -p $(PREFECT_HOME)
	@$(BIN)/python -m flows.demo

$(SWIFT)/.installed:
	@echo "==> making $(SWIFT), an object store for tests"
	@{ $(PYTHON) -m venv $(SWIFT) && \
	   $(SWIFT)/bin/pip install --quiet --disable-pip-version-check --retries 1 swift==2.38.3 && touch $@; } || \
	  echo "==> OpenStack Swift cannot be installed here: tests on an object store are skipped"

test: setup $(SWIFT)/.installed ## Run all tests
	@mkdir -p $(PREFECT_HOME)
	$(BIN)/python -m pytest -n $(TESTERS)

lint: setup ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure what is measured; see benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.part_overhead
	$(BIN)/python -m benchmarks.cached_run
	$(BIN)/python -m benchmarks.demo
	$(BIN)/python -m benchmarks.fetch
	$(BIN)/python -m benchmarks.crop

up: setup ## Prefect server with UI, work pool, deployments and a worker, until Ctrl-C
	@mkdir -p $(PREFECT_HOME)
	@$(BIN)/python -m tasks.up

clean: ## Remove .venv (the data stay)
	rm -rf $(VENV) $(SWIFT)
