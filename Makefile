# `make` lists what there is. Everything installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One process a core, each with XLA's own threads, is fastest on small machines.
WORKERS ?= auto

.PHONY: help demo test test-long plan-test scale crash-test soak bits-test lint docs accelerator rehearse bench bench-methods clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 16

$(VENV)/.base: pyproject.toml
	@echo "installing zojax into $(VENV) (about a minute) …"
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml
	@echo "installing zojax and what its tests need into $(VENV) (about two minutes) …"
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(PIP) "torch==2.13.0"
	@$(PIP) -e '.[test]'
	@touch $@

demo: $(VENV)/.base  ## fine-tune a small OPT offline, in minutes
	@$(BIN)/zojax demo --fresh

test: $(VENV)/.test  ## run all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.test  ## run all tests, and all cases of the hostile ones (an hour)
	@ZOJAX_LONG=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# XLA's compilers for machines that are not here: a gigabyte or more each, and one an environment.
.venv-plan-%/.done: pyproject.toml
	@echo "installing the $* compiler into .venv-plan-$* (a few minutes) …"
	@test -d .venv-plan-$* || $(PYTHON) -m venv .venv-plan-$*
	@.venv-plan-$*/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[plan-$*]' pytest
	@touch $@

plan-test: .venv-plan-gpu/.done .venv-plan-tpu/.done  ## compile plans for GPUs and TPUs (minutes)
	@for kind in gpu tpu; do \
	  ZOJAX_PLANS=$$kind .venv-plan-$$kind/bin/python -m pytest tests/planning/test_compiled_plans.py || exit; done

scale: .venv-plan-gpu/.done .venv-plan-tpu/.done  ## remake docs/scale.md (two hours)
	@.venv-plan-gpu/bin/python benchmarks/scale.py --write-docs
	@.venv-plan-gpu/bin/python benchmarks/scale_formats.py --write-docs
	@.venv-plan-gpu/bin/python benchmarks/packing.py --write-docs

N ?= 300
crash-test: $(VENV)/.test  ## kill training N times (default 300), compare with a run left alone
	@$(BIN)/python tests/runs/crash_campaign.py --kills $(N)

# XLA's own choice on a processor that has all of them, and what older processors get.
BITS := tests/journal/test_replay.py tests/checkpoints/test_resume.py \
  tests/runs/test_methods_to_the_end.py tests/distributed/test_training.py
bits-test: $(VENV)/.test  ## run the tests that compare bits under three instruction sets
	@for isa in AVX512 AVX2 SSE4_2; do \
	  echo "up to $$isa"; XLA_FLAGS=--xla_cpu_max_isa=$$isa $(BIN)/python -m pytest -q \
	    -n $(WORKERS) --dist loadfile $(BITS) || exit; done

soak: MINUTES := 10
soak: $(VENV)/.test  ## serve and train under load, reloads and killed clients (MINUTES=10), and watch memory
	@JAX_PLATFORMS=cpu $(BIN)/python -m tests.serving.soak --minutes $(MINUTES)

lint: $(VENV)/.test  ## ruff, pyright and the import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

$(VENV)/.docs: pyproject.toml
	@echo "installing what the site is made with into $(VENV) …"
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs  ## make the site of the documentation, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/site/index.html

MINUTES ?= 8
accelerator:  ## measure this machine's GPU or TPU (MINUTES=8), with the Python and jax that are there
	@$(PYTHON) benchmarks/accelerator.py --minutes $(MINUTES)

rehearse: $(VENV)/.test  ## the same at tiny sizes on a CPU
	@JAX_PLATFORMS=cpu $(BIN)/python benchmarks/accelerator.py --rehearse --output build/rehearsal

DATA ?= stanfordnlp/sst2
TOKENIZER ?=
bench: $(VENV)/.test  ## remake docs/performance.md (DATA=, TOKENIZER=: directories, or the hub)
	@for part in step roofline fidelity scaling first_step; do \
	  $(BIN)/python benchmarks/$$part.py --data $(DATA) $(if $(TOKENIZER),--tokenizer $(TOKENIZER)) \
	    --write-docs || exit; done

bench-methods: $(VENV)/.test  ## remake the tables of docs/methods.md and docs/fold_policies.md
	@$(BIN)/python benchmarks/fold_policies.py --write-docs
	@$(BIN)/python benchmarks/methods.py --write-docs

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .venv-plan-gpu .venv-plan-tpu .pytest_cache .ruff_cache .import_linter_cache
