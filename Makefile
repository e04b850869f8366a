# Everything a contributor runs. Needs Python >= 3.11, make and a package index.

PYTHON ?= python3
LOCK := deploy/requirements/dev.txt
BIN := .venv/bin
STAMP := .venv/made

.PHONY: help env demo test check chaos kafka format proto bench monitoring soak lock clean

help:
	@echo 'make env               .venv from the pinned, hashed requirements'
	@echo 'make demo [SERVE=1]    the whole path on real events; SERVE=1 leaves it running'
	@echo 'make test [ARGS=...]   the tests'
	@echo 'make check             ruff, mypy --strict, import-linter, deptry'
	@echo 'make bench NAME=...    one benchmark beside its yardstick; FULL=1 for its full size'
	@echo 'make chaos [KILLS=500] real processes killed at random for about an hour; goes on where it stopped;'
	@echo '                       then slow, lossy, silent links, full disks and the like (tests/chaos/experiments)'
	@echo 'make soak [SECONDS=3600] an hour of mixed load: flat memory and latency, no error, rows equal the recount'
	@echo 'make kafka             the jars of Apache Kafka that tests run (needs Java and Maven)'
	@echo 'make format            ruff, with its fixes'
	@echo 'make proto             the Python of ranker/v1/ranker.proto'
	@echo 'make monitoring        alert rules and dashboards, from deploy/monitoring'
	@echo 'make lock              the requirements anew, from pyproject.toml'
	@echo 'make clean             removes .venv and what the tools left'

env: $(STAMP)

# Output goes to stderr: `make -s bench` prints the benchmark and nothing else, even the first time.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Headrace needs Python 3.11 or newer and '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name another one: make env PYTHON=python3.12" >&2; exit 1; }
	@echo "making .venv from $(LOCK), a few minutes the first time" >&2
	@$(PYTHON) -m venv .venv >&2 || { \
	  echo "$(PYTHON) has no venv module (on Debian: apt-get install python3-venv)." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK) >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable . >&2
	@touch $(STAMP)

demo: env
	@$(BIN)/headrace demo $(if $(SERVE),--serve)

test: env
	@$(BIN)/pytest $(ARGS)

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

kafka: env
	@$(BIN)/python -m tests.kafka_server

# Rounds that are done stand in .headrace-chaos/progress.jsonl: remove it to start anew.
chaos: env
	$(BIN)/python -m tests.chaos.simulator --seeds 20000
	HEADRACE_TEST_LONG=1 $(BIN)/pytest -q -k back_pressure tests
	$(BIN)/python -m tests.chaos.real --kills $(or $(KILLS),500) --resume
	$(BIN)/python -m tests.chaos.laboratory $(EXPERIMENTS)

# Leaves its picture in .headrace-soak, beside the checkout's other leavings.
soak: env
	$(BIN)/python -m tests.chaos.soak --seconds $(or $(SECONDS),3600)

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: env
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. ranker/v1/ranker.proto

bench: env
	@FULL=$(FULL) $(BIN)/python -m tests.benchmarks $(NAME)

monitoring: env
	@$(BIN)/python -m deploy.monitoring

lock: env
	$(BIN)/uv pip compile --universal --fork-strategy fewest --python-version 3.11 --all-extras \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url --quiet $(LOCK_ARGS) \
	  --output-file $(LOCK) pyproject.toml
	@if grep -n '://' $(LOCK); then echo "$(LOCK) names a host" >&2; exit 1; fi

clean:
	rm -rf .venv .headrace .headrace-chaos .headrace-soak .kafka .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
