# Everything a user types. `make help` lists it.
# Uses .venv (made when there is none) or, inside one made from environment.yml, the conda environment.

PROFILE ?= embedded
RANKS ?=
SEEDS ?=
# of `make audit`: parts of its cells, or methods in them: table1, tune, frontier/lora, …
CELLS ?=
METHODS ?=
QUICK ?=
TORCH_BACKEND ?=
# for the profiles on the paper's own data: a copy of the hub on disk
MIRROR ?=
# where results go, if not into the checkout
RESULTS ?=
# 0: go on where the paper's model has not the published perplexity before training
BASE_CHECK ?=
# of `make verify`: names of records, or a share of all
VERIFY ?=
SHARE ?=
PROTOCOL ?=
PRECISION ?=
CHECKPOINTING ?=
WORKERS ?=
# where runs are computed: local, or slurm, and what is asked of it for a run (MEMORY in GB)
EXECUTOR ?=
PARTITION ?=
GPUS ?=
MEMORY ?=
MINUTES ?=
TABLES ?=
# of `make oracle`: a clone of the author's repository
AUTHOR ?=

# of `make mutants`
SAMPLE ?=
FRESH ?=
PYTHON ?= python3

ifeq ($(CONDA_DEFAULT_ENV),curlora_lite)
BIN := $(CONDA_PREFIX)/bin
READY := $(CONDA_PREFIX)/.curlora_lite
else
BIN := .venv/bin
READY := .venv/.curlora_lite
endif
PIP := -m pip install --quiet --disable-pip-version-check
EXTRAS := cache/extras
# the hub is asked only by profiles that need it, and only where there is no mirror
OFFLINE := $(if $(MIRROR)$(filter embedded audit,$(PROFILE)),HF_HUB_OFFLINE=1)
# abspath would take a space for the end of a path
absolute = '$(if $(filter /%,$(firstword $(1))),,$(CURDIR)/)$(1)'
MIRRORED := $(if $(MIRROR),CURLORA_MIRROR=$(call absolute,$(MIRROR)))
TESTED := $(if $(MIRROR),CURLORA_TEST_MIRROR=$(call absolute,$(MIRROR)))
SET := $(MIRRORED) $(if $(RESULTS),CURLORA_RESULTS=$(call absolute,$(RESULTS)))
ASK := $(SET) $(BIN)/python -m curlora_lite.replication
RUN := $(OFFLINE) $(if $(filter 0,$(BASE_CHECK)),CURLORA_BASE_CHECK=0) $(ASK)
on = $(filter-out 0,$($(1)))

CHOSEN = --profile $(PROFILE) $(if $(call on,QUICK),--quick)
OPTIONS = $(CHOSEN) $(if $(RANKS),--ranks $(RANKS)) $(if $(SEEDS),--seeds $(SEEDS)) \
	$(if $(METHODS),--methods $(METHODS)) $(if $(PROTOCOL),--protocol '$(PROTOCOL)') \
	$(if $(PRECISION),--precision $(PRECISION)) $(if $(call on,CHECKPOINTING),--checkpointing) \
	$(if $(WORKERS),--workers $(WORKERS))
CLUSTER = $(if $(EXECUTOR),--executor '$(EXECUTOR)') $(if $(PARTITION),--partition '$(PARTITION)') \
	$(if $(GPUS),--gpus $(GPUS)) $(if $(MEMORY),--memory $(MEMORY)) \
	$(if $(MINUTES),--minutes $(MINUTES))

.DEFAULT_GOAL := help
.PHONY: help setup reproduce audit verify test test-slow test-quantised test-library oracle rehearsal mutants size \
	notebook report readme bench audit-deps lint fetch doctor clean

help: ## this list
	@echo "make TARGET [PROFILE=embedded|smollm2|gpt2-large|mistral-7b] [QUICK=1]"
	@echo "            [RANKS=8,16] [SEEDS=0,1] [METHODS=head-only,lora,curlora]"
	@echo "            [PROTOCOL=corrected | PROTOCOL=published,lora_init=usual,…] [PRECISION=fp32|tf32|bf16]"
	@echo "            [CELLS=table1,tune/lora,…: some of what PROFILE=smollm2 asks of make audit]"
	@echo "            [MIRROR=DIR: a copy of the hub's data sets and models] [RESULTS=DIR: not the checkout's]"
	@echo "            [CHECKPOINTING=1] [WORKERS=1]"
	@echo "            [BASE_CHECK=0: train though perplexity before is not the published one]"
	@echo "            [EXECUTOR=slurm [PARTITION=NAME] [GPUS=1] [MEMORY=48] [MINUTES=60]]"
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-13s %s\n", $$1, $$2}'

setup: $(READY) ## make the environment from requirements.lock (TORCH_BACKEND=cpu: torch's small CPU build, through uv)

$(READY): requirements.lock pyproject.toml
ifneq ($(CONDA_DEFAULT_ENV),curlora_lite)
	@test -x .venv/bin/python || $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
endif
ifneq ($(TORCH_BACKEND),)
	$(BIN)/python $(PIP) uv
	UV_CACHE_DIR=$${UV_CACHE_DIR:-cache/uv} $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --torch-backend $(TORCH_BACKEND) -r requirements.lock
else
	$(BIN)/python $(PIP) -r requirements.lock
endif
	$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

