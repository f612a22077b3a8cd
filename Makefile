# Everything from a fresh machine with only Python >= 3.11 (and pip's usual access to packages):
#   make demo       install what is needed, then the whole way on the bundled model (CPU, offline)
#   make test       the tests but the slow ones        make test-all   every test
#   make bench    against other tools (installed into .peers, 2 GB), ROUNDS=2 CELL="short-lora freeze-3" PEERS=FOLDER
#   make soak     a tiny run for 30 minutes (MINUTES=5): memory, files, threads and disk stay flat
#   make check      lint, format, types, layers, sizes
# Another Python: make demo PYTHON=python3.12.  Linux without a GPU, a smaller torch:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
MINUTES ?= 30
ROUNDS ?= 2
CELL ?=
PEERS ?= .peers
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PIP := $(BIN)/python $(INSTALL) --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2

.PHONY: demo test test-all bench soak audit check format clean
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

bench: $(VENV)/.installed $(PEERS)/trl/.installed $(PEERS)/llama_factory/.installed
	$(BIN)/python benchmarks/cpu_peers.py --rounds $(ROUNDS) $(addprefix --cell ,$(CELL)) \
		--peers $(PEERS)/trl/bin/python --llama-factory $(PEERS)/llama_factory/bin/python
	$(BIN)/python benchmarks/first_step.py

$(PEERS)/trl/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(INSTALL) -r $<
	@touch $@

$(PEERS)/llama_factory/.installed: benchmarks/llama_factory.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(INSTALL) -r $<
	$(@D)/bin/python $(INSTALL) --no-deps llamafactory==0.9.5
	$(@D)/bin/python -c "import site, pathlib; f = pathlib.Path(site.getsitepackages()[0], 'torchaudio'); \
		f.mkdir(exist_ok=True); (f / '__init__.py').touch()"
	@touch $@

soak: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -p no:cacheprovider tests/test_sizes.py tests/test_imports.py tests/test_readme.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .peers build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

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
