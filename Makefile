# Everything a fresh machine needs: python3 (3.11 or newer) and make.
#
#   make demo     the whole story on bundled real data, on a CPU
#   make test     the whole test suite
#
# Both make .venv first. torch is installed in the version of constraints.txt; for CUDA, install the build you want into
# .venv yourself (pip install torch ...), or set VENV to an environment you have.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Per cent of lines and branches of softlabels/store that its tests must reach.
COVERED ?= 100

.PHONY: help demo test coverage lint benchmarks reliability clean
.DEFAULT_GOAL := help

help:  ## Say what there is.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "softlabels needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(STAMP)  ## Teacher, labels, students and comparison on the bundled digits (two minutes on two cores).
	$(BIN)/softlabels demo

test: $(STAMP)  ## The whole test suite: linters, types, layers, docs, wheel, behaviour.
	$(BIN)/python -m pytest

coverage: $(STAMP)  ## Branches of the store's modules that its own tests reach (three minutes).
	$(BIN)/python -m pytest --cov=softlabels/store --cov-branch --cov-report=term-missing:skip-covered \
		--cov-fail-under=$(COVERED) tests/store tests/corpus tests/generation tests/reliability/test_model.py

lint: $(STAMP)  ## Put the code into shape and check it.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

benchmarks: $(STAMP)  ## Measure what docs/performance.md reports (fifteen minutes).
	$(BIN)/python benchmarks/generate.py --json benchmarks/generate.json
	$(BIN)/python benchmarks/scale.py --json benchmarks/scale.json

peers:  ## Install what benchmarks/readers.py compares with, in cache/peers.
	$(PYTHON) -m venv cache/peers
	cache/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement benchmarks/peers.txt

readers: $(STAMP)  ## Measure the loader beside a memory-mapped gather and other libraries (ten minutes).
	$(BIN)/python benchmarks/readers.py --json benchmarks/readers.json

reliability: $(STAMP)  ## Kill, cut, race and mutate stores for half an hour; writes docs/reliability.md.
	$(BIN)/python -m tests.reliability

clean:  ## Remove what make made.
	rm -rf $(VENV) demo dist build
