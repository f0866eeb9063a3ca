# voicewatch: everything a developer runs. Needs Python 3.11 or 3.12 with pip, and make; the rest goes into .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help venv demo test cluster-hosts coverage lint types contracts check docs screenshots bench soak fuzz audit-deps check-lowest canary lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The interpreter that makes .venv; unset, the first of python3.12, python3.11 and python3 that will do.
PYTHON ?=
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet $(UPGRADE)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## install everything into .venv, from requirements.lock
	@:

$(READY): requirements.lock pyproject.toml
	@PYTHON="$(PYTHON)" ./.ci/venv $(VENV)
	@touch $@

demo: $(READY) ## the whole job in 15 seconds: simulator, feed, dataflow, callbacks
	@$(BIN)/voicewatch demo

test: $(READY) ## every test
	@$(BIN)/python -m pytest -q

coverage: $(READY) ## every test, with the branches that they run in their own process, and a floor for these
	@$(BIN)/python -m slipcover --dont-wrap-pytest -m pytest -q; result=$$?; awk 'END { print "coverage: " $$NF " % of lines and branches (.coverage.txt has the rest)" }' .coverage.txt; exit $$result

lint: $(READY) ## ruff (rules and format), spelling, banned phrases
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/codespell
	@$(BIN)/python -m pytest -q --no-header tests/project/test_prose.py

types: $(READY) ## mypy, strict
	@$(BIN)/mypy --no-error-summary

contracts: $(READY) ## import contracts between the packages
	@$(BIN)/lint-imports --no-logo

check: lint types contracts coverage ## lint, types, contracts and coverage, which runs every test: what CI runs

docs: $(READY) ## write docs/configuration.md and docs/cli.md from the code
	@$(BIN)/python -m tests.support.reference_pages

cluster-hosts: $(READY) ## both deployments over three hosts (network namespaces), for minutes; needs root
	@$(BIN)/python -m tests.hosts

screenshots: $(READY) ## write docs/images from the live page; needs Chromium
	@$(BIN)/python -m tests.browser

bench: $(READY) ## the benchmarks, as ratios; ROWS=1000,latency to select, SMALL=1 for a quick pass
	@$(BIN)/python -m tests.benchmarks

soak: $(READY) ## the whole job under random faults, for SECONDS=600
	@$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600)

fuzz: $(READY) ## fuzz the frame decoder and the journal reader, for SECONDS=60 each
	@$(BIN)/python -m pip --disable-pip-version-check --quiet --quiet install --no-deps --require-hashes --requirement requirements-fuzz.lock
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

audit-deps: $(READY) ## known vulnerabilities of the locked versions; needs the network, so check does not
	@./.ci/audit-deps $(BIN)/uv

check-lowest: $(READY) ## the tests on the lowest versions that pyproject.toml allows; needs the network, so check does not
	@./.ci/check-lowest $(BIN)/uv .lowest $(or $(TESTS),tests)

canary: $(READY) ## the dataflow's tests on bytewax-fork, and what differs; needs the network, so check does not
	@./.ci/canary $(BIN)/uv .canary $(or $(FORK),0.22.0rc9) $(or $(TESTS),tests/flows/test_dataflow.py tests/flows/test_group_flow.py)

lock: $(READY) ## bring the locked versions in line with pyproject.toml (UPGRADE=--upgrade: the newest of all)
	@$(UV_COMPILE) --group dev --extra otel --extra data --extra kafka --extra notify --extra sqs --output-file requirements.lock
	@$(UV_COMPILE) --constraint requirements.lock --output-file requirements-runtime.lock

clean: ## remove .venv, caches and builds
	@rm -rf $(VENV) .lowest .canary dist build .coverage.txt .fuzz .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find connectors flows tests -name __pycache__ -type d -prune -exec rm -rf {} +
