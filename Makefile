# Everything a person or CI runs. Each target makes what it needs; `make demo` and `make test` work on a bare machine with
# Python 3.11-3.13 and make. PYTHON=python3.12 picks the interpreter, ARGS="…" goes to the program that a target runs.
SHELL := /bin/sh
.DEFAULT_GOAL := help
python := .venv/bin/python
code := daemon tests bench
T := tests/unit

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Everything on this machine with nothing installed: a task of each kind, from signed call to streamed answer
	@requirements/install demo
	@$(python) -m daemon demo $(ARGS)

.PHONY: test
test: setup ## All tests, on a real Redis and a real Postgres that the suite starts itself
	@rm -f .coverage .coverage.*
	@$(python) -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90 $(ARGS)

.PHONY: t
t: setup ## A part of the tests in seconds, without coverage: T=tests/unit/pipeline, T="tests/unit -k fence"
	@$(python) -m pytest $(T) $(ARGS)

.PHONY: check
check: setup ## Format, lint (Python, Lua), strict types, import direction, sizes, generated files
	@$(python) -m ruff format --check --quiet $(code) || { echo 'make format puts that right'; exit 1; }
	@$(python) -m ruff check --quiet $(code)
	@$(python) -m mypy $(code)
	@.venv/bin/lint-imports --no-logo
	@requirements/luacheck --quiet --no-color daemon
	@$(python) -m pytest -q --no-header tests/rules

.PHONY: format
format: setup ## Puts right what ruff can put right by itself
	@$(python) -m ruff check --quiet --fix-only $(code)
	@$(python) -m ruff format $(code)

.PHONY: setup
setup: ## Just the .venv, with everything for development
	@requirements/install dev

.PHONY: bench
bench: setup ## Measures everything beside peers and limits into bench/results/; ARGS="drain accept --quick"
	@requirements/install bench
	@$(python) -m bench $(ARGS)

.PHONY: bench-check
bench-check: setup ## Whether speed is what it was, as ratios to the raw loop of the same minute
	@$(python) -m bench.check

.PHONY: chaos
chaos: setup ## The long suites whole: kills, pauses and cuts, then a checker reads the history
	@$(python) -m pytest --whole --timeout=3600 tests/chaos tests/e2e tests/integration/lua/test_any_order.py $(ARGS)

.PHONY: fuzz
fuzz: setup ## 100,000 calls that nobody would send on purpose, at every door; then schemathesis on the OpenAPI description
	@requirements/install fuzz
	@$(python) -m pytest --whole -s tests/fuzz $(ARGS)

.PHONY: mutate
mutate: setup ## Breaks one rule at a time; each break must turn a test red, and the same course unbroken stays green
	@$(python) -m pytest --whole -v tests/chaos/test_checker.py tests/integration/lua/test_mutants.py $(ARGS)

.PHONY: soak
soak: setup ## Half an hour of steady load: memory, connections, tasks, consumers and keys do not grow; ARGS=--minutes=5
	@$(python) -m pytest --whole --minutes=30 -s tests/chaos/test_steady.py $(ARGS)

.PHONY: lock
lock: setup ## Resolves pyproject.toml into requirements/*.lock; ARGS=--upgrade takes newer versions
	@requirements/lock $(ARGS)

.PHONY: clean
clean: ## Removes .venv and every cache
	@rm -rf .venv .venv-fuzz .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
