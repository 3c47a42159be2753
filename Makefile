# chunkgrpo: `make demo` watches a small flow-matching model learn; `make test` runs every test. `make help` lists the rest.

# Both are written in the header.
VERSION := $(shell sed -n 's/^\#define CGRPO_VERSION "\(.*\)"/\1/p' include/chunkgrpo.h)
ABI := $(shell sed -n 's/^\#define CGRPO_ABI_VERSION //p' include/chunkgrpo.h)

PREFIX ?= /usr/local
# Below PREFIX: lib64, or lib/x86_64-linux-gnu
LIBDIR ?= lib
DESTDIR ?=
# Arguments for the demo, such as ARGS="--seed 2", or the benchmarks
ARGS ?=

# Lists of compilers, linkers and pkg-config are separated by spaces.
ifneq ($(words $(CURDIR)),1)
ifneq ($(filter-out help clean format test-text,$(or $(MAKECMDGOALS),help)),)
$(error the folder "$(CURDIR)" has a space in its path, and nothing can be built there: move it to a path without)
endif
endif

SHELL := /bin/bash
# Kernels for wider vectors beside those that every processor runs; see Package.swift.
export CHUNKGRPO_DISPATCH = 1
.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
.SECONDEXPANSION:
# The targets share two cores and one Swift build folder, and print in order.
.NOTPARALLEL:

LIBRARY := build/lib/libchunkgrpo.so.$(VERSION)
LIBRARY_NAMES := build/lib/libchunkgrpo.so.$(ABI) build/lib/libchunkgrpo.so
HEADERS := build/include/chunkgrpo.h build/include/chunkgrpo.hpp
# Files that say where the library is: for pkg-config and for CMake.
CONFIG := build/lib/pkgconfig/chunkgrpo.pc build/lib/cmake/chunkgrpo/chunkgrpo-config.cmake \
    build/lib/cmake/chunkgrpo/chunkgrpo-config-version.cmake

