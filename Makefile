# vnp: `make demo` and `make test` need nothing but Python 3.11 or newer, its venv module, and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := demo-run
IMAGE ?= vnp.sif
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs venv image clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Batches of a few rows are computed fastest by one thread each.
demo: export OMP_NUM_THREADS := 1
demo: $(STAMP) ## calls on held-out genomes of the bundled sample, by both roads, in demo-run/; a minute or two
	$(BIN)/python -m jobs.demo --out $(RUN) --force

test: $(STAMP) ## run the tests (WORKERS=2 processes)
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(STAMP) ## check style (ruff) and types (mypy --strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs ## build the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "Open site/index.html"

venv: $(STAMP) ## create .venv with the tested versions (done by the others when needed)

image: ## build the Apptainer image vnp.sif, with CUDA (IMAGE_FLAGS=--fakeroot where you are not root)
	apptainer build $(IMAGE_FLAGS) --build-arg COMMIT=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
		--build-arg EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) $(IMAGE) containers/Apptainer.def

clean: ## remove .venv, the demo run and caches
	rm -rf $(VENV) $(RUN) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find jobs vnp tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last: an interrupted installation starts again. A change of the requirements installs again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "vnp needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "this Python has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
