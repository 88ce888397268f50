# `make run` grows a zoo on real digits, `make test` checks it; both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
ROUNDS ?= 20

.PHONY: env run test test-slow test-cluster chaos format

env: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "zoo_ray needs Python 3.11 to 3.13; name one: make env PYTHON=python3.12" >&2; exit 2; }
	@# Debian's python3 comes without venv's pip; its package python3-venv brings it.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo "first: apt-get install python3-venv (as root)" >&2; exit 2; fi
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet 'uv>=0.5,<1'
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt --group dev
	@touch $@

run: env
	$(BIN)/python run_cluster.py train configs/quickstart.yaml

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow"

test-slow: env
	$(BIN)/python -m pytest -m slow --durations=20

# Hosts made of namespaces: as root, with openssh-server and rsync.
test-cluster: env
	$(BIN)/python -m pytest -rs tests/cluster/test_multi_host.py

chaos: env
	$(BIN)/python tests/chaos/chaos.py --rounds $(ROUNDS)

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
