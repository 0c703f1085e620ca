# `make lab` and `make test` do everything on a fresh Debian 12 machine as root: each installs what it needs.
# Slow builds (Kubernetes, etcd, …) are cached outside the tree, in /var/cache/podroute (PODROUTE_CACHE overrides).
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
LAB ?= lab

# Each of these tests has namespaces of its own: two files at a time. The others share one lab, or measure the whole machine.
APART := tests/kernel $(wildcard tests/lab/test_apiserver_*.py)
SHARING := tests/lab --ignore-glob='*/test_apiserver_*'

.PHONY: help lab lab-down test lint unit kernel lab-tests bench soak chaos generate prepare clean

help: ## Show this.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

lab: .venv/.ready ## Start a whole cluster with routers on this machine, and show around.
	@$(BIN)/podroute lab up --name $(LAB)

lab-down: .venv/.ready ## Remove the lab and all that it made.
	@$(BIN)/podroute lab down --name $(LAB)

# The virtual environment lies in the tree; pip's cache makes a second one quick.
.venv/.ready: pyproject.toml constraints.txt
	@echo "preparing .venv"
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3 python3-venv; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

prepare: .venv/.ready
	@$(BIN)/python -m controller.lab.prepare

test: lint prepare ## Run all tests: pure, kernel, and on a real cluster with real routers.
	$(BIN)/pytest -q -n 2 tests/unit tests/golden tests/replay tests/safety
	$(BIN)/pytest -q -n 2 --dist loadfile $(APART)
	$(BIN)/pytest -q --durations=15 $(SHARING)

lint: .venv/.ready ## Style, types, import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: .venv/.ready ## The quick tests only; without routers installed, what asks them is left out.
	PODROUTE_QUICK=1 $(BIN)/pytest -q -n 2 tests/unit tests/golden tests/replay

kernel: prepare ## Tests in network namespaces.
	$(BIN)/pytest -q -n 2 --dist loadfile tests/kernel

lab-tests: prepare ## Tests on a real cluster.
	$(BIN)/pytest -q --durations=15 tests/lab

bench: prepare ## Measure beside the references; writes bench.md and bench-scale.md (PART='*_scale': the latter only).
	$(BIN)/pytest -q -s tests/bench$(if $(PART),/test_$(PART).py)

soak: prepare ## The long forms of the tests.
	$(BIN)/pytest -q --durations=15 tests -m soak

chaos: prepare ## Faults under traffic, in a lab of its own: writes docs/faults.md (SEED=n, COUNT=n).
	PYTHONPATH=tests/lab:tests $(BIN)/python tests/lab/chaos.py $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) \
		--table docs/faults.md

generate: .venv/.ready ## Write the generated files anew: CRDs, the table of reasons.
	$(BIN)/python -m controller.api.crd manifests/crds
	$(BIN)/python -m controller.cli.reference docs/reasons.md

clean: ## Remove what was made in the tree.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
