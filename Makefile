# Every target builds .venv by itself: uv from the standard venv's pip, then exactly what the lock says.
#   LOCK=gpu make …   uses requirements/gpu.txt on a node with GPUs
SHELL := /bin/bash
LOCK ?= cpu
UV_VERSION := 0.13.8
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.lock-$(LOCK)
UV := $(VENV)/bin/uv
# uv does not read pip's find-links; where pip has a local wheel of torch, use it, else PyTorch's own index for CPUs.
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
BACKEND := $(if $(PIP_FIND_LINKS),,$(if $(filter cpu,$(LOCK)),--torch-backend=cpu,))
COMPILE := $(UV) pip compile --no-emit-index-url --no-emit-find-links --no-header --no-annotate
# What a bare GPU machine brings: torch with its libraries, transformers with its own, numpy under both.
THERE := torch triton numpy transformers tokenizers huggingface-hub hf-xet regex

.PHONY: quickstart test proof lint lock bench env
quickstart: env
	$(VENV)/bin/distill run jobs/quickstart.yaml

test: env
	$(VENV)/bin/pytest -n 2 -m "not proof and not gpu"

proof: env
	$(VENV)/bin/pytest -m proof --timeout 7200 --proof-json benchmarks/proofs/results/latest.json

lint: env
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ty check --python $(VENV) engine

bench: env
	for name in $(filter-out gpu,$(patsubst benchmarks/%/run.py,%,$(wildcard benchmarks/*/run.py))); do $(VENV)/bin/python -m benchmarks.$$name.run --json benchmarks/$$name/results/latest.json || exit 1; done

env: $(STAMP)

# Bytecode at install: each of the many processes of a run would otherwise compile its imports again (vLLM: 13 s to 5 s).
$(STAMP): requirements/$(LOCK).txt pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(UV) pip sync --quiet --compile-bytecode --python $(VENV)/bin/python $(BACKEND) requirements/$(LOCK).txt
	$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	touch $@

lock:
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(COMPILE) $(if $(PIP_FIND_LINKS),,--torch-backend=cpu) --python-version 3.11 --overrides requirements/overrides.txt requirements/cpu.in -o requirements/cpu.txt
	UV_FIND_LINKS= $(COMPILE) --python-version 3.11 requirements/gpu.in -o requirements/gpu.txt
	UV_FIND_LINKS= $(COMPILE) --python-version 3.12 -c requirements/gpu.txt $(THERE:%=--no-emit-package %) benchmarks/gpu/pack.in \
	  | grep -Ev '^(nvidia|cuda)-' > benchmarks/gpu/pack.txt
