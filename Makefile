# One command each: run, test, check. `make setup` needs only Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help setup run test check lock reference clean
help:
	@echo "make run    set up, start the platform with a real small model, answer one request, keep serving"
	@echo "make test   set up and run the whole test suite"
	@echo "make check  format, lint, imports, types, generated reference, sizes"

setup: $(VENV)/.installed-dev

# --without-pip: a bare Debian has no ensurepip; the system's pip installs into the new environment.
$(BIN)/python:
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

run: $(VENV)/.installed
	@$(BIN)/outpace up --model smollm2-135m-instruct --greet

check: setup
	$(BIN)/ruff format --check src tests bench docs
	$(BIN)/ruff check src tests bench docs
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python docs/reference/generate.py --check
	$(BIN)/python docs/reference/sizes.py

test: setup
	$(BIN)/pytest

reference: setup
	$(BIN)/python docs/reference/generate.py

# Lock files carry hashes and no addresses.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group build pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group dev pyproject.toml -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
