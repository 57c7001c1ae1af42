# make setup   the environment .venv, alone          make lint    ruff and mypy
# make demo    bake a project, train it, evaluate it  make soak    long checks, some minutes
# make test    both of make lint and make check       make check   the tests alone
# make bench   speed against a loop by hand and peers  make clean   delete what these commands made

PYTHON ?= python3

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
BENCH := .venv-bench/Scripts
else
BIN := .venv/bin
BENCH := .venv-bench/bin
endif

# Running the template folder in place must leave nothing in it: cookiecutter would bake that.
export PYTHONDONTWRITEBYTECODE := 1
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export MYPY_CACHE_DIR := $(CURDIR)/.cache/mypy
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis

.PHONY: setup demo test check lint soak bench clean

setup: .venv/installed

# Done anew only when what is to be installed changes.
.venv/installed: requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-dev.txt
	$(BIN)/python -c "open('.venv/installed', 'w').close()"

demo: setup
	$(BIN)/python tools/demo.py

test: lint check

# What pytest is to be told besides, such as PYTEST_ARGS="-k hooks".
PYTEST_ARGS ?=

check: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

soak: setup
	$(BIN)/python tests/soak.py
	SOAK=1 $(BIN)/python -m pytest -k 'without_any_one_room or sharded or compiled or at_length'
	$(BIN)/python -m pytest tests/soak_tune.py

# The peers have an environment of their own: what they ask for must not come into the one that tests run in.
.venv-bench/installed: requirements-dev.txt benchmarks/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install --quiet -c constraints.txt -r requirements-dev.txt
	-$(BENCH)/python -m pip install --quiet -c constraints.txt -r benchmarks/requirements.txt
	$(BENCH)/python -c "open('.venv-bench/installed', 'w').close()"

bench: .venv-bench/installed
	$(BENCH)/python benchmarks/speed.py

clean:
	$(PYTHON) -c "import shutil; [shutil.rmtree(d, ignore_errors=True) for d in ('.venv', '.venv-bench', '.cache', 'build')]"
