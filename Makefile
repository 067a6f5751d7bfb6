PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo check test audit ui

setup: .venv/.installed  ## create .venv with everything that running, checking and testing needs

.venv/.installed: requirements.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

demo: setup  ## the pruning sweep on generated data, offline, on a CPU or a GPU
	$(BIN)/python experiments.py --sweep pruning --dataset demo --epochs 4 --repeats 1

check: setup  ## what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/mypy
test: setup
	$(BIN)/python -m pytest

audit: setup  ## bandit over our code; pip-audit over the pinned packages, which asks pypi.org about known faults
	$(BIN)/bandit -q -c pyproject.toml -r experiments.py tune model data_pipeline benchmarks
	$(BIN)/pip-audit --requirement requirements.txt --no-deps --disable-pip

ui: setup  ## the MLflow UI over the local store
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000
