# Everything works on a fresh machine with Python 3.11 or newer: the first use makes the virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test lint clean

demo: $(VENV)/.run            ## generate slides, extract them, audit the result
	$(BIN)/python -m wsi_extract demo $(DEMO)
	$(BIN)/python run_extraction.py --wsi_dir $(DEMO)/WSI --annotation_json $(DEMO)/annotations.json \
		--output_dir $(DEMO)/out --patches_per_slide 100 --patch_size 256 --train_val_split 0.8 --seed 42 --fresh
	$(BIN)/python -m wsi_extract verify $(DEMO)/out

test: $(VENV)/.dev lint       ## format, lint, types, layers, tests
	$(BIN)/python -m pytest -n auto --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.run: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:                        ## remove the environment, caches and the demo
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
