# Two commands on a bare machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
CORE := .venv-core
CLEAN := build/empty
LOWEST := .venv-lowest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO_DIR ?= runs/demo
# Networks this small gain nothing by a second thread, and lose much where the cores are busy; workers
# of tests would fight over the cores.
ONE_THREAD := OMP_NUM_THREADS=1
WORKERS ?= 2
FUZZ_EXAMPLES ?= 100000
CORE_TESTS := $(addprefix tests/,cli data schedules)
LOWEST_TESTS := tests/test_compatibility.py tests/plans tests/spectra \
  $(addprefix tests/with_torch/field/test_,trusted_folders.py teachers_as_they_lie.py students_as_used.py)
PYTEST := $(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-core test-lowest test-full field fuzz docs dist lint findings benchmarks constraints clean

# The whole story: a teacher, a budget, the student that it buys, and what people's usual recipes buy.
demo: $(VENV)/demo.stamp
	@echo "a teacher, then students for a budget: about five minutes on two idle cores, ten on busy ones"
	$(ONE_THREAD) $(BIN)/opmerge train-teacher digits --num_iterations 6000 --output_dir $(DEMO_DIR)/teacher \
	  --resume_from_checkpoint latest
	$(ONE_THREAD) $(BIN)/opmerge run digits --teacher $(DEMO_DIR)/teacher/teacher --steps 32 --budget 1e6 \
	  --compare_with vanilla --compare_with progressive --output_dir $(DEMO_DIR)/run
	@echo "look at $(DEMO_DIR)/run/report.html"

test: $(VENV)/dev.stamp lint
	$(PYTEST)

# Without torch: what a planner's user installs, in an environment of its own. The rest of the tests
# have run in `make test` with the same versions, of modules that by the import rules know no torch.
test-core: $(CORE)/core.stamp
	OMP_NUM_THREADS=1 $(CORE)/bin/pytest -n $(WORKERS) --dist worksteal $(CORE_TESTS)
	$(CORE)/bin/opmerge plan digits --steps 64 --output_dir $(CORE)/runs/plan
	$(CORE)/bin/opmerge study all --quick --num_workers $(WORKERS) --output_dir $(CORE)/runs/studies

# With the lowest version of each dependency that pyproject.toml allows (but torch: older ones bring
# gigabytes of CUDA): what reads and writes files of others, and what warnings of old versions spare.
test-lowest: $(LOWEST)/lowest.stamp
	$(ONE_THREAD) $(LOWEST)/bin/pytest -W default -n $(WORKERS) --dist worksteal $(LOWEST_TESTS)

test-full: $(VENV)/dev.stamp
	$(PYTEST) -m "full or not full"

# Machines and files as people have them: a table of case, expected and got.
field: $(VENV)/dev.stamp
	$(PYTEST) --field-table tests/field tests/with_torch/field

# Wheel and sdist: their metadata checked, then the wheel tried in an environment of its own.
dist: $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt build twine
	rm -rf dist $(CLEAN) && $(BIN)/python -m build && $(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(CLEAN)
	$(CLEAN)/bin/python -m pip --disable-pip-version-check --quiet install \
	  --constraint constraints.txt dist/*.whl
	$(CLEAN)/bin/opmerge --version
	$(CLEAN)/bin/opmerge plan digits --steps 16 --output_dir $(CLEAN)/plan

# build/site: a link that leads nowhere, or a documented name that does not exist, fails.
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Generated inputs of every kind: 100,000 in all, in half an hour of one core.
fuzz: $(VENV)/dev.stamp
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PYTEST) -m fuzz

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# docs/findings.md, docs/paper_map.md and the table of studies, from docs/records.
findings: $(VENV)/dev.stamp
	$(BIN)/python docs/make_findings.py

benchmarks: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "opmerge needs Python >= 3.11; say which with: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $*

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing opmerge and torch into $(VENV) (one to three minutes, once)"
	$(PIP) install --constraint constraints.txt --editable '.[torch,studies]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing opmerge and its development tools into $(VENV) (one to three minutes, once)"
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(CORE)/core.stamp: pyproject.toml constraints.txt | $(CORE)/bin/python
	@echo "installing opmerge without torch into $(CORE) (a minute, once)"
	$(CORE)/bin/python -m pip --disable-pip-version-check --quiet install \
	  --constraint constraints.txt --editable '.[studies,explore,test]'
	@touch $@

$(LOWEST)/lowest.stamp: pyproject.toml lowest.txt | $(LOWEST)/bin/python
	@echo "installing opmerge with its lowest dependencies into $(LOWEST) (one to three minutes, once)"
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --quiet install \
	  --constraint lowest.txt --editable '.[torch,text,studies,test]'
	@touch $@

# Pins every package and keeps what is pinned, unless told UPGRADE=--upgrade; the CUDA packages that
# torch names on Linux are left to torch itself.
constraints: $(VENV)/bin/python
	$(PIP) install uv
	$(call pinned,--extra dev --extra release $(UPGRADE),constraints.txt,Exact versions for make demo and make test. \
	  Rebuild with: make constraints)
	$(call pinned,--extra torch --extra text --extra studies --extra test --resolution \
	  lowest-direct,lowest.txt,The lowest versions that are supported. Rebuild with: make constraints)

define pinned
	cp $(2) pinned.new
	echo 'torch==2.13.0' | $(BIN)/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate $(1) \
	  --constraint - --output-file pinned.new pyproject.toml > /dev/null
	{ echo "# $(3)"; sed 's/+cpu//' pinned.new | grep -vE '^(nvidia-|triton|cuda-)'; } > $(2)
	rm pinned.new
endef

clean:
	rm -rf $(VENV) $(CORE) $(LOWEST) runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
