# make demo   the main job on a drawn data set: search the supernet that comes with the package, fine-tune, compare
# make test   lint, types, all tests
# make guide  the commands of docs/guide, on real images: DATA=folder of animals_voc and camvid_cityscapes
# Each first sets up .venv, once. PYTHON=... picks the interpreter; PYTEST=..., DEMO=... and GUIDE=... pass arguments on.

PYTHON ?= $(shell for python in python3.11 python3 python; do $$python -c '' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

.PHONY: demo guide test lint types unit set-up detectron2

demo: set-up
	@$(BIN)/data-demo --out runs/demo $(DEMO)

guide: set-up
	@test -n "$(DATA)" || { echo "name the folder that holds animals_voc and camvid_cityscapes: make guide DATA=FOLDER" >&2; exit 1; }
	@$(BIN)/python scripts/run_guide.py --data "$(DATA)" $(GUIDE)

test: lint types unit

lint: set-up
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow setup.py's folder mapping, so it reads the package as setup.py lays it out.
types: set-up
	@rm -rf build/types
	@$(BIN)/python setup.py --quiet build_py --build-lib build/types
	$(BIN)/mypy build/types/data_plugin scripts

# The tests' networks are too small for several threads, so a core runs tests of its own. Threads that spin while they wait
# slow the tests down many times over where anything else runs.
unit: export OMP_NUM_THREADS ?= 1
unit: export OMP_WAIT_POLICY ?= PASSIVE
unit: set-up
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --durations=10 $(PYTEST)

set-up:
	@test -n "$(PYTHON)" || { echo "No Python was found; install Python 3.11, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) scripts/set_up.py --then "make $(MAKECMDGOALS)"

# Adds detectron2 where the set-up left it out.
detectron2:
	@$(PYTHON) scripts/set_up.py --retry detectron2 --then "make $(MAKECMDGOALS)"
