# Everything a user or a maintainer does. Each target does its own set-up; `make help` lists them.
PYTHON  ?= python3
STUDY   ?= ibsr
PROFILE ?= quick
SEED    ?= 0
DATA    ?=
BIN     := .venv/bin
export NO_ALBUMENTATIONS_UPDATE = 1
export TF_CPP_MIN_LOG_LEVEL = 2
export TF_ENABLE_ONEDNN_OPTS ?= 1
export PYTHONDONTWRITEBYTECODE = 1
export SM_FRAMEWORK = tf.keras

# freed memory is kept for the next training step, see segkit/memory.py
demo notebooks lab: export MALLOC_ARENA_MAX = 1
demo notebooks lab: export MALLOC_MMAP_MAX_ = 0
demo notebooks lab: export MALLOC_TOP_PAD_ = 4000000000

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-extra notebooks lab bench results lint clean

help:            ## this list
	@awk -F' *## *' '/^[a-z-]+:.*##/ {split($$1, name, ":"); printf "  make %-12s %s\n", name[1], $$2}' $(MAKEFILE_LIST)

.venv/.ready: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "segkit needs Python 3.11 or 3.12, this is %d.%d; set PYTHON=python3.12" % sys.version_info[:2])'
	@echo "== set-up: virtual environment in .venv (once, a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

.venv/.ready-test: .venv/.ready
	@echo "== set-up: the test extra (jax, dask, pytest, ...)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

setup: .venv/.ready  ## virtual environment with everything the notebooks need

demo: .venv/.ready   ## the main job on phantoms: STUDY=ibsr (default), another study, or all
	@$(BIN)/python notebooks/run.py $(STUDY) --profile quick --seed $(SEED) --demo

test: .venv/.ready-test  ## lint, floors, unit tests, doctests, notebooks (smoke), and the keras parts again on jax
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not extra" -n 2 --dist loadfile --no-loadscope-reorder
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n 2 -k "not parameter_count and not variants and not columns" \
		tests/test_models.py tests/test_losses.py tests/test_content.py tests/test_inference.py

test-extra: .venv/.ready-test  ## tests that need torch, antspyx or Chromium, which you install
	$(BIN)/python -m pytest -m extra

notebooks: .venv/.ready  ## run and save notebooks: STUDY= PROFILE=quick (refreshes notebooks/) or full with DATA=; ONLY="03 04"
	@$(BIN)/python notebooks/run.py $(STUDY) --profile $(PROFILE) --seed $(SEED) $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data "$(DATA)") $(if $(RESULTS),--results "$(RESULTS)")

lab: .venv/.ready    ## open JupyterLab in notebooks/
	$(BIN)/python -m jupyter lab notebooks

bench: .venv/.ready  ## every benchmark beside its peer
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

results: .venv/.ready  ## rebuild results_dir/README.md from the tables on disk
	@$(BIN)/python -m segkit.studies.results

lint: .venv/.ready-test  ## ruff and the floors
	$(BIN)/ruff check . && $(BIN)/lint-imports

clean:           ## remove the environment and the demo's output
	rm -rf .venv results_dir/demo
