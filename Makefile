PYTHON ?= python3
BIN := .venv/bin
STORE := sqlite:///mlflow.db
PORT := 5000

.PHONY: setup demo check test docs soak audit ui mlflow-server cluster-token lint-cluster

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
TEST_PROCESSES ?= 2
test: setup  ## in two processes; TEST_PROCESSES=0 runs one test after another
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

docs: setup  ## the site of docs/ in site/, built strictly and without network: open site/index.html
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

RUNS := 1
FIRST_SEED := 1
soak: setup  ## the fault tests RUNS times, each run with another seed, and what was lost (docs/reliability.md)
	$(BIN)/python tests/soak.py --runs $(RUNS) --first-seed $(FIRST_SEED)

audit: setup  ## bandit over our code; pip-audit over the pinned packages, which asks pypi.org about known faults
	$(BIN)/bandit -q -c pyproject.toml -r experiments.py tune model data_pipeline benchmarks launcher
	$(BIN)/pip-audit --requirement requirements.txt --no-deps --disable-pip

ui: setup  ## the MLflow UI over the local store; STORE=sqlite:////other/mlflow.db PORT=5001 for another
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	$(BIN)/mlflow ui --backend-store-uri $(STORE) --host 127.0.0.1 --port $(PORT) --workers 1

# BACKEND_STORE_URI HOST PORT SERVER_DIR ARTIFACTS_DESTINATION MLFLOW_SERVER_ALLOWED_HOSTS WORKERS: see docs/tracking.md
mlflow-server: setup  ## an MLflow server with accounts, over SQLite or PostgreSQL
	@$(BIN)/python -m launcher.mlflow_server

CLUSTER ?= cluster.yaml
cluster-token: setup  ## the token that all nodes and drivers of a cluster share, made once
	umask 077; RAY_AUTH_MODE=token $(BIN)/ray get-auth-token --generate > /dev/null
	chmod 600 ~/.ray/auth_token

lint-cluster: setup  ## what stands in the way of `ray up $(CLUSTER)`, one line each
	$(BIN)/python -m launcher.lint $(CLUSTER)
