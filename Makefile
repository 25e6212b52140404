# Everything that is done with this repository. All targets make and use .venv; see 'make help'.

PYTHON ?= python3
EXTRAS ?= dev,dicom,slicer,render,evaluation,cpu,train
JOBS ?= 2
DEMO ?= demo

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install test lint format demo bench clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with the tested versions of everything

# Runs once, and again when the dependencies change.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

# One thread a process: the test processes share the cores.
test: lint ## check format, lint and types, and run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

lint: install ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## format the code, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install ## segment a synthetic patient, and show the result in ./demo
	$(BIN)/partialseg demo --output $(DEMO)

bench: install ## measure, and write the table Testing/benchmarks/RESULTS.md
	$(BIN)/python Testing/benchmarks/run.py

clean: ## remove what the targets made, .venv included
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache $(DEMO)
	find PartialSegLib Training Testing -name __pycache__ -type d -prune -exec rm -rf {} +