# The wheel's name says the C library that it needs, which is not known before: this file stands for it.
WHEEL := dist/.built
WHEEL_SOURCES := scripts/wheel LICENSE NOTICE $(wildcard LICENSES/*) \
    $(shell find bindings/python -not -path '*/__pycache__*' -not -path '*/.mypy_cache*' -not -path '*.egg-info*' 2>/dev/null)

# Packages that depend on this one: in the library's build folder, so that they find it compiled by the tests.
EXAMPLES_BUILD := swift build -c release --package-path examples/swift --scratch-path .build
BENCHMARKS_BUILD := swift build -c release --package-path Benchmarks/swift --scratch-path .build

# Folders too: a file that is added or removed changes its folder.
LIBRARY_SOURCES := Package.swift $(wildcard bindings/c/*.map bindings/c/*.lds bindings/c/*.c) $(shell find include Sources)

# The static runtime makes the library self-contained. `nodelete`, because a Swift runtime cannot be unloaded; `defs`,
# because a missing symbol should fail here and not in the host; lld, because gold leaves some mangled names in sight;
# `now`, so that no table of addresses stays writable. bindings/c says what its files are for.
RUNTIME_OBJECTS := $(CURDIR)/build/old-libc.o $(CURDIR)/build/swift-runtime.o
# Before glibc 2.34 threads and the loader's functions were libraries of their own; see bindings/c/old-libc.c.
OLD_LIBRARIES := $(if $(filter x86_64,$(shell uname -m)),--no-as-needed -l:libpthread.so.0 -l:libdl.so.2)
LIBRARY_FLAGS := --disable-local-rpath -Xswiftc -static-stdlib -Xswiftc -use-ld=lld -Xswiftc -DCHUNKGRPO_SELF_CONTAINED \
    $(foreach flag,--version-script=$(CURDIR)/bindings/c/exports.map -soname libchunkgrpo.so.$(ABI) -z nodelete -z defs \
        -z now -T $(CURDIR)/bindings/c/read-only.lds --wrap=_ZN5swift7runtime11environment10initializeEPv \
        $(RUNTIME_OBJECTS) $(OLD_LIBRARIES) -Map=$(CURDIR)/build/link-map.txt,-Xlinker $(flag))
# A scratch path of its own: other flags in the same one would build everything anew at each turn.
LIBRARY_BUILD := swift build -c release --product chunkgrpo --scratch-path .build-lib $(LIBRARY_FLAGS)

.PHONY: help setup setup-native setup-python demo lib static install uninstall deb wheel sdist pictures docs format clean \
    test test-text test-swift test-c test-packages test-gpu test-budget test-python test-faults test-fuzz test-sanitize \
    test-docs bench gpu-check faults fuzz fuzz-guided sanitize coverage mutants abi-check abi-accept

help: ## This list
	@echo 'chunkgrpo $(VERSION)'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24
	@echo 'Prerequisite: the Swift toolchain, 6.3 or newer, on the PATH. The rest is installed by the targets that need it.'

setup: setup-native setup-python ## Install what demo and test need: system packages through apt, Python packages in .venv

setup-native:
	@scripts/setup swift native

setup-python:
	@scripts/setup python

demo: setup-native ## Train a small model end to end; pictures and metrics in build/demo. ARGS="--seed 2"
	@scripts/phase demo 'Building the demo' $(EXAMPLES_BUILD) --product digits
	@mkdir -p build/demo
	@env $$(scripts/openblas-core) "$$($(EXAMPLES_BUILD) --show-bin-path)/digits" --output build/demo $(ARGS)

lib: $(LIBRARY) $(LIBRARY_NAMES) $(HEADERS) $(CONFIG) ## Build build/lib/libchunkgrpo.so, build/include, and what pkg-config and CMake read
	@:

$(LIBRARY): $(LIBRARY_SOURCES) Makefile scripts/build-id
	@scripts/setup swift native
	@mkdir -p $(@D)
	@for object in $(RUNTIME_OBJECTS); do \
	    cc -O2 -D_FORTIFY_SOURCE=2 -fPIC -c bindings/c/$$(basename $$object .o).c -o $$object || exit; done
# SwiftPM does not know of the version script: take the product away, so that it links again.
	@rm -f .build-lib/release/libchunkgrpo.so
	@scripts/phase lib 'Building libchunkgrpo.so' $(LIBRARY_BUILD) -Xlinker --build-id=0x$$(scripts/build-id)
	@rm -f build/lib/libchunkgrpo.a
# A new file instead of new contents: a program that has the old one loaded keeps it.
	@cp .build-lib/release/libchunkgrpo.so $@.new && mv -f $@.new $@

$(LIBRARY_NAMES): $(LIBRARY)
	@ln -sfn $(<F) $@

$(HEADERS): build/include/%: include/%
	@mkdir -p $(@D)
	@cp $< $@

# In the tree the .pc file finds itself, so that the tree can be moved; installed, it says the prefix.
$(CONFIG): build/lib/%: bindings/c/$$(@F).in include/chunkgrpo.h Makefile
	@mkdir -p $(@D)
	@sed -e 's|@PREFIX@|$${pcfiledir}/../..|' -e 's|@LIBDIR@|lib|' -e 's|@UP@|..|' \
	    -e 's|@VERSION@|$(VERSION)|' -e 's|@ABI@|$(ABI)|' $< > $@

gpu-check: lib $(WHEEL) ## Check bits and times on a GPU; without one, pack build/gpu-check for a machine that has one
	@rm -rf build/gpu-check && mkdir -p build/gpu-check/check
	@cp dist/*.whl build/gpu-check/ && cp Tests/gpu/check/*.py build/gpu-check/check/
	@$(MAKE) --no-print-directory -C Tests/gpu ../../build/gpu/bin/device
	@$(MAKE) --no-print-directory -C Tests/gpu/driver ../../../build/gpu/cuda
	@mkdir build/gpu-check/bin && cp build/gpu/bin/device build/gpu/cuda build/gpu-check/bin/
	@scripts/build-ptx --text build/gpu-check/text
	@scripts/build-ptx --variants build/gpu-check/variants
	@du -sh build/gpu-check
	@$$(command -v .venv/bin/python || command -v python3) scripts/gpu-check build/gpu-check

static: lib ## Build build/lib/libchunkgrpo.a, for programs that are to be one file; `make install` then installs it too
	@scripts/phase static 'Building libchunkgrpo.a' scripts/static-library

install: lib ## Install library, headers, and what pkg-config and CMake read. PREFIX=/usr/local LIBDIR=lib DESTDIR=
	@PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' DESTDIR='$(DESTDIR)' scripts/install
# The loader's cache, where this is a real installation by someone who may write it.
	@if [ -z '$(DESTDIR)' ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

pictures: setup-python lib ## Draw the documentation's pictures from the version at hand: plan.svg and collapse.svg in examples/images
	@.venv/bin/python scripts/pictures

uninstall: ## Remove what `make install` with the same PREFIX, LIBDIR and DESTDIR has put there
	@PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' DESTDIR='$(DESTDIR)' scripts/install --remove
	@if [ -z '$(DESTDIR)' ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

deb: lib ## Build dist/deb/*.deb: the library, and headers for those who build on it
	@scripts/setup deb
	@scripts/deb

abi-check: lib ## Compare the binary interface with bindings/c/abi.txt
	@scripts/abi-check

abi-accept: ## Take a change of the binary interface into bindings/c/abi.txt
	@scripts/abi-check --accept

wheel: $(WHEEL) ## Build dist/chunkgrpo-*.whl, which holds library and OpenBLAS: for pip install anywhere
	@ls dist/*.whl

$(WHEEL): $(LIBRARY) $(LIBRARY_NAMES) $(WHEEL_SOURCES)
	@scripts/setup native wheel
	@scripts/phase wheel 'Building the wheel' scripts/wheel
	@touch $@

sdist: ## Build dist/chunkgrpo-*.tar.gz, from which pip builds where the Swift toolchain is
	@scripts/setup native wheel
	@mkdir -p dist && rm -f dist/*.tar.gz
	@cd bindings/python && $(CURDIR)/build/wheel-venv/bin/python -c \
	    "from setuptools.build_meta import build_sdist; build_sdist('$(CURDIR)/dist')" >/dev/null
	@ls dist/*.tar.gz

test: setup-native setup-python test-text lib test-swift test-c test-packages test-gpu test-budget test-python \
    test-faults test-fuzz test-sanitize test-docs ## Run every test: Swift, C, Python
	@printf '\nAll tests passed.\n'

test-text: ## Check generated files, lengths, links and format, which needs no build
	@printf '\n== Text ==\n'
	@scripts/generate-bindings --check || { echo 'FAILED: the generated files'; exit 1; }
	@scripts/check-lengths || { echo 'FAILED: the lengths'; exit 1; }
	@scripts/check-links || { echo 'FAILED: the links'; exit 1; }
	@scripts/format --check || { echo 'FAILED: the format'; exit 1; }
	@scripts/mutants --check || { echo 'FAILED: the table of mutants'; exit 1; }
	@! git grep -nIE '^(<{7}|\|{7}|>{7})( |$$)' || { echo 'FAILED: a conflict is not resolved'; exit 1; }

# Two processes that compete for two cores with two threads each are slower than one thread each.
test-swift test-c test-python: export OMP_NUM_THREADS = 1
test-swift test-c test-python: export OPENBLAS_NUM_THREADS = 1

test-swift: setup-native ## Run the Swift tests
	@printf '\n== Swift tests ==\n'
	@scripts/phase swift-build 'Building' swift build -c release --build-tests
	@scripts/phase swift-examples 'Building the examples' $(EXAMPLES_BUILD)
	@scripts/phase swift-first 'Running the first one' "$$($(EXAMPLES_BUILD) --show-bin-path)/first"
	@scripts/phase swift-benchmarks 'Building the benchmarks' $(BENCHMARKS_BUILD)
	@scripts/check-readme swift || { echo 'FAILED: the README'; exit 1; }
	@scripts/check-swift-version || { echo 'FAILED: a dependency by version'; exit 1; }
	@$(MAKE) --no-print-directory -C Tests/gpu/driver driver
	@LD_LIBRARY_PATH="$(CURDIR)/build/gpu/lib:$$LD_LIBRARY_PATH" "$$($(EXAMPLES_BUILD) --show-bin-path)/cuda" >build/gpu/swift.txt && \
	    test "$$(grep -c 'the same bits' build/gpu/swift.txt)" = 2 || { cat build/gpu/swift.txt; echo 'FAILED: examples/swift/cuda'; exit 1; }
	@LD_LIBRARY_PATH="$(CURDIR)/build/gpu/lib:$$LD_LIBRARY_PATH" scripts/test-swift || { echo 'FAILED: the Swift tests'; exit 1; }

test-c: setup-native lib ## Run the C tests
	@printf '\n== C tests ==\n'
	@$(MAKE) --no-print-directory -C Tests/c || { echo 'FAILED: the C tests'; exit 1; }

test-packages: setup-native lib ## Depend on the library as others do: CMake, C++, Rust, Go, JavaScript, .deb; its ABI and its licences
	@printf '\n== Packages ==\n'
	@scripts/setup packages
	@scripts/test-packages || { echo 'FAILED: the packages'; exit 1; }

test-gpu: setup-native lib ## Run the CUDA kernels, their source and their PTX, on the CPU; no GPU is needed
	@printf '\n== CUDA kernels ==\n'
	@$(MAKE) --no-print-directory -j 2 -C Tests/gpu || { echo 'FAILED: the CUDA kernels'; exit 1; }

test-budget: setup-native lib ## Count the instructions of the hot kernels against their budget
	@printf '\n== Instructions ==\n'
	@scripts/check-instructions || { echo 'FAILED: the instruction budget'; exit 1; }

test-python: setup-python lib $(WHEEL) ## Run the Python tests
	@printf '\n== Python tests ==\n'
	@scripts/check-readme python \
	    && PYTHONPATH=bindings/python .venv/bin/python -m pytest -q -p no:cacheprovider \
	        -n auto --maxprocesses 4 --dist loadfile Tests/python \
	    || { echo 'FAILED: the Python tests'; exit 1; }

test-faults: setup-native lib ## Failing allocations, cut saves, forks and the like, in short; `make faults` in full
	@printf '\n== Faults ==\n'
	@$(MAKE) --no-print-directory -C Tests/faults short || { echo 'FAILED: the faults'; exit 1; }

faults: setup-native setup-python lib ## Every failing allocation, cut save, mutated checkpoint and fork; counts at the end
	@$(MAKE) --no-print-directory -C Tests/faults long || { echo 'FAILED: the faults'; exit 1; }

test-fuzz: setup-native lib ## Random calls on guarded buffers; the same bits by every instruction set, in short
	@printf '\n== Fuzz ==\n'
	@$(MAKE) --no-print-directory -C Tests/fuzz short || { echo 'FAILED: the fuzzer'; exit 1; }

fuzz: setup-native lib ## The same for half an hour; counts at the end. ARGS="--seconds 60"
	@$(MAKE) --no-print-directory -C Tests/fuzz long ARGS='$(ARGS)' || { echo 'FAILED: the fuzzer'; exit 1; }

fuzz-guided: setup-native lib ## The calls of the fuzzer and checkpoint files, chosen by libFuzzer, for GUIDED_SECONDS=300
	@scripts/sanitize guided

test-sanitize: setup-native lib ## Two C tests under valgrind's memcheck; `make sanitize` has the rest
	@printf '\n== Memory ==\n'
	@scripts/sanitize short || { echo 'FAILED: memcheck'; exit 1; }

sanitize: setup-native lib ## C tests and fuzzer with the address and the thread sanitizer, and under valgrind
	@scripts/sanitize valgrind address thread

coverage: setup-native setup-python ## Count the lines of Sources that the Swift, C and Python tests run, in a build of its own
	@scripts/coverage

mutants: setup-native ## Count the mistakes of Tests/mutants/table.txt that the C and Swift tests see, in a build of its own
	@scripts/mutants

docs: lib ## Build the documentation's site, build/site. SITE_BASE=/folder SOURCE_URL=https://…
	@scripts/setup docs
	@scripts/phase docs 'Building the site' .venv-docs/bin/python scripts/site --base='$(SITE_BASE)' --source-url='$(SOURCE_URL)'
	@echo 'The site is build/site; python3 -m http.server --directory build/site shows it'

test-docs: docs ## Build the site: no warning, no dead link

bench: setup-native setup-python lib ## Measure against PyTorch, numpy, JAX and the memory limit. ARGS="--quick --rows step,noise"
	@.venv/bin/python Benchmarks/bench.py $(ARGS)

format: ## Format the Swift and C sources in place, by the formatters whose versions scripts/format names
	@scripts/format

clean: ## Remove everything that make made
	rm -rf build dist .build .build-* .venv .venv-docs bindings/python/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
