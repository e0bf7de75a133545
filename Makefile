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
SERVER  := server/shmcache_server
BINDING := $(wildcard $(CORE)/*.pyx $(CORE)/*.pxd $(SERVER)/*.pyx)
HEADERS := $(wildcard $(CORE)/*.h)

INSTALLED := $(VENV)/.stamp-installed
BUILT     := $(VENV)/.stamp-built
PEERS     := $(VENV)/.stamp-peers

.DEFAULT_GOAL := help
.PHONY: help build serve market test check check-c c-programs conformance stress fuzz chaos load load-page bench bench-l1 \
        bench-l2 bench-eviction before-after bench-library waves scale redis-faults streams wheel docs django pyright clean distclean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

build: $(BUILT)  ## .venv with all that is needed, and the C core built in place

serve: $(BUILT)  ## the main job on 127.0.0.1:8080; ORIGIN=http://host:port fronts yours
	@$(PY) loadtest/serve.py $(if $(ORIGIN),--origin '$(ORIGIN)')

market: $(BUILT)  ## the example: a market dashboard, its page on 127.0.0.1:8080
	@$(PY) -m loadtest.showcase

test: $(BUILT)  ## every test, against real processes and a real redis-server
	$(PY) -m pytest $(PYTEST_ARGS)

check: $(BUILT) build/check/warnings  ## linters, types, C warnings
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Of what `make test` runs a hundredth. 50 waves of 250 clients each way, each within
# 1.1 s; 10^9 reads of one segment by processes that are killed and stopped, or 15 minutes
# of them; 10^4 cancellations; four minutes of purges; the larger models; simulated
# histories, 150 a second and core.
HISTORIES ?= 300000
stress: $(BUILT) build/check/fast/stress  ## every long count; HISTORIES=1000000
	build/check/fast/stress 1e9 900
	SHMCACHE_REPEATS=50 SHMCACHE_WAVE_SECONDS=1.1 \
	$(PY) -m pytest tests/processes/test_cold_key.py \
	  tests/server/market/test_service.py $(PYTEST_ARGS)
	SHMCACHE_REPEATS=10000 $(PY) -m pytest tests/test_cancellation.py tests/test_asks.py \
	  $(PYTEST_ARGS)
	SHMCACHE_PURGE_SECONDS=60 $(PY) -m pytest tests/processes/test_purge_histories.py \
	  $(PYTEST_ARGS)
	$(PY) -m pytest tests/model/full.py $(PYTEST_ARGS)
	SHMCACHE_TRIES=3000 $(PY) -m pytest tests/sim/test_mutations.py $(PYTEST_ARGS)
	$(PY) -m tests.sim 0 --histories $(HISTORIES) --jobs 2

# Random requests through both lanes of the server, and to the running server on raw
# sockets; of which `make test` runs a hundredth.
REQUESTS ?= 1000000
fuzz: $(BUILT)  ## lanes that agree, answers to anything; six minutes; REQUESTS=10000000
	$(PY) -m tests.server.fuzz_lanes --requests $(REQUESTS)
	$(PY) -m tests.security.fuzz_headers 0 --requests $$(($(REQUESTS) / 10))

# Real hosts, a real Redis behind a fault proxy, a seeded schedule; every answer checked.
chaos: $(BUILT)  ## five minutes of faults; CHAOS_ARGS='--seconds 60 --seed 7'
	@$(PY) -m loadtest.chaos $(if $(CHAOS_ARGS),$(CHAOS_ARGS),--seconds 300)

# The market service under locust's clients: 11 scenarios, and what must hold in each.
load: $(BUILT)  ## ten minutes of load, judged; SCENARIO=stampede; BENCH_ARGS=--short
	@$(PY) -m loadtest.load $(if $(SCENARIO),--scenario '$(SCENARIO)') $(BENCH_ARGS)

load-page: $(BUILT)  ## a scenario on locust's own page, 127.0.0.1:8089; SCENARIO=expiry
	@$(PY) -m loadtest.load --scenario '$(or $(SCENARIO),sustained)' --page 8089

# http-cache-tests, from npm; what it finds must be what expected.json explains.
conformance: $(BUILT)  ## the public suite for HTTP caches; ID=vary-match shows one test
	@$(PY) -m tests.conformance $(if $(ID),'$(ID)') $(CONFORMANCE_ARGS)

django: $(BUILT)  ## Django's own tests of its caches, with our backend
	@$(PY) -m tests.adapters.django_suite

waves: $(BUILT)  ## 10,000 miss waves, lost wake-ups, killed holders; BENCH_ARGS='--trials 300'
	@$(PY) -m loadtest.waves $(BENCH_ARGS)

streams: $(BUILT)  ## bodies on their way: memory, one fetch, stalls, breaks; BENCH_ARGS=--quick
	@$(PY) -m loadtest.streams $(BENCH_ARGS)

scale: $(BUILT)  ## what 1 to 16 hosts ask of one Redis; charts in build/scale.svg
	@$(PY) -m loadtest.scale $(BENCH_ARGS)

redis-faults: $(BUILT)  ## hits, misses and connections while Redis hangs, is gone, is back
	@$(PY) -m loadtest.redis_faults $(BENCH_ARGS)

bench: $(BUILT) $(PEERS)  ## over HTTP beside nginx, Varnish, ...; BENCH_ARGS=--quick is a look
	@$(PY) -m loadtest.peers.bench $(BENCH_ARGS)

bench-l1: $(BUILT) $(PEERS) build/store  ## L1 beside its peers; BENCH_ARGS=--quick is a look
	@$(PY) -m loadtest.l1 $(BENCH_ARGS)

bench-l2: $(BUILT)  ## L2 beside one redis.asyncio GET a call; BENCH_ARGS=--quick is a look
	@$(PY) -m loadtest.l2 $(BENCH_ARGS)

bench-library: $(BUILT) $(PEERS)  ## a hit in a program, beside cashews, aiocache, diskcache
	@$(PY) -m loadtest.library $(BENCH_ARGS)

before-after: $(BUILT)  ## the dashboard without a cache, with one per process, with ours
	@$(PY) -m loadtest.beforeafter $(BENCH_ARGS)

TRACES ?= $(wildcard ../shared/traces/*.csv.xz)
bench-eviction: $(BUILT) $(PEERS)  ## hit ratios beside libcachesim's; TRACES='A.csv.xz B.csv.xz'
	@test -n '$(TRACES)' || { echo "shmcache: no trace; TRACES='A.csv.xz ...' names" \
	  'them' >&2; exit 2; }
	@$(PY) -m loadtest.eviction $(TRACES) $(BENCH_ARGS)

# What an extra of pyproject names, once.
$(VENV)/.stamp-extra-%: pyproject.toml | $(BUILT)
	@$(PY) -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb")) \
	  ["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' $* > $(VENV)/$*.txt
	@$(PIP) install -r $(VENV)/$*.txt
	@touch $@

pyright: $(VENV)/.stamp-extra-types  ## the library by the other type checker, from npm
	@$(PY) -m pyright

docs: $(VENV)/.stamp-extra-docs  ## the pages and the API reference as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict --config-file .ci/mkdocs.yml
	@echo 'shmcache: build/site/index.html'

# From the sdist, as anybody would; then in an environment that has no compiler.
wheel: $(VENV)/.stamp-extra-wheel  ## sdist and manylinux wheel in dist/, installed and tried
	@rm -rf dist build/wheel
	@$(PY) -m build --no-isolation --outdir build/wheel . >build/wheel.log 2>&1 || \
	  { cat build/wheel.log >&2; exit 1; }
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m auditwheel repair --plat \
	  manylinux_2_34_$$(uname -m) --wheel-dir dist build/wheel/*.whl 2>>build/wheel.log || \
	  { cat build/wheel.log >&2; exit 1; }
	@cp build/wheel/*.tar.gz dist/
	@$(PY) -m tests.wheel dist

clean:  ## remove what was built; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(CORE)/*.so $(CORE)/binding.c $(SERVER)/*.so $(SERVER)/_splice.c $(BUILT)
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

# One at a time: a peer that cannot be had here is a dash in the table, no more.
$(PEERS): pyproject.toml | $(BUILT)
	@echo 'shmcache: installing what the benchmarks compare with, once'
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb")) \
	  ["project"]["optional-dependencies"]["bench"], sep="\n")' > $(VENV)/peers.txt
	@while read -r peer; do $(PIP) install "$$peer" </dev/null || echo "shmcache:" \
	  "$$peer cannot be installed; its row is a dash" >&2; done < $(VENV)/peers.txt
	@touch $@

# --- the C core by itself ----------------------------------------------------------

WARN := -std=gnu11 -Wall -Wextra -Werror
# Test builds of the core: with failpoints, each under flags of its own.
CHECK := build/check
SAN_address := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
SAN_thread  := -O1 -fsanitize=thread
SAN_fast    := -O2
CORE_OBJECTS := $(patsubst $(CORE)/%.c,%.o,$(C_FILES)) failpoint.o
THREADED := $(shell grep -l pthread_create $(C_TESTS))
C_PROGRAMS := $(patsubst tests/core/%.c,$(CHECK)/address/%,$(C_TESTS)) \
              $(patsubst tests/core/%.c,$(CHECK)/thread/%,$(THREADED))
STRESS := $(CHECK)/address/stress $(CHECK)/fast/stress $(CHECK)/fast/stress-broken
# Where it is allowed: the thread sanitizer refuses some random address layouts.
FIXED_LAYOUT := $(shell setarch -R true 2>/dev/null && echo setarch -R)

# `make test` runs the same programs, one test each.
check-c: $(C_PROGRAMS) $(CHECK)/warnings  ## the core's own tests, under the sanitizers
	@for t in $(C_PROGRAMS); do echo "$$t"; $(FIXED_LAYOUT) ./$$t || exit 1; done

c-programs: $(C_PROGRAMS) $(STRESS)

# Warnings of the optimizer too.
$(CHECK)/warnings: $(C_FILES) $(HEADERS)
	@mkdir -p $(@D)
	@for f in $(C_FILES); do $(CC) $(WARN) -O2 -I$(CORE) -c $$f -o $@.o || exit 1; done
	@touch $@

.SECONDEXPANSION:
.SECONDARY:
vpath %.c $(CORE) tests/core
$(CHECK)/%.o: $$(notdir $$*).c $(HEADERS) $(C_HELP)
	@mkdir -p $(@D)
	@$(CC) $(WARN) -DSHMC_STEPS -g -I$(CORE) $(SAN_$(notdir $(@D))) -c $< -o $@

# What a build must be told by: without its last look at the generation.
$(CHECK)/fast/stress-broken: $(CORE)/table.c $$(filter-out %/table.o,$$(addprefix \
                             $$(@D)/,stress.o $$(CORE_OBJECTS)))
	@sed 's/return shmc_load_after(generation) == seen;/return !!generation | !!seen;/' \
	  $< > $@.c
	@! cmp -s $< $@.c
	@$(CC) $(WARN) -DSHMC_STEPS -g -I$(CORE) $(SAN_fast) $@.c $(filter %.o,$^) -o $@ \
	  -pthread

$(CHECK)/%: $$(@D)/$$(@F).o $$(addprefix $$(@D)/,$$(CORE_OBJECTS))
	@$(CC) $(SAN_$(notdir $(@D))) $^ -o $@ -pthread

# As the binding is built, so that what is timed is what runs.
build/store: loadtest/store.c $(C_FILES) $(HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(WARN) -O3 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -I$(CORE) $< \
	  $(C_FILES) -o $@ -pthread
