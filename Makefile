# `make demo` and `make test` do everything on a fresh machine; both start from nothing and may be repeated.
PYTHON ?= python3
# On Linux the default index brings torch with CUDA (2.5 GB). A CPU-only index may be named here:
# make demo PIP_ARGS="--extra-index-url https://..."
PIP_ARGS ?=
BIN := .venv/bin
CHECKS := ruff-check mypy imports

.PHONY: demo test test-slow check $(CHECKS) clean

demo: .venv/installed
	@echo "== Loading the sample: fictional calls of 18 firms in two quarters"
	$(BIN)/ftm ingest sample/earnings_calls.csv
	@echo "== Sentences, topics and summaries of each firm, then the themes of the quarter"
	$(BIN)/ftm backfill 2024Q1
	$(BIN)/ftm backfill 2024Q2
	@echo "== What came out"
	$(BIN)/ftm status
	$(BIN)/ftm themes 2024Q1 --examples 1
	$(BIN)/ftm themes 2024Q2 --examples 1
	@echo "== The first quarter as a page; open it in a browser"
	$(BIN)/ftm report 2024Q1
	@echo "== Next: look closer, use the Dagster UI, or load calls of your own"
	@echo "  $(BIN)/ftm topics 2024Q1 wexcombe        topics of a firm, each with its theme"
	@echo "  $(BIN)/ftm sentences theme_2024Q1_001    down from a theme to its sentences"
	@echo "  $(BIN)/ftm up                            the Dagster UI on http://127.0.0.1:3000"
	@echo "  $(BIN)/ftm ingest YOUR_CALLS.csv         columns as in README.md"
	@echo '  psql "$$($(BIN)/ftm db)"                  SQL on the same tables'

test: .venv/installed check
	$(BIN)/pytest --cov --cov-report=term --numprocesses=2 --dist=loadscope

test-slow: .venv/installed
	$(BIN)/pytest -m slow --timeout=900 -v

check: $(CHECKS)

ruff-check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy: .venv/installed
	$(BIN)/mypy

imports: .venv/installed
	$(BIN)/lint-imports

.venv/installed: pyproject.toml constraints.txt
	@echo "== Installing the pinned packages into .venv (torch alone is 200 MB and more)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache
