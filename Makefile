# Needs Python 3.10 to 3.13 and make; no git, no compiler. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-dev
JOBS ?= 2
# TORCH=cpu takes PyTorch without CUDA from this index; any other that has such wheels does.
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help demo docs chaos fuzz export test test-fast wheel lint clean distclean $(VENV)

help:  ## Show this list
	@echo "make demo        train and show a small detector within eight minutes (DATA=labels.json IMAGES=folder: on yours)"
	@echo "make test        ruff, mypy, the site and pytest, as the project's own checks run them"
	@echo "make test-fast   pytest without the slow tests, in about two minutes: for work in progress"
	@echo "make docs        the documentation as a site that can be searched, in site/"
	@echo "make wheel       build a wheel and try it outside the checkout"
	@echo "make export      every family by every runtime (the tests take one of each kind)"
	@echo "make fuzz        100,000 broken files at every door"
	@echo "make chaos       100 kills of every command that writes"
	@echo "make lint        ruff and mypy only"
	@echo "make .venv       set up .venv (reused until the files that define it change)"
	@echo "make clean       remove caches and build files; 'make distclean' removes .venv as well"
	@echo "PYTHON=python3.12 chooses the interpreter, JOBS=4 the number of test processes."
	@echo "The first call sets up .venv: 7.6 GB on Linux, 4.1 GB of it CUDA, one to a few minutes with a fast network."
	@echo "Without an NVIDIA GPU: make demo TORCH=cpu (PyTorch without CUDA, about 3 GB in all; TORCH_INDEX=URL: from another index)."

$(VENV): $(STAMP)

# The stamp is removed first and written last, so a failed installation is tried again.
$(STAMP): setup.py constraints.txt tools/install_detectron2.py
	@rm -f $(STAMP)
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "make: '$(PYTHON)' was not found. Name a Python 3.10 to 3.13: make PYTHON=/path/to/python3 $(VENV)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "make: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); d2tiny needs Python 3.10 to 3.13: make PYTHON=python3.12 $(VENV)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2> /dev/null || { \
	  echo "make: '$(PYTHON)' has no venv or ensurepip. Install it (Debian, Ubuntu: the package python3-venv), then run make again." >&2; exit 1; }
	@$(BIN)/python -c 'import pip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null || \
	  "$(PYTHON)" -m venv --clear $(VENV)
ifeq ($(TORCH),cpu)
	@echo "Setting up $(VENV): about 3 GB, one to a few minutes with a fast network."
else
	@echo "Setting up $(VENV): about 7.6 GB on Linux, one to a few minutes with a fast network. 4.1 GB of it are CUDA: without an NVIDIA GPU, make $(firstword $(MAKECMDGOALS)) TORCH=cpu leaves them out."
endif
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools wheel
ifeq ($(TORCH),cpu)
	@$(BIN)/python -m pip install --quiet --retries 1 --timeout 20 --no-deps --index-url "$(TORCH_INDEX)" \
	  -c constraints.txt torch torchvision > $(VENV)/torch.log 2>&1 && \
	  $(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit("nvidia" in str(m.requires("torch")))' || \
	  echo "make: no PyTorch without CUDA could be had from $(TORCH_INDEX) (see $(VENV)/torch.log); the usual one is installed, 4 GB larger on Linux. TORCH_INDEX=URL names another index." >&2
endif
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python tools/install_detectron2.py
	@touch $(STAMP)

demo: $(STAMP)  ## Train and show a small detector
ifeq ($(TORCH),cpu)
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("nvidia") is not None)' || \
	  echo "make: $(VENV) has PyTorch with CUDA, and is used as it is; 'make distclean' before TORCH=cpu makes it anew." >&2
endif
	$(BIN)/d2tiny demo $(if $(DATA),--data "$(DATA)") $(if $(IMAGES),--images "$(IMAGES)") --output output/demo

export: $(STAMP)  ## Every family by every runtime
	OMP_NUM_THREADS=1 D2TINY_EXPORT=all $(BIN)/python -m pytest tests/export

fuzz: $(STAMP)  ## Broken files at every door, 100,000 of them
	OMP_NUM_THREADS=1 D2TINY_FUZZ=100000 $(BIN)/python -m pytest tests/fuzz

chaos: $(STAMP)  ## Commands killed at any moment, a hundred times
	OMP_NUM_THREADS=1 D2TINY_CHAOS=100 $(BIN)/python -m pytest tests/chaos

wheel: $(STAMP)  ## A wheel works outside the checkout
	OMP_NUM_THREADS=1 $(BIN)/python tools/check_wheel.py

lint: $(STAMP)  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)  ## The documentation, strictly; nothing is fetched
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Read it: $(BIN)/python -m http.server --directory site"

test: lint docs  ## Style, types, documentation, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

test-fast: $(STAMP)  ## The tests that are not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow"

clean:  ## Remove caches and build files
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean  ## Also remove the environment
	rm -rf $(VENV)
