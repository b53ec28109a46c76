# Peili's commands. `make demo` and `make test` install all that they need and want nothing before them
# but git, make, python3 and python3-venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests and benchmarks start hundreds of nodes: none is to compile our modules again, as all would where
# PYTHONDONTWRITEBYTECODE is set. The image's are compiled, too.
COMPILE := $(BIN)/python -m compileall -q src

.PHONY: dist image chart demo test bench check unit fuzz lock clean

$(VENV)/.run: requirements/run.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements/run.txt
	$(BIN)/pip install -q --no-deps -e .
	touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.run
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements/test.txt
	touch $@

demo: $(VENV)/.run  ## a whole cluster on this machine; KEEP=1 leaves it running
	$(BIN)/peili demo $(if $(KEEP),--keep)

test: $(VENV)/.test  ## all that CI runs: linters, types, import rules, unit, property and integration tests
	$(PYTHON) tests/integration/install.py
	$(PYTHON) tests/chart/install.py
	$(MAKE) check
	$(COMPILE)
	tests/run.sh $(BIN)

bench: $(VENV)/.test  ## every figure of docs/performance.md; BENCH="warm-pull --quick --json FILE" chooses
	$(PYTHON) tests/integration/install.py
	$(COMPILE)
	$(BIN)/python -m benchmarks $(BENCH)

check: $(VENV)/.test  ## linters, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.test  ## everything that needs neither root nor containerd
	$(BIN)/pytest -m "not containerd"

dist: $(VENV)/.test  ## wheel and sdist, into dist/
	$(BIN)/python deploy/dist.py

image: $(VENV)/.test  ## the container image, without an image registry; as root, with Debian's mmdebstrap
	$(BIN)/python deploy/build_image.py

chart:  ## the chart's package, into dist/, with the helm of the tests or your own
	$(PYTHON) tests/chart/install.py
	PATH="$${PEILI_TEST_CACHE:-/var/cache/peili-test}/bin:$$PATH" helm package charts/peili --destination dist

fuzz: $(VENV)/.test  ## every parser and state machine for long: FUZZ times as many examples as `make test`
	PEILI_FUZZ=$(or $(FUZZ),50) $(BIN)/pytest tests/properties -x

lock: $(VENV)/.test  ## pin again, with hashes, from requirements/*.in
	$(BIN)/pip install -q uv
	for set in run test node; do $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header requirements/$$set.in -o requirements/$$set.txt; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*
