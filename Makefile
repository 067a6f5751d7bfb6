# `make` alone lists the targets, with what stands behind their ##
SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
STORE := sqlite:///mlflow.db
PORT := 5000

.PHONY: help setup setup-dev demo check test docs soak audit ui mlflow-server cluster-token lint-cluster

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1@\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F@ '{printf "%-20s %s\n", $$1, $$2}'
	@echo "The install has PyTorch for CUDA; before the first make, TORCH_INDEX=... takes another (docs/getting-started.md)."

setup: .venv/.runtime  ## .venv with what sweeps need, once
setup-dev: .venv/.installed  ## the same with what checking and testing need

# An index of PyTorch's with another build of torch, such as https://download.pytorch.org/whl/cpu for a CPU. Untested:
# that index was not reachable where this was written.
TORCH_INDEX ?=
TORCH := $(shell sed -n '/^torch==/p' requirements.txt)
# of pip's many lines: what is large, and the last ones; errors are on stderr
FEW_LINES := sed -unE 's/^ *(Downloading .*\(([0-9]{2,}\.[0-9] MB|.* GB)\)).*/  \1/p; s/^(Installing) collected packages.*/  \1 .../p'

.venv/.runtime: requirements.txt
	@echo "Installing the packages of $< into .venv, once: 3.1 GB to download, 6 GB on the disk (Python 3.11, x86-64)."
	@echo "From a fast package index two busy cores took 4 min 11 s."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --progress-bar off --index-url $(TORCH_INDEX) $(TORCH) | $(FEW_LINES))
	@began=$$SECONDS; $(BIN)/python -m pip install --progress-bar off -r $< | $(FEW_LINES) \
	&& echo "Installed in $$((SECONDS - began)) s."
	touch $@

.venv/.installed: requirements-dev.txt .venv/.runtime
	$(BIN)/python -m pip install --quiet -r $<
	touch $@

demo: setup  ## a first answer: three patch lengths on generated data, offline, on a CPU or a GPU
	$(BIN)/python experiments.py --sweep quick --dataset demo --repeats 3

check: setup-dev  ## what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/mypy
TEST_PROCESSES ?= 2
test: setup-dev  ## in two processes; TEST_PROCESSES=0 runs one test after another
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

docs: setup-dev  ## the site of docs/ in site/, built strictly and without network: open site/index.html
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict
	PYTHONPATH=$(CURDIR) $(BIN)/jupyter-execute docs/from_sweep_to_plot.ipynb

RUNS := 1
FIRST_SEED := 1
soak: setup-dev  ## the fault tests RUNS times, each run with another seed, and what was lost (docs/reliability.md)
	$(BIN)/python tests/soak.py --runs $(RUNS) --first-seed $(FIRST_SEED)

audit: setup-dev  ## bandit over our code; pip-audit over the pinned packages, which asks pypi.org about known faults
	$(BIN)/bandit -q -c pyproject.toml -r experiments.py tune model data_pipeline benchmarks launcher patchtst_sweeps
	$(BIN)/pip-audit --requirement requirements.txt --no-deps --disable-pip

ui: setup  ## the MLflow UI over the local store; STORE=sqlite:////other/mlflow.db PORT=5001 for another
	$(BIN)/python experiments.py ui --tracking-uri $(STORE) --port $(PORT)

# BACKEND_STORE_URI HOST PORT SERVER_DIR ARTIFACTS_DESTINATION MLFLOW_SERVER_ALLOWED_HOSTS WORKERS: see docs/tracking.md
mlflow-server: setup  ## an MLflow server with accounts, over SQLite or PostgreSQL
	@$(BIN)/python -m launcher.mlflow_server

CLUSTER ?= cluster.yaml
cluster-token: setup  ## the token that all nodes and drivers of a cluster share, made once
	umask 077; RAY_AUTH_MODE=token $(BIN)/ray get-auth-token --generate > /dev/null
	chmod 600 ~/.ray/auth_token

lint-cluster: setup  ## what stands in the way of `ray up $(CLUSTER)`, one line each
	$(BIN)/python -m launcher.lint $(CLUSTER)
