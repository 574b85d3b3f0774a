# Two commands on a bare machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO_DIR ?= runs/demo
# One thread per worker: BLAS and numba would otherwise fight over the cores.
WORKERS ?= 2

.PHONY: demo test test-full lint benchmarks constraints clean

demo: $(VENV)/core.stamp
	$(BIN)/opmerge plan digits --steps 64 --output_dir $(DEMO_DIR)

test: $(VENV)/dev.stamp lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-full: $(VENV)/dev.stamp
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "full or not full"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmarks: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "opmerge needs Python >= 3.11; say which with: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing opmerge into $(VENV) (about a minute, once)"
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing opmerge and its development tools into $(VENV) (one to three minutes, once)"
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Pins every package; the CUDA packages that torch names on Linux are left to torch itself.
constraints: $(VENV)/bin/python
	$(PIP) install uv
	echo 'torch==2.13.0' | $(BIN)/uv pip compile --quiet --no-header --no-annotate --extra dev \
	  --upgrade --constraint - pyproject.toml \
	  | sed 's/+cpu//' | grep -vE '^(nvidia-|triton|cuda-)' > constraints.new
	{ echo "# Exact versions for make demo and make test. Rebuild with: make constraints"; \
	  cat constraints.new; } > constraints.txt && rm constraints.new

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
