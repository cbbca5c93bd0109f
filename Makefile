# make train · make test · make lint · make notebooks · make bench · make clean. The first makes .venv; nothing has to be installed before.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# generation, training, tflite or export_parity
BENCH ?= generation
INSTALLED := $(VENV)/.installed

.PHONY: train test lint format notebooks bench clean

train: $(INSTALLED)
	@$(BIN)/keras_lm-train --config recipes/quickstart.yaml $(TRAIN_FLAGS) $(if $(wildcard runs/quickstart/settings.yaml),--resume)

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(INSTALLED)
	KERAS_LM_FAST=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m notebooks tests/test_notebooks.py

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python benchmarks/$(BENCH).py $(BENCH_FLAGS)

$(INSTALLED): requirements.txt setup.cfg
	@echo "making $(VENV): about 4 GB and a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -r requirements.txt -e .
	@$(BIN)/python -m pip install --quiet 'kenlm>=0.3,<0.4' || echo "kenlm, which pip builds, could not be built: one test will be skipped"
	@command -v chromium >/dev/null || echo "no Chromium on this machine: the tests of the server's page will be skipped (apt-get install chromium)"
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .ruff_cache
