.DEFAULT_GOAL := help
TWIN := .venv/bin/twin
PYTHON ?= python3
PACKAGES := schemas runtime connectors kernels store agents replay queries audit plant services cli bench
SECONDS ?=
REPORT ?=

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## install everything into .venv

.venv/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} found, 3.11 or newer is needed"'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	.venv/bin/python -m cli.compile
	@touch $@

services: setup ## fetch and build Kafka, InfluxDB and mosquitto into the user's cache
	.venv/bin/python -m services install

check: setup ## formatting, lint, types, insecure code, known vulnerabilities of what is locked
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/bandit --quiet --configfile pyproject.toml --recursive $(PACKAGES)
	.venv/bin/python -m tests.security.vulnerabilities

vulnerabilities: setup ## the same look-up, and an error where no service can be asked
	.venv/bin/python -m tests.security.vulnerabilities --required

sbom: setup ## bill of materials of what is locked: sbom.json, CycloneDX
	.venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
		--output-file sbom.json requirements.lock

test: check services ## everything that proves the project, on real services
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal -m "not services and not kill"
	.venv/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		-m "(services or kill) and not soak"

soak: services ## what takes minutes each: more seeds, longer runs, real data sets, more rows of the table of faults
	.venv/bin/python -m pytest -m soak

faults: services ## strike every row of the table of faults; SEEDS=1,2,3 JOBS=2 CONTINUE=1 OUT=docs/faults.json LOAD=20x50x2
	$(if $(LOAD),FAULTS_LOAD=$(LOAD) ).venv/bin/python -m tests.faults --seeds $(or $(SEEDS),1) --jobs $(or $(JOBS),1) --out $(or $(OUT),docs/faults.json) $(if $(CONTINUE),--continue)

fault: services ## one row of it: ROW=3 SEED=7 (SHORT=1: as in `make test`) LOAD=20x50x2 (assets x tags x Hz)
	$(if $(LOAD),FAULTS_LOAD=$(LOAD) ).venv/bin/python -m tests.faults --row $(ROW) --seed $(or $(SEED),1) --out fault.json $(if $(SHORT),--short)

explore: setup ## the property tests with examples nobody has tried; `make test` tries the same ones each time
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal -m "not services and not kill" --hypothesis-profile explore

fuzz: setup ## fuzz both decoders, guided by coverage; MINUTES=10 each
	@.venv/bin/python -c 'import atheris' 2>/dev/null || .venv/bin/pip install --quiet \
		--disable-pip-version-check --require-hashes --no-deps -r tests/fuzz/requirements.lock
	.venv/bin/python -m tests.fuzz.payload --minutes $(or $(MINUTES),10)
	.venv/bin/python -m tests.fuzz.frame --minutes $(or $(MINUTES),10)

demo: services ## the main job, live; SECONDS=60 REPORT=demo.json stops, audits and reports
	$(TWIN) demo $(if $(SECONDS),--seconds $(SECONDS)) $(if $(REPORT),--report $(REPORT))

up: services ## start services, connectors and agents on this machine
	$(TWIN) up

status: setup ## show each process with lag and rate
	$(TWIN) status

down: setup ## stop what `make up` started
	$(TWIN) down

lock: setup ## renew requirements.lock from pyproject.toml
	.venv/bin/uv pip compile --python-version 3.11 --universal --generate-hashes --no-emit-index-url \
		--no-emit-find-links --extra dev --quiet pyproject.toml --output-file requirements.lock

clean: ## remove what setup and tests made in this folder
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz *.egg-info

.PHONY: help setup services check vulnerabilities sbom test soak faults fault explore fuzz demo up status down lock clean
