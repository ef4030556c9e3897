# make demo    from a fresh clone to a fitted model and its scores
# make test    from a fresh clone to every check passed
# make clean   remove what the other targets made
#
# PYTHON=python3.12 make …    another interpreter (3.11 or later) for .venv
# TORCH=torch==2.13.0+cu126 make …    another build of torch, where pip finds it

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready
DEMO := runs/demo

.PHONY: setup demo test clean

setup: $(READY)

# torch first and alone: a build that was chosen above stays when the rest is installed.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt '$(TORCH)'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(DEMO)/data/tasks.yaml: $(READY) $(wildcard demo/*.py)
	$(BIN)/python demo/harvest.py --out $(DEMO)/data

demo: $(DEMO)/data/tasks.yaml
	$(BIN)/taskheads fit $(DEMO)/data/tasks.yaml --tune frozen --out $(DEMO)/model
	@echo '  $(BIN)/taskheads check $(DEMO)/data/tasks.yaml'
	@echo '  $(BIN)/taskheads fit $(DEMO)/data/tasks.yaml --minutes 10 --out runs/tuned'
	@echo '  $(BIN)/taskheads fit your_file.csv --out runs/first'

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

clean:
	rm -rf .venv $(DEMO) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
	find benchmarks demo src tests -name __pycache__ -type d -prune -exec rm -rf {} +
