# make demo   sets everything up in .venv and streams an answer from the model that ships
# make test   sets everything up and passes every check
# Nothing is written outside this folder. PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
CXX ?= c++
VENV := .venv
BIN := $(VENV)/bin
export PIP_CACHE_DIR := $(CURDIR)/build/pip-cache
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := $(BIN)/python -m pip --quiet
# Built without isolation, so that the kernels are compiled once: for the package, for its extras and for the native tests.
EDITABLE := $(PIP) install --no-build-isolation --editable
BUILD_REQUIRES = $$($(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'])")
INSTALLED_FROM := pyproject.toml CMakeLists.txt $(shell find native -name '*.cpp' -o -name '*.h')

.PHONY: demo test test-slow fuzz api-fuzz test-arm format lint types native-test python-test python-served python-rest bench-peers needs clean

demo: build/installed
	@$(BIN)/twofold demo

test: lint types native-test python-test

test-slow: build/installed-for-tests
	$(BIN)/python -m pytest -m slow

# Damaged checkpoints, configs and tokenizers by the hundred thousand. FUZZ="--seed 7 --target modules" narrows it.
fuzz: build/installed-for-tests
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Requests by the ten thousand against a live server, made from its own description. API_FUZZ="--count 500 --seed 7" narrows it.
api-fuzz: build/installed-for-tests
	$(BIN)/python -m tests.fuzz.api $(API_FUZZ)

# twofold beside other engines; the peers are set up in build/peers. PEERS="--network scout-mini --rounds 1" narrows it.
bench-peers: build/installed-for-tests
	$(BIN)/python -m benchmarks.peers $(PEERS)

# Kernels for aarch64, cross-compiled and run in emulation: with the dot product (neoverse-n1) and without (cortex-a53).
test-arm:
	@command -v aarch64-linux-gnu-g++ qemu-aarch64-static > /dev/null || \
	  { echo "A cross compiler and an emulator are needed: apt-get install g++-aarch64-linux-gnu qemu-user-static"; exit 1; }
	cmake -S . -B build/arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static -DTWOFOLD_TESTS=ON > /dev/null
	cmake --build build/arm
	qemu-aarch64-static -cpu neoverse-n1 build/arm/native_tests
	qemu-aarch64-static -cpu cortex-a53 build/arm/native_tests

# One line on what is missing, before anything is set up.
needs:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -1). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@printf '#include <version>\n#if __cplusplus < 202002L\n#error\n#endif\n' | $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null || \
	  { echo "A C++20 compiler is needed; '$(CXX)' is not one. On Debian or Ubuntu: apt-get install g++ (11 or newer)"; exit 1; }

$(BIN)/python: | needs
	@$(PYTHON) -m venv $(VENV)

build/installed: $(INSTALLED_FROM) | needs $(BIN)/python
	@echo "setting up twofold in $(VENV) (a minute or two the first time) ..."
	@$(PIP) install $(BUILD_REQUIRES) cmake ninja
	@$(EDITABLE) .
	@mkdir -p build && touch $@

build/installed-for-tests: build/installed
	@echo "setting up what the tests need ..."
	@$(EDITABLE) '.[check,test,oracle]'
	@touch $@

format: build/installed-for-tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(find native -name '*.cpp' -o -name '*.h')

lint: build/installed-for-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $$(find native -name '*.cpp' -o -name '*.h')

types: build/installed-for-tests
	$(BIN)/mypy

native-test: build/installed-for-tests
	$(BIN)/cmake -S . -B build/native -DTWOFOLD_TESTS=ON > build/native-configure.log || { cat build/native-configure.log; exit 1; }
	$(BIN)/cmake --build build/native --target native_tests
	$(BIN)/ctest --test-dir build/native --output-on-failure

# Two halves beside each other: one after the other they take close to 20 minutes on two cores.
python-test: build/installed-for-tests
	@$(MAKE) --no-print-directory -j2 python-rest python-served

SERVED := tests/backends/gpu tests/bench/proof tests/export tests/server tests/test_leading.py tests/test_offloading.py tests/test_verifying.py

python-served: build/installed-for-tests
	$(BIN)/python -m pytest $(SERVED)

python-rest: build/installed-for-tests
	$(BIN)/python -m pytest $(addprefix --ignore=,$(SERVED))

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
