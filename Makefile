# Every target makes .venv when it is missing, installs or rebuilds what changed, and nothing more.
#   make PYTHON=python3.12        the Python that .venv is made with
#   make CXX=clang++              the compiler
#   make test TTFS_FAST_DATA=...  the folder with the real data sets
#   make test JOBS=1               the tests one after the other
#   make test ARGS="-k pooling"   further arguments of pytest, ttfs-fast demo or bench

PYTHON ?= python3
ARGS ?=
# Processes that run the tests; their threads sleep, not spin, while they wait for each other.
JOBS ?= 2
# ON, for a clean checkout: warnings are errors in the one build, so that make lint needs no other.
WERROR ?= OFF
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/editable
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALL_PROJECT := $(INSTALL) --no-build-isolation --config-settings build-dir=$(BUILD)
# CMake and Ninja are those of .venv.
IN_VENV := export PATH="$(CURDIR)/$(BIN):$$PATH"

# Python sources are used where they stand; only these need an installation after a change.
BUILD_FILES := pyproject.toml CMakeLists.txt $(shell find cpp examples -type f 2>/dev/null)
CXX_TESTS := $(if $(wildcard cpp/tests/CMakeLists.txt),ON,OFF)
CXX_EXAMPLES := $(if $(wildcard examples/cpp/CMakeLists.txt),ON,OFF)
FORMATTED := $(shell find cpp bench examples -name '*.h' -o -name '*.cpp' 2>/dev/null)

.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/.installed ## Train on handwritten digits; a report beside the paper's figures
	$(BIN)/ttfs-fast demo $(ARGS)

.PHONY: test
test: $(VENV)/.installed-dev ## The tests of the C++ core and of the Python package
ifeq ($(CXX_TESTS),ON)
	OMP_WAIT_POLICY=passive $(BIN)/ctest --test-dir $(BUILD) --output-on-failure --no-tests=error -j 2
endif
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: bench
bench: $(VENV)/.installed ## Layers and networks beside dense ones, the circuit; kernels with google-benchmark
	@mkdir -p build
	$(BIN)/ttfs-fast bench $(ARGS)
	$(BIN)/python bench/circuit.py --json build/bench-circuit.json
ifneq ($(wildcard bench/CMakeLists.txt),)
	@if echo '#include <benchmark/benchmark.h>' | $(CXX) -E -x c++ - >/dev/null 2>&1; then \
	  $(IN_VENV) && cmake --preset bench --log-level=WARNING && cmake --build --preset bench && \
	  for program in $$(find build/bench/bench -maxdepth 1 -type f -perm -u+x); do \
	    $$program || exit 1; \
	  done; \
	else \
	  echo "google-benchmark is not installed: the benchmark of the core alone was left out"; \
	  echo "  Debian, Ubuntu: apt install libbenchmark-dev"; \
	  echo "  Fedora:         dnf install google-benchmark-devel"; \
	  echo "  macOS:          brew install google-benchmark"; \
	fi
endif

.PHONY: compile
ifeq ($(WERROR),ON)
compile: $(VENV)/.installed-dev
	$(IN_VENV) && cmake -S . -B $(BUILD) -D TTFS_FAST_WERROR=ON -D TTFS_FAST_EXAMPLES=$(CXX_EXAMPLES) >/dev/null
	$(IN_VENV) && cmake --build $(BUILD) -- --quiet -k 0
else
compile: $(VENV)/.tools ## Everything in C++, optimized; warnings are errors
	$(IN_VENV) && cmake --preset lint --log-level=WARNING \
	  -D TTFS_FAST_TESTS=$(CXX_TESTS) -D TTFS_FAST_EXAMPLES=$(CXX_EXAMPLES) \
	  -D Python_EXECUTABLE="$(CURDIR)/$(BIN)/python" \
	  -D pybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	$(IN_VENV) && cmake --build --preset lint -- --quiet -k 0
endif

.PHONY: lint
lint: $(VENV)/.installed-dev compile ## Formatters, ruff, mypy and compiler warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	MYPYPATH=python/ttfs_fast PYTHONPATH=$(BUILD)/cpp \
	  $(BIN)/python -m mypy.stubtest _core --allowlist tests/stubtest.txt
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

.PHONY: hooks
hooks: $(VENV)/.installed-dev ## Formatters run before every commit of this clone
	git config core.hooksPath scripts/hooks

.PHONY: docs
docs: $(VENV)/.installed-dev ## The documentation as a site, in build/site; warnings are errors
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -b html . build/site
	@echo "build/site/index.html"

.PHONY: sanitize
sanitize: $(VENV)/.installed-dev ## The kernels under sanitizers: memory, undefined behavior, races
	scripts/sanitize.sh $(BIN)/python

.PHONY: wheel
wheel: $(VENV)/.tools ## A source distribution and a wheel, tested in an environment of their own
	scripts/wheel.sh $(BIN)/python

.PHONY: format
format: $(VENV)/.installed-dev ## Rewrite the sources as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(FORMATTED)

.PHONY: clean
clean: ## Remove what was built; .venv stays
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f $(VENV)/.installed $(VENV)/.installed-dev

.PHONY: distclean
distclean: clean ## Remove .venv too
	rm -rf $(VENV)

$(VENV)/.tools: constraints.txt scripts/check_environment.py
	@$(PYTHON) scripts/check_environment.py
	@echo "Installing into $(VENV); the first time takes some minutes, most of them for torch"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(INSTALL) cmake ninja pybind11 scikit-build-core
	@touch $@

$(VENV)/.installed: $(VENV)/.tools $(BUILD_FILES)
	$(INSTALL_PROJECT) -e ".[train,plot]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.tools $(BUILD_FILES)
	$(INSTALL_PROJECT) --config-settings cmake.define.TTFS_FAST_TESTS=$(CXX_TESTS) \
	  --config-settings cmake.define.TTFS_FAST_WERROR=$(WERROR) \
	  --config-settings cmake.define.TTFS_FAST_EXAMPLES=$(if $(filter ON,$(WERROR)),$(CXX_EXAMPLES),OFF) \
	  -e ".[train,plot,docs,dev]"
	@touch $@ $(VENV)/.installed
