# make repro   environment + the whole pipeline, to an evaluated adapter
# make test    environment + all tests
# make help    everything else
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Container images often forbid compiled modules; every process would then compile torch's and transformers' again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help dependencies sql-eval repro ask experiments test demo lint params environment lock remote verify clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# uv reads none of pip's settings: this prints the registry of pip's environment or configuration, for both to ask.
PIP_INDEX = $(BIN)/python -m pip config list | sed -n "s/^[^=]*\.index-url='\(.*\)'$$/\1/p" | tail -1

environment: $(VENV)/.ready ## the virtual environment, as pinned in requirements.lock

# torch: a local CPU wheel (PIP_FIND_LINKS) where there is one, otherwise the registry's, which on Linux wants the CUDA
# libraries of requirements-cuda.lock. Everything else by uv, ten times as quick as pip.
$(VENV)/.ready: requirements.lock requirements-uv.lock requirements-cuda.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "Python 3.11 or 3.12 is needed (the pinned packages are for these): make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^torch==/,/[^\\]$$/p' requirements.lock > $(VENV)/torch.lock
	@sed '/^torch==/,/[^\\]$$/d' requirements.lock > $(VENV)/rest.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-uv.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --no-index -r $(VENV)/torch.lock 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(VENV)/torch.lock
	@export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$$($(PIP_INDEX))}}"; \
	test -n "$$UV_DEFAULT_INDEX" || unset UV_DEFAULT_INDEX; \
	set -ex; install="$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps"; \
	$$install --require-hashes -r $(VENV)/rest.lock; \
	if [ "$$(uname -s)" = Linux ] && ! ls -d $(VENV)/lib/python3*/site-packages/torch-*+cpu.dist-info >/dev/null 2>&1; then \
		$$install --require-hashes -r requirements-cuda.lock; fi; \
	$$install --no-build-isolation --editable .
	@$(BIN)/python -m text2sql.bucket
	@$(BIN)/python -c 'import vl_convert; open("$(VENV)/vega.js", "w").write(vl_convert.javascript_bundle(vl_version="5.21"))'
	@touch $@

# The release where there is one, else the base model without training: 500 MB are downloaded once.
ask: export MODEL = $(if $(wildcard models/release/manifest.json),models/release,qwen2.5-coder-0.5b)
ask: QUESTION = What are the names and prices of the products that cost more than 50?
# The question goes through the environment as it is, so that neither make nor the shell reads it. QUESTION itself is
# not exported: make would expand it.
ask: export ASKED = $(value QUESTION)
unexport QUESTION
ask: environment ## an answer without training, on examples/shop.sqlite; then your questions: make ask QUESTION="..."
	@printf '? %s\n' "$$ASKED"
	@text2sql ask --sqlite examples/shop.sqlite --model "$$MODEL" --candidates 8 --run $$([ -t 0 ] && echo --more) -- "$$ASKED"

repro: environment ## set up and run the pipeline
	dvc repro
	@python -m text2sql.results

test: environment ## set up and run the tests
	@.ci/browser
	python -m pytest -m 'not slow' -n 3 --dist loadfile --no-loadscope-reorder

demo: environment ## the demo in the browser, at http://127.0.0.1:7860
	python -m app.demo

experiments: environment ## the experiments so far, best first, in the columns that differ
	@python -m text2sql.results --experiments

lint: environment ## ruff, who may import whom, and that dvc.yaml names what stages import
	ruff check . && ruff format --check . && lint-imports && .ci/dependencies --check

dependencies: environment ## write the modules that each stage imports into dvc.yaml again
	.ci/dependencies

sql-eval: environment ## score models/release on sql-eval, which is downloaded
	python -m benchmarks.sql_eval --model models/release

params: environment ## compose conf/ into params.yaml again
	text2sql params

lock: environment ## make the lock files again from pyproject.toml
	.ci/lock

remote: environment ## point this clone at a bucket: make remote BUCKET=gs://NAME/FOLDER, or BUCKET=none
	@text2sql remote "$$BUCKET"

verify: environment ## every file of dvc.lock against its hash: workspace, cache, remote, release
	@text2sql verify

clean: ## remove the environment (data and cache stay)
	rm -rf $(VENV)
