# Two commands set everything up on a fresh machine with Python >= 3.11:
#   make demo     make test
# Both make .venv by themselves from PyPI; nothing else is needed.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Tests of whole services wait more than they work: one more than the two processors of a small machine.
JOBS ?= 3

.PHONY: setup demo test faults check format proto clean bench bench-audience bench-snapshot bench-peers

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Columba needs Python 3.11 or newer on PATH (or make PYTHON=/path/to/python3)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian or Ubuntu install the package python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/columba demo

# Work is stolen, not dealt out: long tests stand side by side in the tree, and so do those that share a service.
test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# A real deployment, hurt in every way there is. ARGS="--minutes 30 --scenario kill-edge --seed 7 --help"
faults: setup
	$(BIN)/python -m tests.faults $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated modules are checked in; a test fails when they differ from the schema.
# grpcio-tools is pinned: code of newer generators does not load on protobuf 6.x runtimes.
proto: setup
	$(BIN)/python -m protocol.schema.generate

# Every measurement in its short form, 3 minutes on two cores. ARGS="--output new.json --compare old.json --json"
bench: setup
	$(BIN)/python -m loadtest bench $(ARGS)

# What counting and selecting cost over a billion devices. Takes two cores for 20 s and 1 GiB of memory.
bench-audience: setup
	$(BIN)/python -m tests.benchmarks.audience

# What a snapshot of a full partition costs, and whether anything waits for it. Two cores for 2 minutes, 2 GiB.
bench-snapshot: setup
	$(BIN)/python -m tests.benchmarks.snapshot

# Columba beside Redis, Mosquitto, NATS and nginx nchan, as far as they are installed. Two cores for some
# minutes. ARGS="--connections 10000 --rounds 7 --only redis --json"
bench-peers: setup
	$(BIN)/python -m tests.benchmarks.peers $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
