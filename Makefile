# `make demo` and `make test` do all the set-up themselves, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto

.PHONY: check clean demo exactness lint test test-slow

$(VENV)/.run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements-import.txt $(VENV)/.run
	$(BIN)/pip install --quiet -r requirements-dev.txt \
	  -r requirements-import.txt
	touch $@

demo: $(VENV)/.run  ## train the quickstart, evaluate it, write pictures
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m deeplab_jax.main \
	  --config configs/quickstart.py --workdir runs/quickstart

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint  ## lint, and the tests of seconds: to run after every change
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not compiles" \
	  --longest 10

test: lint  ## what continuous integration runs
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

exactness: $(VENV)/.dev  ## worst errors against the official outputs, in docs/
	$(BIN)/python -m pytest -n 0 -m "slow or not slow" \
	  --exactness docs/exactness.md $$(grep -l exactness tests/test_*.py)

test-slow: lint  ## the checks that take minutes each
	$(BIN)/python -m pytest -n 1 -m slow

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
