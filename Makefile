# The one door: every chore of the project is a target here, and CI calls only these.
# Needs python3 (3.11 to 3.13, with its headers), a C compiler and make; the rest is
# installed into .venv. Stamps make a repeat instant; a changed source builds again.

ifeq ($(origin CC),default)
CC := gcc
endif
VENV   := .venv
PY     := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$p && break; done)
PIP    := $(PY) -m pip --disable-pip-version-check --quiet --quiet

CORE    := shmcache/_core
C_FILES := $(filter-out $(CORE)/binding.c,$(wildcard $(CORE)/*.c))
C_TESTS := $(wildcard tests/core/test_*.c)
C_HELP  := $(wildcard tests/core/*.h) Makefile
BINDING := $(wildcard $(CORE)/*.pyx $(CORE)/*.pxd)
HEADERS := $(wildcard $(CORE)/*.h)

INSTALLED := $(VENV)/.stamp-installed
BUILT     := $(VENV)/.stamp-built

.DEFAULT_GOAL := help
.PHONY: help build serve test check check-c stress bench clean distclean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

build: $(BUILT)  ## .venv with all that is needed, and the C core built in place

serve: $(BUILT)  ## the main job on 127.0.0.1:8080; ORIGIN=http://host:port fronts yours
	@$(PY) loadtest/serve.py $(if $(ORIGIN),--origin '$(ORIGIN)')

test: $(BUILT)  ## every test, against real processes and a real redis-server
	$(PY) -m pytest $(PYTEST_ARGS)

check: $(BUILT) check-c  ## linters, types, C warnings, sanitizers
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# 50 waves of 250 clients each way, each within 1.1 s.
stress: $(BUILT)  ## the acceptance waves, 50 times each
	SHMCACHE_REPEATS=50 SHMCACHE_WAVE_SECONDS=1.1 \
	$(PY) -m pytest tests/processes/test_cold_key.py $(PYTEST_ARGS)

bench: $(BUILT)  ## a hit beside a bare aiohttp application; BENCH_ARGS='--json FILE'
	$(PY) loadtest/peers/bench.py $(BENCH_ARGS)

clean:  ## remove what was built; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(CORE)/*.so $(CORE)/binding.c $(BUILT)
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf $(VENV)

# --- environment ------------------------------------------------------------------

$(PY):
	@test -n '$(PYTHON)' || { echo 'shmcache: needs Python 3.11, 3.12 or 3.13 on' \
	  'PATH, or PYTHON=/path/to/python' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'shmcache: this' \
	  'Python cannot make environments; install its venv package' \
	  '(Debian: python3-venv)' >&2; exit 2; }
	@echo 'shmcache: setting up $(VENV), once; this takes a minute'
	@$(PYTHON) -m venv $(VENV)

# No build isolation: the environment's own Cython builds the core, now and later.
$(INSTALLED): pyproject.toml | $(PY)
	@command -v $(CC) >/dev/null || { echo 'shmcache: no C compiler ($(CC)) on PATH;' \
	  'install gcc' >&2; exit 2; }
	@$(PY) -c 'import os, sys, sysconfig; \
	  h = os.path.join(sysconfig.get_path("include"), "Python.h"); \
	  os.path.exists(h) or sys.exit(f"shmcache: no {h}; install the headers of this \
	Python (Debian: python3-dev)")'
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb")) \
	  ["build-system"]["requires"], sep="\n")' > $(VENV)/build-requires.txt
	@$(PIP) install -r $(VENV)/build-requires.txt
	@$(PIP) install --no-build-isolation --editable '.[dev]'
	@touch $@

$(BUILT): $(INSTALLED) $(C_FILES) $(HEADERS) $(BINDING)
	@$(PY) -W ignore -c 'import setuptools; setuptools.setup()' --quiet build_ext --inplace
	@touch $@

# --- the C core by itself ----------------------------------------------------------

WARN := -std=gnu11 -Wall -Wextra -Werror
# With SHMC_STEPS the core calls shmc_step of a test that has one between its steps.
TEST  = $(WARN) $(if $(shell grep shmc_step $<),-DSHMC_STEPS) -O1 -g -I$(CORE)
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=all
SAN_thread  := -fsanitize=thread
# Where it is allowed: the thread sanitizer refuses some random address layouts.
FIXED_LAYOUT := $(shell setarch -R true 2>/dev/null && echo setarch -R)

# Warnings of the optimizer too, then each C test under each sanitizer.
check-c: $(patsubst tests/core/%.c,build/check/%.address,$(C_TESTS)) \
         $(patsubst tests/core/%.c,build/check/%.thread,$(C_TESTS)) build/check/warnings
	@for t in $(filter build/check/test_%,$^); do echo "$$t"; $(FIXED_LAYOUT) ./$$t || exit 1; done

build/check/warnings: $(C_FILES) $(HEADERS)
	@mkdir -p $(@D)
	@for f in $(C_FILES); do $(CC) $(WARN) -O2 -I$(CORE) -c $$f -o $@.o || exit 1; done
	@touch $@

build/check/%.address: tests/core/%.c $(C_FILES) $(HEADERS) $(C_HELP)
	@mkdir -p $(@D)
	@$(CC) $(TEST) $(SAN_address) $< $(C_FILES) -o $@ -pthread

build/check/%.thread: tests/core/%.c $(C_FILES) $(HEADERS) $(C_HELP)
	@mkdir -p $(@D)
	@$(CC) $(TEST) $(SAN_thread) $< $(C_FILES) -o $@ -pthread
