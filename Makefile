# Each target does the set-up it needs: a virtual environment with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# the oldest transformers that reads our native folders, to put before the other on PYTHONPATH
OLDEST = $(VENV)/transformers-4.57
# what the benchmarks compare with, to put before the rest on PYTHONPATH
PEERS = $(VENV)/peers

.PHONY: demo test test-slow test-gpu lint format cards oldest-transformers peers clean

demo: $(STAMP)  ## pre-train a tiny model on scanned digits, into runs/demo
	rm -rf runs/demo
	$(BIN)/python scripts/run_mae.py scripts/recipes/pretrain/demo-digits.yaml

test: lint oldest-transformers  ## what continuous integration runs, on two cores
	$(BIN)/python -m pytest tests -q -n 2 -m "not slow and not gpu" --durations=10

test-slow: $(STAMP)  ## the long tests
	$(BIN)/python -m pytest tests -q -m slow

test-gpu: $(STAMP)  ## the tests that need a GPU
	$(BIN)/python -m pytest tests -q -m gpu

cards: $(STAMP)  ## write model_cards/ and the README's tables
	$(BIN)/python scripts/make/write_cards.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

oldest-transformers: $(OLDEST)/.installed

$(OLDEST)/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(OLDEST) \
		transformers==4.57.6 huggingface_hub==0.36.0 tokenizers==0.22.2
	touch $@

peers: $(PEERS)/.installed  ## mmpretrain and lightly: PYTHONPATH=.venv/peers .venv/bin/python scripts/benchmark.py train --compare

# without their dependencies, which would replace torch; those that they import beside ours are named
$(PEERS)/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(PEERS) \
		mmpretrain==1.2.0 mmengine==0.10.7 mmcv-lite==2.2.0 lightly==1.6.0 lightly-utils==0.0.2 \
		importlib-metadata==8.5.0 opencv-python-headless==5.0.0.93 addict==2.4.0 einops mat4py==0.6.0 model-index==0.1.11 \
		modelindex==0.0.2 ordered-set==4.1.0 platformdirs pygments rich==15.0.0 termcolor==3.3.0 yapf==0.43.0 zipp==4.1.2
	touch $@

$(STAMP): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hf_mae needs Python 3.10 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[fast,test]
	touch $@

clean:
	rm -rf $(VENV) runs
