# `make demo` and `make test` do all the set-up themselves, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One more than there are cores, as some tests wait for what they have started.
WORKERS ?= $$($(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
NEWEST := $(VENV)-newest
CHECK := -m pytest -n $(WORKERS) -m "not slow and not compiles"
TEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# uv takes a fraction of the time of pip, which reads settings that uv does not,
# such as those of a mirror: what uv cannot install is installed by pip.
define install
-$(BIN)/pip install --quiet "uv>=0.9,<1"
$(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || \
  $(BIN)/pip install --quiet $(1)
endef

.PHONY: check check-newest clean demo exactness lint test test-newest test-slow

$(VENV)/.run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,-r requirements.txt)
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements-import.txt \
  requirements-export.txt $(VENV)/.run
	$(call install,-r requirements-dev.txt -r requirements-import.txt \
	  -r requirements-export.txt)
	touch $@

demo: $(VENV)/.run  ## train the quickstart, evaluate it, write pictures
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m deeplab_jax.main \
	  --config configs/quickstart.py --workdir runs/quickstart

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint  ## lint, and the tests of seconds: to run after every change
	$(BIN)/python $(CHECK) --longest 10

test: lint  ## all but the slowest tests
	$(BIN)/python $(TEST)

# The newest Python that uv finds or can fetch and that all packages install for,
# with the newest packages that the requirements allow.
$(NEWEST)/.dev: requirements.txt requirements-dev.txt requirements-import.txt \
  requirements-export.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "uv>=0.9,<1"
	export PATH="$$PATH:$$(echo $$HOME/.pyenv/versions/*/bin | tr ' ' :)"; \
	for python in 3.14 3.13 3.12; do \
	  $(BIN)/uv venv --quiet --clear --python $$python $(NEWEST) && \
	  $(BIN)/uv pip install --quiet --python $(NEWEST) \
	    -r requirements.txt -r requirements-dev.txt \
	    -r requirements-import.txt -r requirements-export.txt && \
	  touch $@ && break; \
	done
	test -e $@

check-newest: $(NEWEST)/.dev  ## `check` on today's Python and packages
	$(NEWEST)/bin/python $(CHECK)

test-newest: $(NEWEST)/.dev  ## `test` on today's Python and packages
	$(NEWEST)/bin/python $(TEST)

exactness: $(VENV)/.dev  ## worst errors against the official outputs, in docs/
	$(BIN)/python -m pytest -n 0 -m "slow or not slow" \
	  --exactness docs/exactness.md $$(grep -l exactness tests/test_*.py)

test-slow: lint  ## the checks that take minutes each
	$(BIN)/python -m pytest -n 1 -m slow

clean:
	rm -rf $(VENV) $(NEWEST) runs .pytest_cache .ruff_cache
