# One command each: run, test, check. `make setup` needs only Python 3.11+, pip and make.
PYTHON ?= python3
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
# --without-pip below: a bare Debian has no ensurepip, so the system's pip installs into the new environment.
# Its externally-managed marker is about the system's packages, and does not reach a virtual environment.
PIP := $(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check --root-user-action ignore --no-input
SHOW := $(PYTHON) .ci/installing.py
CODE := .ci src tests docs $(wildcard bench)
.DEFAULT_GOAL := help

.PHONY: help setup run test check lock reference sizes clean
help:
	@echo "make run        set up, start the platform with a real small model, answer one request, keep serving"
	@echo "make test       set up and run the whole test suite"
	@echo "make check      format, lint, imports, types, generated reference, sizes"
	@echo "make setup      make .venv with .venv/bin/outpace and the tools of the gate"
	@echo "make reference  write docs/reference from the code"
	@echo "make lock       resolve pyproject.toml again into requirements*.lock (needs uv)"

setup: $(VENV)/.installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"outpace needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; use `make PYTHON=python3.11 …`")'
	@$(PYTHON) -m pip --version >/dev/null || { echo "outpace needs pip for $(PYTHON): apt install python3-pip" >&2; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@$(SHOW) requirements.lock $(PIP) --require-hashes -r requirements.lock
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@$(SHOW) requirements-dev.lock $(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

run: $(VENV)/.installed
	@$(BIN)/outpace up --model smollm2-135m-instruct --greet

check: setup
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python docs/reference/generate.py --check
	$(BIN)/python docs/reference/sizes.py

test: setup
	$(BIN)/pytest

reference: setup
	$(BIN)/python docs/reference/generate.py

sizes: setup
	$(BIN)/python docs/reference/sizes.py

# Lock files carry hashes and no addresses. The second one holds everything of the first at the same versions.
lock:
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group build pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group build --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
