# Everything works on a fresh machine with Python 3.11 or newer: the first use makes the virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
BENCH ?= $(HOME)/.cache/wsi_extract/bench
FUZZ_S ?= 120

.PHONY: demo test lint bench soak fuzz clean

demo: $(VENV)/.run            ## generate slides, extract them, audit the result
	$(BIN)/python -m wsi_extract demo $(DEMO)
	$(BIN)/python run_extraction.py --wsi_dir $(DEMO)/WSI --annotation_json $(DEMO)/annotations.json \
		--output_dir $(DEMO)/out --patches_per_slide 100 --patch_size 256 --train_val_split 0.8 --seed 42 --fresh
	$(BIN)/python -m wsi_extract verify $(DEMO)/out

test: $(VENV)/.dev lint       ## format, lint, types, layers, tests
	$(BIN)/python -m pytest -n $$($(BIN)/python -c "import os; print(os.cpu_count() + 1)") --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev           ## all benchmarks at their default size, then docs/performance.md; an hour or two
	for each in extraction anchored stages scaling cost_model png_encoders stain; do \
		$(BIN)/python -m benchmarks.$$each --out $(BENCH) || exit 1; \
	done
	slide=$$($(BIN)/python -m benchmarks.scanned_slides --out $(BENCH)/slides | cut -d, -f1) && \
		$(BIN)/python -m benchmarks.peers --slide "$$slide" --out $(BENCH)
	$(BIN)/python -m benchmarks.document --results $(BENCH)

soak: $(VENV)/.dev            ## kills, failing disks, power cuts, damage; then the figures of docs/reliability.md; an hour
	mkdir -p $(BENCH)
	$(BIN)/python -m tests.faults.soak --out $(BENCH)/faults.json
	$(BIN)/python -m tests.faults.soak --document --out $(BENCH)/faults.json

fuzz: $(VENV)/.dev            ## damage for the readers of slides, shards, annotations and settings; FUZZ_S seconds each
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	for each in annotations_json annotations_sqlite config_json tables tiff_tiles shards; do \
		$(BIN)/python -m tests.fuzz.$$each -max_total_time=$(FUZZ_S) || exit 1; \
	done

$(VENV)/.run: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# The pip that Python 3.11 brings fails on what Azure's and MLflow's libraries need together.
$(VENV)/.dev: requirements-dev.txt requirements-azure.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:                        ## remove the environment, caches and the demo
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
