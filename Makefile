# Every target works on a bare checkout. It needs git, make, g++ and Python >= 3.11 with venv and headers.
PYTHON ?= python3
VENV ?= .venv
OLDEST := .venv-oldest
RESULTS_DIR ?= gpu-results
EXTRAS := adapters,bench,demo,scores,explore,fragility,train,dev
COMMA := ,
PYTEST_FLAGS ?=
# Tests run in one process per core, each with one thread of torch.
PARALLEL ?= -n auto --dist worksteal
CUDA_COMPILE_FLAGS ?=
PACKAGE_FLAGS ?=
BENCH_FLAGS ?=
export BENCH_FLAGS

BIN := $(VENV)/bin
PIP := -m pip install -qq --disable-pip-version-check
FAST := not slow and not peer and not browser
SLOW := slow and not peer and not browser
# The files with tests of a mark: collecting all others takes long.
marked = $(shell grep -rl --include='*.py' 'mark\.$(1)' tests)
CXX_SOURCES := $(shell find csrc -type f 2>/dev/null)
FORMATTED := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo build install test test-slow emulation oldest test-oldest test-peer test-browser bench lint format cuda-compile package \
        env gpu gpu-build gpu-test gpu-sanitize gpu-bench clean distclean FORCE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- the environment: tools and torch, then the extension, then the package -------------------------

$(VENV)/.tools: constraints.txt scripts/prerequisites.sh
	@sh scripts/prerequisites.sh '$(PYTHON)'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing torch and the build tools into $(VENV) (about two minutes)'
	$(BIN)/python $(PIP) -c constraints.txt setuptools wheel ninja pybind11 numpy torch
	@touch $@

# What the environment asks of the build; rewritten, and so newer than the extension, only when it changes.
SETTINGS = CUDA=$(NEUROSENS_FAST_CUDA) ARCH=$(TORCH_CUDA_ARCH_LIST) HOME=$(CUDA_HOME) WERROR=$(NEUROSENS_FAST_WERROR)
$(VENV)/.settings: FORCE | $(VENV)/.tools
	@echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' >$@

$(VENV)/.extension: $(VENV)/.tools $(VENV)/.settings setup.py build_config.py pyproject.toml $(CXX_SOURCES)
	$(BIN)/python setup.py -q egg_info build_ext --inplace
	@touch $@

$(VENV)/.requirements: $(VENV)/.tools pyproject.toml constraints.txt scripts/requirements.py
	@echo 'installing what the package needs into $(VENV)'
	$(BIN)/python scripts/requirements.py $(subst $(COMMA), ,$(EXTRAS)) >$(VENV)/requirements.txt
	$(BIN)/python $(PIP) -c constraints.txt -r $(VENV)/requirements.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.requirements | $(VENV)/.extension
	$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

build: $(VENV)/.extension  ## compile the extension
install: $(VENV)/.extension $(VENV)/.installed  ## make .venv with the package and everything it needs

# --- what people run --------------------------------------------------------------------------------

demo: install  ## train, attack and audit a small net; writes demo-output/
	$(BIN)/neurosens-fast demo --out demo-output

env: install  ## print what a bug report needs
	$(BIN)/python -m neurosens_fast.env

test: install  ## the fast tests
	$(BIN)/python -m pytest -q $(PARALLEL) -m '$(FAST)' $(PYTEST_FLAGS)

test-slow: install  ## the tests that take long: whole commands, training runs, torchrun
	$(BIN)/python -m pytest -q $(PARALLEL) -m '$(SLOW)' $(PYTEST_FLAGS) $(call marked,slow)

emulation: install  ## compile the CUDA kernels for the CPU, as tests do that need them
	$(BIN)/python -m tests.emulation.harness

$(VENV)/.peers: $(VENV)/.installed constraints-peers.txt
	@echo 'installing torchattacks, foolbox and pyautoattack into $(VENV)'
	$(BIN)/python $(PIP) --no-deps -r constraints-peers.txt
	@touch $@

