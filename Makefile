PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo check test ui mlflow-server cluster-token lint-cluster

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

ui: setup  ## the MLflow UI over the local store
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

mlflow-server: setup  ## MLflow with basic auth on the loopback; launcher/mlflow-up sets its variables
	$(BIN)/mlflow server --app-name basic-auth --host 127.0.0.1 --port 5000

CLUSTER ?= cluster.yaml
cluster-token: setup  ## the token that all nodes and drivers of a cluster share, made once
	umask 077; RAY_AUTH_MODE=token $(BIN)/ray get-auth-token --generate > /dev/null
	chmod 600 ~/.ray/auth_token

lint-cluster: setup  ## what stands in the way of `ray up $(CLUSTER)`, one line each
	$(BIN)/python -m launcher.lint $(CLUSTER)
