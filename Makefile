# Vitalgrid: everything a person or CI does with this repository is a target here.
# Needs: make and Python 3.11 or later. Everything else is installed into .venv by `make setup`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
ARGS ?=
QUICK ?=
WORKERS ?= 2
PACKAGES := actors analytics api cluster domain gateways runtime scenarios sim

# the first of these that is Python 3.11 or later, with the venv module; empty when there is none
FIND_PYTHON = for p in $(PYTHON) python3.11 python3 python3.12 python3.13 python; do \
	command -v "$$p" >/dev/null 2>&1 && \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && \
	echo "$$p" && break; done || true

.PHONY: help
help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/.ready ## make .venv with the locked packages and the command vitalgrid
	@echo "ready: $(BIN)/vitalgrid"

$(VENV)/.made:
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip was found." >&2; \
		echo "On Debian: apt-get install python3 python3-venv. Or name one: make setup PYTHON=/path/to/python3.11" >&2; \
		exit 1; fi; \
	rm -rf $(VENV); \
	"$$python" -m venv $(VENV)
	@uv="$$(sed -n 's/^uv==\([0-9.]*\).*/uv==\1/p' requirements.lock)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$uv"
	@touch $@

$(VENV)/.ready: $(VENV)/.made requirements.lock pyproject.toml
	@export VIRTUAL_ENV="$(CURDIR)/$(VENV)"; \
	$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock; \
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q $(PACKAGES) # processes start in half the time, also where Python may not write these itself
	@$(BIN)/python -c "import actors.host, runtime.lake, runtime.replay_loops" # their loops are compiled now, not by the first start
	@touch $@

.PHONY: run
run: setup ## show a district at work: server, doors, hosts, lake, API, 10 hospitals, real patients
	@$(BIN)/vitalgrid demo $(ARGS)

.PHONY: test
test: setup test-tools ## run the tests, real servers included, in WORKERS processes (ARGS="-k news2" for some); what guards the source is in `make check`
	@$(PYTEST) -p tests.conformance_plugin -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--ignore=tests/test_architecture.py -m "not postgres and not long" $(ARGS)

.PHONY: test-long
test-long: setup test-tools ## run the tests that take minutes: full disks, two raylets, clocks, more broken platforms
	@$(PYTEST) -m long $(ARGS)

.PHONY: test-tools
test-tools: # real clients that tests drive: Debian packages, installed when missing
	@missing=""; \
	command -v mosquitto_pub >/dev/null || missing="$$missing mosquitto-clients"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	if command -v apt-get >/dev/null; then \
		command -v go >/dev/null || missing="$$missing golang-go"; \
		[ -d /usr/share/gocode/src/golang.org/x/mod/sumdb ] || missing="$$missing golang-golang-x-mod-dev"; fi; \
	if [ -n "$$missing" ]; then .ci/install-packages $$missing; fi

.PHONY: test-postgres
test-postgres: setup ## run the store tests on PostgreSQL (installed when missing)
	@tests/postgres_server.sh $(PYTEST) -m postgres $(ARGS)

.PHONY: check
check: setup ## lint, format, types, import rules, documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_docs.py tests/test_architecture.py tests/test_packages.py

.PHONY: faults
faults: setup ## break a real platform under load, RUNS times from SEED on (ONLY="kill host"); no acknowledged reading may be lost
	@nice -n 5 $(BIN)/python -m tests.faults --runs $(or $(RUNS),10) --seed $(or $(SEED),1) $(if $(ONLY),--only "$(ONLY)") $(ARGS)

.PHONY: attacks
attacks: setup attack-tools ## flood a real platform beside an honest client, whose queries may take a second (p99); scan its TLS, and write docs/attacks.md (25 minutes; ARGS=--scan: that alone)
	@$(BIN)/python -m tests.attacks $(if $(ONLY),--only "$(ONLY)") $(ARGS)

.PHONY: attack-tools
attack-tools: # other people's attackers: Debian packages, installed when missing
	@missing=""; \
	command -v slowhttptest >/dev/null || missing="$$missing slowhttptest"; \
	command -v testssl >/dev/null || missing="$$missing testssl.sh"; \
	if [ -n "$$missing" ]; then .ci/install-packages $$missing; fi

.PHONY: power-cut
power-cut: setup ## cut the power of a platform on a disk image under load, CUTS times from SEED on, and of broken ones that have to lose; needs root
	@nice -n 5 $(BIN)/python -m tests.faults.power_cut --cuts $(or $(CUTS),5) --seed $(or $(SEED),1) $(ARGS)

.PHONY: simulate
simulate: setup ## play the platform on virtual time under faults: SEEDS=1000 runs, from SEED=17 on; SEED alone repeats one
	@$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: bench
bench: setup ## measure, and write docs/performance.md; QUICK=1 for a smoke run that writes nothing
	@mkdir -p build/bench; \
	if [ -n "$(QUICK)" ]; then exec $(BIN)/python -m benchmarks; fi; \
	for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done; \
	$(BIN)/python docs/generate.py performance

.PHONY: scenarios
scenarios: setup ## play every story at full size, each against a new platform; reports in build/scenarios (15 minutes)
	@export VITALGRID_SECURITY__PROFILE=dev VITALGRID_API__PORT=0 VITALGRID_DOORS__MQTT_PORT=0 VITALGRID_DOORS__HTTP_PORT=0; failed=""; \
	for story in scenarios/*.toml; do name="$$(basename "$$story" .toml)"; rm -rf build/scenarios/var; \
		$(BIN)/vitalgrid scenario run "$$name" --data-dir build/scenarios/var --reports build/scenarios/reports $(ARGS) \
			|| failed="$$failed $$name"; done; \
	if [ -n "$$failed" ]; then echo "not passed:$$failed" >&2; exit 1; fi

.PHONY: conformance
conformance: test ## run the tests and write docs/conformance.md from what they showed
	@$(BIN)/python docs/generate.py conformance

.PHONY: docs
docs: setup ## write the pages that are made from code: settings, metrics, Prometheus numbers
	@$(BIN)/python docs/generate.py settings metrics permissions prometheus retention security

.PHONY: lock
lock: setup ## choose package versions anew and lock them with hashes
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-header \
		--python-version 3.11 --group dev pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove .venv, caches and results (what a platform keeps in var/ stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
