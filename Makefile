# make setup     a .venv with everything (about two minutes)
# make demo      merge, train, evaluate and time a step on generated scenes; all lands in ./work
# make study     each source alone and all together, two batch sizes, on the demo set
# make test      the quick tests        make test-all   the slow ones and the notebooks too
# make test-browser   notebooks 1 and 2 in JupyterLab in a real browser (about two minutes)
# make test-matrix    the tests with each generation of torch (an hour and a half)
# make lint      style, types, notebooks without outputs
# make wheel     dist/relaydet-*.whl    make badges  what names the repository
# make bench     what is measured, into benchmarks/
# make bench-train   a training step beside torchvision's reference loop (about five minutes)
# make fuzz      damaged files for every reader, ten minutes each (three and a half hours)
# make mutation  small mistakes in the code behind exact resume: do tests notice? (an hour)
# make gpu       what only a GPU can show, in nine minutes, into OUT (benchmarks/README.md)
# make chaos     220 faults, on a folder and on a bucket, and teams of ranks (about twenty minutes)

PYTHON ?= python3
STORE ?= work
BIN := .venv/bin
# papermill writes what a notebook prints to a file; a pipe shows it as it comes.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
NOTEBOOKS := 1_merge_data 2_train 3_evaluate 4_compare_gpus

.PHONY: setup demo study test test-all test-browser test-matrix wheel badges lint bench bench-train gpu chaos mutation fuzz clean

setup: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	@echo "Installing into .venv (about two minutes, most of it torch) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	@mkdir -p $(STORE)/notebooks
	@for name in $(NOTEBOOKS); do \
	  $(BIN)/papermill notebooks/$$name.ipynb $(STORE)/notebooks/$$name.ipynb \
	    --parameters STORE $(STORE) --no-progress-bar --log-level ERROR \
	    --stdout-file /dev/stdout | cat || exit 1; \
	done
	@echo
	@echo "Report:              $(STORE)/comparisons/demo/report.html"
	@echo "Weights, log:        $(STORE)/runs/demo"
	@echo "Time per batch:      $(STORE)/benchmarks/speed.jsonl"
	@echo "Datasets, drawn:     $(STORE)/datasets/demo, $(STORE)/datasets/demo_heldout"
	@echo "Executed notebooks:  $(STORE)/notebooks"

# The study on the demo set: six runs, about 45 minutes on two cores; goes on where it was stopped.
study: setup
	$(BIN)/relaydet merge --store $(STORE)
	$(BIN)/relaydet study --store $(STORE)

test: setup
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser"

test-all: setup
	$(BIN)/python -m pytest -m "not browser"
	$(BIN)/python -m pytest --nbval-lax --nbval-cell-timeout=1200 notebooks/*.ipynb

test-browser: setup
	$(BIN)/python tests/browser/install.py
	$(BIN)/python -m pytest -m browser tests/browser

# One virtual environment at a time, 5 GB each, removed afterwards; about an hour and a half.
test-matrix: setup
	$(BIN)/python tests/matrix --out benchmarks/test_matrix.md

# The wheel to attach where there is no internet.
wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/relaydet-*.whl

# The first cell of each notebook and the README's badges, from the repository that pyproject names.
badges: setup
	$(BIN)/python notebooks/bootstrap.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/notebooks/check_stripped.py notebooks/*.ipynb
	$(BIN)/python notebooks/bootstrap.py --check

bench: setup
	$(BIN)/python benchmarks/merge_speed.py
	$(BIN)/python benchmarks/file_check_speed.py
	$(BIN)/python benchmarks/checkpoint_cost.py
	$(BIN)/python benchmarks/score_speed.py
	$(BIN)/python benchmarks/inference_speed.py
	$(BIN)/python benchmarks/loader_speed.py
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/ranks_speed.py
	$(BIN)/python benchmarks/scaling.py

bench-train: setup
	$(BIN)/python benchmarks/train_speed.py --parts

# Without setup: such a machine may have no internet, and brings its own torch.
gpu:
	$(PYTHON) benchmarks/gpu_session.py

chaos: setup
	$(BIN)/python tests/chaos --faults 220 --seed 3 --out benchmarks/chaos.md
	$(BIN)/python tests/chaos/teams.py --legs 16 --seed 4 --out benchmarks/chaos_teams.md

mutation: setup
	$(BIN)/python tests/mutation --mutants 70 --seed 1 --out benchmarks/mutation.md

fuzz: setup
	$(BIN)/python tests/fuzz --minutes 10 --out benchmarks/fuzz.md

clean:
	rm -rf .venv work
