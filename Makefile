# Two commands matter to a newcomer: make demo, make test. Everything installs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROTO := protos/offramp/wire/v1/wire.proto
LOCKED := requirements
# The extras that the tests need: all but Ray, which has its own environment.
EXTRAS := edge cloud dashboard evaluate train report otel openvino torch heif transformers
# Extras stay in the files: without them pip looks for a newest `coverage[toml]` beside the pinned `coverage`, and
# refuses it for lack of a hash as soon as there is a newer one.
PIN = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-build \
	--no-config --excludes $(LOCKED)/torch.txt --custom-compile-command 'make lock' $(UPGRADE)

# The images of others in docker-compose.yml, under the names of its variables.
IMAGES = $(shell sed -n 's/.*$${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1=\2/p' docker-compose.yml | sort -u)

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types imports docs protos format wheel sbom digests lock clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/serving ## run both nodes and the live page, classify the shipped photos, serve until Ctrl-C; BUNDLE=models/… shows another bundle
	$(BIN)/offramp up $(BUNDLE) $(DEMO)

test: $(VENV)/everything ## run the tests and report how much of the serving half they cover
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: lint types imports docs test ## all the checks that CI runs

lint: $(VENV)/everything ## linter and formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/everything ## type checker
	$(BIN)/mypy

imports: $(VENV)/everything ## check who may import whom
	$(BIN)/lint-imports

docs: $(VENV)/everything ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

protos: $(VENV)/everything ## regenerate the wire messages from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=shared --pyi_out=shared --grpc_python_out=shared $(PROTO)

format: $(VENV)/everything ## format the code and sort its imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

wheel: ## build the package into dist/
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

sbom: $(VENV)/everything ## list what is in each image and in the wheel, with licences, in dist/sbom-*.json
	$(BIN)/python deploy/sbom.py dist

digests: ## pin the images of others by digest, in .env, where docker-compose finds it; needs a registry
	@set -e; for pair in $(IMAGES); do \
		docker pull --quiet "$${pair#*=}" >/dev/null; \
		echo "$${pair%%=*}=$$(docker image inspect --format '{{index .RepoDigests 0}}' "$${pair#*=}")"; \
	done >.env.new; mv .env.new .env; cat .env

lock: $(VENV)/everything ## pin every dependency in requirements/; newer versions with UPGRADE=--upgrade
	$(PIN) pyproject.toml $(EXTRAS:%=--extra %) --group dev -o $(LOCKED)/dev.txt
	$(PIN) pyproject.toml --extra edge -c $(LOCKED)/dev.txt -o $(LOCKED)/edge.txt
	$(PIN) pyproject.toml --extra cloud -c $(LOCKED)/dev.txt -o $(LOCKED)/cloud.txt
	$(PIN) pyproject.toml --extra dashboard -c $(LOCKED)/dev.txt -o $(LOCKED)/dashboard.txt
	$(PIN) --group build -c $(LOCKED)/dev.txt -o $(LOCKED)/build.txt

clean: ## remove everything that make created
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .hypothesis dist site

# An edge device and the demo need no torch; the tests do.
$(VENV)/serving: pyproject.toml $(wildcard $(LOCKED)/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes $(patsubst %,-r $(LOCKED)/%.txt,edge cloud dashboard build)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/everything: pyproject.toml $(wildcard $(LOCKED)/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r $(LOCKED)/torch.txt
	$(BIN)/pip install --quiet --require-hashes -r $(LOCKED)/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/serving
