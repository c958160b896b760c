SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install demo test acceptance bench lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## make .venv from the lock

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "whisper-router needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "install: $$(wc -l < requirements.lock) packages from requirements.lock, about 3 minutes and 3.8 GB"
	@set -o pipefail; $(BIN)/python -m pip install --no-deps -r requirements.lock 2> $(VENV)/pip.err \
	  | awk -v all=$$(wc -l < requirements.lock) 'function at() { printf "\rinstall: %3d of %d  %-50.50s", n, all, what; fflush() } \
	      /^(Collecting|Requirement already)/ { n++; what = /^Coll/ ? $$2 : $$4; at() } \
	      /^Installing collected/ { what = "unpacking (a minute or two)"; at() } END { print "" }' \
	  || { grep -v 'is ignored: it is neither' $(VENV)/pip.err; exit 1; }
	@$(BIN)/python -m pip install -qq --no-deps -e .
	@$(BIN)/python -m pip check > $(VENV)/pip.err 2>&1 || { \
	  grep -q '^torch ' $(VENV)/pip.err || { cat $(VENV)/pip.err; exit 1; }; \
	  echo "install: this torch is built for CUDA; fetching the libraries it needs (gigabytes). A CPU build avoids it:"; \
	  echo "install: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make install"; \
	  $(BIN)/python -m pip install -qq "$$(grep ^torch== requirements.lock)"; $(BIN)/python -m pip check; }
	@touch $@

demo: $(INSTALLED) ## audio -> labels -> decider -> policy -> registered router -> a routed transcript
	@$(BIN)/whisper-router demo

test: $(INSTALLED) ## ruff, mypy and the tests that take seconds or run on real weights
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadscope -m "not acceptance"

acceptance: $(INSTALLED) ## the tests that kill, soak or serve for minutes
	$(BIN)/pytest -n 2 --dist loadfile -m acceptance

bench: $(INSTALLED) ## engines side by side on the demo's speech -> docs/benchmark-engines.md (an hour on 2 cores)
	$(BIN)/python benchmarks/engines.py

lock: $(INSTALLED) ## write requirements.lock from what is installed
	$(BIN)/python -m pip freeze --all --exclude pip --exclude whisper-router | sed 's/+cpu$$//' > requirements.lock

clean: ## remove all that was made, the environment included
	rm -rf $(VENV) .cache .prefect .mypy_cache .ruff_cache .pytest_cache .hypothesis .dvc/cache .dvc/tmp
	git clean -fdXq data mlruns