reproduce: $(READY) ## both tables, end to end, into results/PROFILE (QUICK=1: rank 8, fewer rows; TABLES=1: from the records)
	$(if $(CELLS),$(error CELLS: for `make audit`; this takes RANKS, SEEDS, METHODS and PROTOCOL))
	@$(RUN) reproduce $(OPTIONS) $(CLUSTER) $(if $(call on,TABLES),--tables)

audit: $(READY) ## which of the paper's claims hold, into results/audit (QUICK=1; PROFILE=smollm2: runs on its data)
	$(foreach given,RANKS METHODS PROTOCOL PRECISION CHECKPOINTING TABLES,$(if $(call on,$(given)),$(error $(given): not for the audit, which takes CELLS, SEEDS, QUICK and WORKERS)))
	@$(RUN) audit $(if $(filter-out embedded,$(PROFILE)),--profile $(PROFILE)) $(if $(CELLS),--cells $(CELLS)) \
		$(if $(call on,QUICK),--quick) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(WORKERS),--workers $(WORKERS)) $(CLUSTER)

# of the files that tests read themselves; the package names the encoding
test test-slow test-quantised: export PYTHONUTF8 = 1

test: $(READY) ## the tests; no network, under four minutes (MIRROR=DIR: the real data too)
	$(TESTED) $(BIN)/python -m pytest -q

test-slow: $(READY) fetch $(EXTRAS) ## the longer tests, on the embedded model and on a real Slurm
	PYTHONPATH=$(EXTRAS) $(BIN)/python -m pytest -q -m slow tests .ci/slurm

# for one test, beside the environment: where they are installed transformers and PEFT load them always
$(EXTRAS): | $(READY)
	$(BIN)/python $(PIP) --no-deps --target $@ torchao==0.18.0 bitsandbytes==0.50.2

test-quantised: $(READY) $(EXTRAS) ## adapters over 4- and 8-bit weights, on a CPU
	PYTHONPATH=$(EXTRAS) $(BIN)/python -m pytest -q -m slow tests/test_quantised.py

test-library: ## the library alone, with the oldest transformers that it claims
	@test -x cache/library/bin/python || $(PYTHON) -m venv cache/library
	cache/library/bin/python $(PIP) torch==2.13.0 transformers==4.56.0 .
	cache/library/bin/python .ci/library_alone.py

oracle: $(READY) ## our runs beside the author's own code, number by number (AUTHOR=DIR: a clone of it; MIRROR=DIR)
	$(if $(AUTHOR),,$(error AUTHOR: names no folder; expected a clone of the author's repository, MNoorFawi/curlora))
	@test -x cache/oracle/bin/python || $(PYTHON) -m venv cache/oracle
	cache/oracle/bin/python $(PIP) torch==2.13.0 transformers==4.42.4 'numpy<2'
	$(MIRRORED) HF_HUB_OFFLINE=1 \
		$(BIN)/python results/reliability/oracle.py $(call absolute,$(AUTHOR)) cache/oracle/bin/python

rehearsal: $(READY) ## the paper's models' shapes with random weights through the whole command (MIRROR=DIR: its data)
	$(if $(MIRROR),,$(error MIRROR: names no folder; expected a copy of the paper's data sets))
	$(BIN)/python results/reliability/rehearsal.py $(call absolute,$(MIRROR))

# what makes the generated faults, beside the environment
cache/mutants: | $(READY)
	$(BIN)/python $(PIP) --target $@ cosmic-ray==8.7.0

mutants: $(READY) cache/mutants ## plant faults and see which the tests notice (SAMPLE=300, FRESH=1; MIRROR=DIR); hours
	$(TESTED) $(BIN)/python results/reliability/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(call on,FRESH),--fresh)

size: ## lines of code, and what they may be
	@$(PYTHON) .ci/size.py

fetch: $(READY) ## get and prepare ahead of time what PROFILE needs
	@$(RUN) fetch $(CHOSEN)

doctor: $(READY) ## what this machine has, and which profiles it can run
	@$(ASK) doctor

notebook: $(READY) ## open the notebooks in JupyterLab
	@$(SET) JUPYTER_PATH= JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -c 'from curlora_lite.replication import environment; environment.settle(); from jupyterlab.labapp import main; main(["--notebook-dir=.", "notebooks"])'

report: reproduce ## one HTML page of the executed notebooks
	@$(RUN) report $(OPTIONS)

verify: $(READY) ## compute some records of PROFILE again and compare (VERIFY=key,key or SHARE=0.2)
	@$(RUN) verify $(CHOSEN) $(if $(VERIFY),--keys $(VERIFY)) $(if $(SHARE),--share $(SHARE))

readme: $(READY) ## put the tables into the pages that show them
	@$(RUN) readme

bench: $(READY) ## speed and memory beside LoRA and others, into results/benchmarks (QUICK=1; TABLES=1: nothing measured)
	@$(RUN) bench $(if $(call on,QUICK),--quick) $(if $(call on,TABLES),--tables)

audit-deps: $(READY) ## known vulnerabilities of the locked versions, by pip-audit, where it can ask
	$(BIN)/python $(PIP) --target cache/audit pip-audit
	PYTHONPATH=cache/audit $(BIN)/python -m pip_audit -r requirements.lock --no-deps --disable-pip

lint: $(READY) ## check style
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

# cache/workspace stays: by this name the records in results/ are known to be of this checkout
clean: ## remove the environment, downloads and caches; results stay, and need not be computed again
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
	find cache -mindepth 1 -maxdepth 1 ! -name workspace -exec rm -rf {} + 2>/dev/null || true
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
