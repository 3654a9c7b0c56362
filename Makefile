# One word for everything: make setup | run | test | test-fast | test-all | check | bench | clean
#
#   make run ARGS="rounds.max=1"        more words for `vila2 submit`
#   make test ARGS="-k corpus"          more words for pytest
#   make setup PYTHON=/opt/python3.12   another interpreter (3.10 to 3.13; 3.11 is what constraints.txt was frozen from)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup corpus run test test-failed test-fast test-all check format bench clean

VENV := .venv
BIN := $(VENV)/bin
CORPUS := data/tiny
TINY := vila2_ray/recipes/tiny
ARGS ?=

# The first one that runs, is of a version that we support and can make an environment: a name on the path may be a mere shim.
USABLE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3 python; do \
	$$p -c "$(USABLE)" >/dev/null 2>&1 && echo $$p && break; done)

help:
	@sed -n 's/^# //p' Makefile | head -1
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.installed $(CORPUS)/.composed  ## environment and default corpus

# vLLM by what the machine has. Its CPU build brings packages of torch that are linked against CUDA and break beside a torch
# that is not; nothing needs them.
ENGINE := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
MISFITS := torchvision torchaudio torchcodec

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python from 3.10 to 3.13 with venv found; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,$(ENGINE)]'
	@test $(ENGINE) = gpu || $(BIN)/python -m pip uninstall --quiet --yes $(MISFITS) 2>/dev/null
	@touch $@

# Same sources, same scenes, byte for byte: composing again changes nothing unless the sources changed.
$(CORPUS)/.composed: $(wildcard $(addprefix $(TINY)/,artwork.py compose.py corpus.py world.py)) | $(VENV)/.installed
	$(BIN)/python -m vila2_ray.recipes.tiny.corpus --to $(CORPUS)
	@touch $@

corpus: $(CORPUS)/.composed

run: setup
	@$(BIN)/vila2 submit --recipe tiny $(ARGS)

# Side by side: what starts no cluster. Then the rest, one after the other. 5: ARGS chose no test of that part.
LIGHT := tests/e2e/test_page tests/e2e/test_serve_ tests/e2e/test_soak
test: $(VENV)/.installed
	@status=0; for part in "tests/unit $(wildcard $(addsuffix *.py,$(LIGHT))) -n 2 --dist loadfile" \
		"tests/e2e tests/faults tests/ray $(patsubst %,--ignore-glob=%*,$(LIGHT))"; do \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest $$part -m "not slow and not gpu" $(ARGS) || [ $$? = 5 ] || status=1; \
	done; exit $$status

# What failed when pytest ran last. Fails itself where nothing is known to have failed.
test-failed: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m "not slow and not gpu" $(ARGS)

test-fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -n auto -q $(ARGS)

test-all: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) $(CORPUS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@echo "runs/ is kept: remove it by hand if you mean it"
