# Two commands matter to a newcomer: make demo, make test. Everything installs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROTO := protos/offramp/wire/v1/wire.proto

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types imports protos format clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/serving ## run both nodes and the live page, classify the shipped photos, serve until Ctrl-C
	$(BIN)/offramp up $(DEMO)

test: $(VENV)/everything ## run the tests, and say how much of the serving half they cover
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: lint types imports test ## everything CI does

lint: $(VENV)/everything ## linter and formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/everything ## type checker
	$(BIN)/mypy

imports: $(VENV)/everything ## who may import whom
	$(BIN)/lint-imports

protos: $(VENV)/everything ## generate the messages from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=shared --pyi_out=shared --grpc_python_out=shared $(PROTO)

format: $(VENV)/everything ## format the code and sort its imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove what make made
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .hypothesis dist

# An edge device and the demo need no torch; the tests do.
$(VENV)/serving: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[edge,cloud,dashboard]'
	@touch $@

$(VENV)/everything: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[edge,cloud,dashboard,train,dev]'
	@touch $@ $(VENV)/serving
