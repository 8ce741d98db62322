# The verbs of this project. CI calls the same ones (.ci/run).
#
#   make quickstart   install, then every stage of the quickstart; prints where the report is
#   make test         the whole test suite
#   make check        format, lint, types, import contracts
#   make fix          what `check` can mend by itself
#   make tiny-base    rebuild models/tiny-base from nothing
#   make docs         check that what the documents name exists
#   make bench-cache  the cache against a dict, Redis, rapidfuzz and tantivy; keeps a JSON result
#   make bench-fidelity  how often the cache is right, on real recordings
#   make bench-record  what recording, the proxy and importing cost; keeps a JSON result
#   make bench-suites  how long the gold of BFCL and the desk takes to run and check
#   make bench-shadow  cache against world on the desk and on BFCL, step by step
#   make servers      the MCP servers of examples/mcp_filesystem.md, into .servers (needs node 20 and npm)
#
# Everything is installed into .venv and nowhere else; the example's servers into .servers.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

# torch goes first and alone: asked for by another package, pip takes the newest wheel, which on
# Linux brings gigabytes of CUDA. For the CPU build from PyTorch's own index:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
EXTRAS := train,mcp,teacher,http,hub,card,suites,report,redis,calibrate,parquet,redact,dev

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check fix tiny-base docs bench-cache bench-fidelity bench-record bench-suites bench-shadow servers clean

help:
	@sed -n '3,14p' Makefile | cut -c3-

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3.11 or python3 found. Install Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11. Run: make install PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
	@echo "Installed into .venv. Next: make quickstart"

quickstart: install
	$(BIN)/cacherl run recipes/quickstart.toml

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tiny-base: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[tiny]'
	$(BIN)/python scripts/tiny_base.py

docs: install
	$(BIN)/python -m pytest tests/docs

bench-cache: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.bench_cache

bench-fidelity: install
	$(BIN)/python -m benchmarks.bench_fidelity

bench-record: install
	$(BIN)/python -m benchmarks.bench_record

# Each server keeps its own versions of everything: none of them may decide what .venv holds.
bench-suites: install
	$(BIN)/python -m benchmarks.bench_suites

bench-shadow: install
	$(BIN)/python -m benchmarks.bench_shadow

SERVERS := .servers
SERVER_PINS := examples/servers/time-git.txt examples/servers/sqlite.txt examples/servers/package.json examples/servers/package-lock.json

servers: $(SERVERS)/.installed

$(SERVERS)/.installed: $(SERVER_PINS)
	@command -v npm > /dev/null || { echo "No npm found. Two of the servers need node 20 or newer: https://nodejs.org" >&2; exit 1; }
	@mkdir -p $(SERVERS)/bin
	for each in time-git sqlite; do \
		$(PYTHON) -m venv --clear $(SERVERS)/$$each && \
		$(SERVERS)/$$each/bin/python -m pip install --quiet --disable-pip-version-check --requirement examples/servers/$$each.txt || exit 1; \
	done
	cp examples/servers/package.json examples/servers/package-lock.json $(SERVERS)/
	npm ci --prefix $(SERVERS) --no-audit --no-fund --loglevel=error
	ln -sf ../time-git/bin/mcp-server-time ../time-git/bin/mcp-server-git ../sqlite/bin/mcp-server-sqlite ../node_modules/.bin/mcp-server-filesystem ../node_modules/.bin/mcp-server-memory $(SERVERS)/bin/
	@touch $@
	@echo "Installed into .servers. Next: export PATH=\"$$PWD/.servers/bin:\$$PATH\", and follow examples/mcp_filesystem.md"

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
