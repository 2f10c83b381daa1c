# Everything a newcomer runs. Needs only Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# Every process that tests start imports the same modules: compiled once, they are read from then on.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin

.PHONY: demo test test-slow setup style check docs bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/sama demo --out demo

test: setup
	$(BIN)/python -m pytest -n $(JOBS)

test-slow: setup
	$(BIN)/python -m pytest -n $(JOBS) -m slow

style: setup
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

docs: setup
	$(BIN)/mkdocs build --strict

bench: setup
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) demo site build dist *.egg-info src/*.egg-info