test-peer: install $(VENV)/.peers  ## the attacks against torchattacks, foolbox and AutoAttack
	$(BIN)/python -m pytest -q $(PARALLEL) -m peer $(PYTEST_FLAGS) $(call marked,peer)

$(VENV)/.browser: $(VENV)/.installed constraints.txt
	@sh scripts/chromium.sh >/dev/null
	@echo 'installing playwright into $(VENV)'
	$(BIN)/python $(PIP) -c constraints.txt playwright
	@touch $@

test-browser: install $(VENV)/.browser  ## the page of explore, in Chromium
	@sh scripts/chromium.sh >/dev/null
	$(BIN)/python -m pytest -q $(PARALLEL) -m browser $(PYTEST_FLAGS) $(call marked,browser)

bench: install $(VENV)/.peers  ## the benchmarks; BENCH_FLAGS="--suite kernels" and the like choose
	$(BIN)/neurosens-fast bench $(BENCH_FLAGS)

lint: install  ## ruff, clang-format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)
	$(BIN)/mypy

format: install  ## reformat the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

cuda-compile: $(VENV)/.tools  ## compile the CUDA kernels for every architecture; warnings and spills fail
	$(BIN)/python scripts/cuda_compile.py $(CUDA_COMPILE_FLAGS)

package: install  ## build sdist and wheel, and try the wheel outside the checkout; PACKAGE_FLAGS=--cpu without CUDA
	PYTHON='$(BIN)/python' sh scripts/package.sh $(PACKAGE_FLAGS)

$(OLDEST)/.installed: constraints.txt constraints-oldest.txt pyproject.toml scripts/requirements.py
	@sh scripts/prerequisites.sh '$(PYTHON)'
	$(PYTHON) -m venv $(OLDEST)
	awk -F == 'NR == FNR { own[$$1] = 1; print; next } !($$1 in own)' \
	    constraints-oldest.txt constraints.txt >$(OLDEST)/constraints.txt
	$(PYTHON) scripts/requirements.py $(subst $(COMMA), ,$(EXTRAS)) >$(OLDEST)/requirements.txt
	@echo 'installing the oldest supported torch into $(OLDEST) (about two minutes)'
	$(OLDEST)/bin/python $(PIP) -c $(OLDEST)/constraints.txt -r $(OLDEST)/requirements.txt
	@touch $@

oldest: $(OLDEST)/.installed  ## make .venv-oldest with the oldest supported torch

test-oldest: install $(OLDEST)/.installed  ## the fast tests under the oldest torch, with the very same binary
	@PYTHONPATH=. $(OLDEST)/bin/python -c 'import torch; from neurosens_fast import _C; \
	    print("torch", torch.__version__, "runs the binary built with torch", _C.build_info()["torch_built"])'
	PYTHONPATH=. $(OLDEST)/bin/python -m pytest -q $(PARALLEL) -m '$(FAST)' $(PYTEST_FLAGS)

# --- on a machine with an NVIDIA GPU: uses the torch of $(PYTHON), installs nothing ------------------

gpu: gpu-build gpu-test gpu-sanitize gpu-bench  ## all four GPU targets
gpu-build:  ## build for the GPU of this machine
	$(PYTHON) scripts/gpu.py build --results '$(RESULTS_DIR)'
gpu-test:  ## the tests on the GPU
	$(PYTHON) scripts/gpu.py test --results '$(RESULTS_DIR)'
gpu-sanitize:  ## compute-sanitizer memcheck and racecheck
	$(PYTHON) scripts/gpu.py sanitize --results '$(RESULTS_DIR)'
gpu-bench:  ## the kernels on the GPU, or what BENCH_FLAGS chooses
	$(PYTHON) scripts/gpu.py bench --results '$(RESULTS_DIR)'

clean:  ## remove what was built, keep the environments
	rm -rf build dist demo-output neurosens_fast.egg-info neurosens_fast/_C.*.so $(VENV)/.extension $(VENV)/.installed
	rm -rf .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean  ## remove the environments too
	rm -rf $(VENV) $(OLDEST)
