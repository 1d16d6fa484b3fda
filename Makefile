# `make demo` and `make test` do everything on a fresh machine; both start from nothing and may be repeated.
PYTHON ?= python3
# On Linux the default index brings torch with CUDA (2.5 GB). A CPU-only index may be named here:
# make demo PIP_ARGS="--extra-index-url https://..."
PIP_ARGS ?=
# make demo LLM=simulated shows what a language model adds, with a fake one whose replies mean nothing.
LLM ?=
SIMULATED_PORT ?= 8123
SIMULATED := FTM_LLM_BASE_URL=http://127.0.0.1:$(SIMULATED_PORT)/v1 FTM_LLM_MODEL=simulated-1 FTM_LLM_API_KEY=none
# make test COVERAGE=yes, as CI has it, also fails below 85 %; counting lines takes a fifth more time.
COVERAGE ?=
ifneq ($(filter-out yes,$(COVERAGE)),)
$(error COVERAGE=$(COVERAGE) is not known; COVERAGE=yes is)
endif
BIN := .venv/bin
CHECKS := ruff-check mypy imports

.PHONY: demo demo-simulated test fast-tests test-slow check $(CHECKS) cloud-tools clean

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
	@echo '  $(BIN)/ftm search "delays at the port"   by meaning'
	@echo "  $(BIN)/ftm up                            the Dagster UI on http://127.0.0.1:3000"
	@echo "  $(BIN)/ftm ingest YOUR_CALLS.csv         columns as in docs/transcripts.md"
	@echo '  psql "$$($(BIN)/ftm db)"                  SQL on the same tables'
ifeq ($(LLM),simulated)
	@echo "== SIMULATED from here on: a fake language model makes its replies of the words in the request"
	@$(BIN)/python -m devtools.fake_openai --port $(SIMULATED_PORT) --latency 0 >/dev/null & server=$$!; \
	trap "kill $$server" EXIT; env $(SIMULATED) $(MAKE) --no-print-directory demo-simulated
else ifneq ($(LLM),)
	$(error LLM=$(LLM) is not known; LLM=simulated is, and a real one is named by FTM_LLM_MODEL, as docs/language-model.md says)
endif

demo-simulated:
	@echo "== What its summaries would take and cost, before anything is sent"
	$(BIN)/ftm cost 2024Q1
	@echo "== Summaries of keywords are written again, SIMULATED; topics and themes stay as they are"
	$(BIN)/ftm backfill 2024Q1 --upgrade-summaries
	@echo "== Who wrote what, and what it took"
	$(BIN)/ftm status 2024Q1
	$(BIN)/ftm topics 2024Q1 wexcombe
	$(BIN)/ftm themes 2024Q1 --examples 0

# On two cores. Tests wait now and then, for a clock or a process, so there are more of them than cores, with the checks
# beside them. The tests of a file are of one process (loadscope): they share what takes long to make.
test: .venv/installed
	@$(MAKE) --no-print-directory --jobs=2 fast-tests check

fast-tests: .venv/installed
	$(BIN)/pytest $(if $(COVERAGE),--cov --cov-report=term) --numprocesses=4 --dist=loadscope

# Those that have a clock or a browser come first, with the machine for themselves.
test-slow: .venv/installed
	@$(BIN)/pytest -m "slow and alone" --timeout=900 -vv; alone=$$?; \
	$(BIN)/pytest -m "slow and not alone" --timeout=900 -vv --numprocesses=3 --dist=loadscope && exit $$alone

check: $(CHECKS)

ruff-check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy: .venv/installed
	$(BIN)/mypy

imports: .venv/installed
	$(BIN)/lint-imports

# The AWS command line, shellcheck and a policy scanner: for scripts/ and terraform/, and the tests of both.
# Decision 104: tools of the cloud have an environment of their own.
cloud-tools: .venv-cloud/installed

.venv-cloud/installed: cloud-requirements.txt
	$(PYTHON) -m venv .venv-cloud
	.venv-cloud/bin/pip install --quiet --disable-pip-version-check --no-deps -r cloud-requirements.txt
	@touch $@

.venv/installed: pyproject.toml constraints.txt
	@echo "== Installing the pinned packages into .venv (torch alone is 200 MB and more)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-cloud build *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache
