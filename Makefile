# Each target does the set-up it needs: a virtual environment with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# the oldest transformers that reads our native folders, to put before the other on PYTHONPATH
OLDEST = $(VENV)/transformers-4.57
# an environment of its own with the lower bounds of setup.py
LOWEST = $(VENV)/lowest
# transformers' own tests of models, which are in its source distribution
PEER_TESTS = $(VENV)/peer-tests
# what the benchmarks compare with, to put before the rest on PYTHONPATH
PEERS = $(VENV)/peers
# gradio, and what it needs beside the rest
GRADIO = gradio gradio_client hf-gradio brotli fastapi groovy httpcore httpx opentelemetry-api orjson \
	pydub python-multipart pytz safehttpx semantic-version starlette tomlkit uvicorn

.DEFAULT_GOAL := help
.PHONY: help demo test faults soak peer-tests test-slow test-gpu gpu test-oldest lint format cards help-texts oldest-transformers peers docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(STAMP)  ## pre-train a tiny model on scanned digits, into runs/demo
	rm -rf runs/demo
	$(BIN)/python scripts/run_mae.py scripts/recipes/pretrain/demo-digits.yaml

test: lint oldest-transformers peer-tests  ## what continuous integration runs, on two cores
	$(BIN)/python -m pytest tests -q -n 2 --dist worksteal --durations=10 \
		-m "not slow and not gpu and not campaign and not soak" --ignore tests/peers

faults: $(STAMP)  ## break runs in every way, and count what is lost, hangs, differs or is unclear: tens of minutes
	$(BIN)/python -m pytest tests/faults -q -n 2 --dist worksteal -m "not soak"

soak: $(STAMP)  ## half an hour of training, with memory and descriptors watched
	$(BIN)/python -m pytest tests/faults -q -m soak

peer-tests: $(PEER_TESTS)/.unpacked  ## our models under transformers' own tests of models
	$(BIN)/python -m pytest tests/peers -q -n 2 --dist worksteal -m "not slow"

test-slow: $(STAMP)  ## the long tests
	$(BIN)/python -m pytest tests -q -m slow

test-gpu: $(STAMP)  ## the tests that need a GPU
	$(BIN)/python -m pytest tests -q -m gpu

gpu:  ## all that a GPU is wanted for, in 25 minutes: checks, speed, memory, profiles; with any python that has torch
	PYTHONPATH=. $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) scripts/benchmark.py gpu

test-oldest: $(LOWEST)/.installed  ## models, conversion and a training on the lower bounds of setup.py
	$(LOWEST)/bin/python -m pytest tests/models tests/conversion \
		tests/scripts/test_run_mae.py::test_finished_folder -q -n 2 -m "not slow" -k "not 4.57"

cards: $(STAMP)  ## write model_cards/ and the tables of docs/
	$(BIN)/python scripts/make/write_cards.py

docs: $(STAMP)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

help-texts: $(STAMP)  ## write scripts/help/, what the scripts say to --help
	$(BIN)/python scripts/make/write_help.py

lint: $(STAMP)  ## ruff, and pyright on hf_mae and scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

oldest-transformers: $(OLDEST)/.installed  ## the oldest transformers that reads native folders

$(OLDEST)/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(OLDEST) \
		transformers==4.57.6 huggingface_hub==0.36.0 tokenizers==0.22.2
	touch $@

# as a package: one of them imports transformers from beside it, and finds the one that is installed
$(PEER_TESTS)/.unpacked: $(STAMP)
	mkdir -p $(PEER_TESTS)
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest $(PEER_TESTS) \
		"$$($(BIN)/python -m pip freeze | grep '^transformers==')"
	$(BIN)/python -m tarfile -e $(PEER_TESTS)/transformers-*.tar.gz $(PEER_TESTS)
	for tests in $(PEER_TESTS)/transformers-*/tests; do touch $$tests/__init__.py; done
	touch $@

peers: $(PEERS)/.installed  ## mmpretrain, lightly and stable-pretraining, for scripts/benchmark.py with PYTHONPATH=.venv/peers

# without their dependencies, which would replace torch; those that they import beside ours are named
$(PEERS)/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(PEERS) \
		mmpretrain==1.2.0 mmengine==0.10.7 mmcv-lite==2.2.0 lightly==1.6.0 lightly-utils==0.0.2 \
		importlib-metadata==8.5.0 opencv-python-headless==5.0.0.93 addict==2.4.0 einops mat4py==0.6.0 model-index==0.1.11 \
		modelindex==0.0.2 ordered-set==4.1.0 platformdirs pygments rich==15.0.0 termcolor==3.3.0 yapf==0.43.0 zipp==4.1.2 \
		stable-pretraining==0.1.8 lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 loguru==0.7.3 \
		omegaconf==2.4.0 antlr4-python3-runtime==4.9.3 tabulate==0.10.0 prettytable==3.18.0 hydra-core==1.3.8 \
		kornia==0.9.0 kornia-rs==0.2.0 requests-cache==1.3.3 cattrs==26.2.1 url-normalize==3.1.0
	touch $@

$(STAMP): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hf_mae needs Python 3.10 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[fast,test]
	# without its dependencies: it asks for Pillow below 13, and the pinned one is newer
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(GRADIO)
	touch $@

# pip takes the newest where it may; as constraints, the lower bounds are all that it may take
$(LOWEST)/.installed: setup.py
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	sed -n '/install_requires/,/\]/s/^ *"\([A-Za-z0-9_-]*\)>=\([0-9.]*\).*/\1==\2/p' setup.py > $(LOWEST)/lower-bounds.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/lower-bounds.txt --editable .[test]
	touch $@

clean:  ## remove the environments, runs/ and site/
	rm -rf $(VENV) runs site
