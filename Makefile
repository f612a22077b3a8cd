# Everything from a fresh machine with only Python >= 3.11 (and pip's usual access to packages):
#   make demo       install what is needed, then the whole way on the bundled model (CPU, offline)
#   make test       the tests but the slow ones        make test-all   every test
#   make soak     a tiny run for 30 minutes (MINUTES=5): memory, files, threads and disk stay flat
#   make check      lint, format, types, layers, sizes
# Another Python: make demo PYTHON=python3.12.  Linux without a GPU, a smaller torch:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
MINUTES ?= 30
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2

.PHONY: demo test test-all soak audit check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/tunesmith demo

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev audit
	$(PYTEST)

# Known faults of the pinned packages, where the database of faults can be reached; docs/audit.md is what was found last.
audit: $(VENV)/.installed-dev
	@if $(BIN)/python -c "import socket; socket.create_connection(('api.osv.dev', 443), 5)" 2>/dev/null; then \
		$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet pip-audit && \
		$(VENV)/audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip -s osv; \
	else echo "audit: the database of faults cannot be reached; docs/audit.md says what is known"; fi

soak: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -p no:cacheprovider tests/test_sizes.py tests/test_imports.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python >= 3.11 is needed; name one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Stamps: installing again is needed only when what is asked for changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing tunesmith into $(VENV) (the first time takes a few minutes) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing tunesmith and its tools into $(VENV) (the first time takes a few minutes) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
