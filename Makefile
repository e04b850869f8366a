# Everything a contributor runs. Needs Python >= 3.11, make and a package index.

PYTHON ?= python3
LOCKS := deploy/requirements
LOCK := $(LOCKS)/dev.txt
BIN := .venv/bin
STAMP := .venv/made

.PHONY: help aws-test cluster-test env demo helm scaling test check chaos kafka image image-arm64 format proto bench monitoring soak lock clean

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
	@echo 'make aws-test          the AWS stack, synthesised and judged offline (needs Node)'
	@echo 'make cluster-test      the chart in a real API server, over simulated nodes (needs Go and etcd; builds 20 min once)'
	@echo 'make helm              Helm for the tests of the chart'
	@echo 'make scaling [PLOT=..] days of load under the scaling rules of the chart, drawn'
	@echo 'make image             the container image, built and run (needs buildah, podman, runc, debootstrap)'
	@echo 'make image-arm64       the same for arm64, emulated, against the results of this machine (and qemu-user-static)'
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

# The image, built and run without a container engine: Debian, root, some minutes the first time.
image: env
	deploy/image/build.sh amd64
	HEADRACE_TEST_IMAGE=localhost/headrace:amd64 $(BIN)/pytest -q -s tests/e2e/test_image.py

# The same for arm64, emulated: what it computes is compared with this machine's, to the bit. Half an
# hour, most of it compiling kernels.
image-arm64: env
	deploy/image/build.sh arm64
	HEADRACE_TEST_IMAGE_ARM64=localhost/headrace:arm64 $(BIN)/pytest -q -s tests/e2e/test_image_arm64.py
	HEADRACE_TEST_IMAGE=localhost/headrace:arm64 HEADRACE_TEST_IMAGE_ITEMS=1000 \
	  $(BIN)/pytest -q -s tests/e2e/test_image.py

# The AWS stack, synthesised and judged offline; needs Node. Half a gigabyte, in an environment of its own.
aws-test: .venv-aws/made
	JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=1 .venv-aws/bin/python -m pytest -q \
	  -c tests/aws/pytest.ini --rootdir . --confcutdir tests/aws tests/aws

.venv-aws/made: $(LOCKS)/aws-stack.txt
	$(PYTHON) -m venv .venv-aws
	.venv-aws/bin/python -m pip install --quiet --require-hashes -r $(LOCKS)/aws-stack.txt
	touch .venv-aws/made

# Rollout, rollback, drain and scaling of the chart, in a control plane that is built once.
cluster-test: helm
	$(BIN)/python -m tests.kubernetes.cluster.binaries
	HEADRACE_TEST_CLUSTER=1 $(BIN)/pytest -q -s tests/kubernetes/test_cluster.py

# Helm, at the version that the tests of the chart are for.
helm: env
	@$(BIN)/python -m tests.helm

# How the chart's rules scale through days of load: lag, latency and cost, drawn.
scaling: env
	$(BIN)/python -m tests.kubernetes.scaling $(or $(PLOT),scaling.png)

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: env
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. ranker/v1/ranker.proto

bench: env
	@FULL=$(FULL) $(BIN)/python -m tests.benchmarks $(NAME)

monitoring: env
	@$(BIN)/python -m deploy.monitoring

# dev.txt: a contributor's. image.txt: what the image runs, in the same versions. image-tools.txt:
# what builds it and stays behind.
COMPILE = $(BIN)/uv pip compile --universal --fork-strategy fewest --python-version 3.11 \
  --generate-hashes --no-annotate --no-header --no-emit-index-url --quiet $(LOCK_ARGS)

lock: env
	$(COMPILE) --all-extras --output-file $(LOCK) pyproject.toml
	$(COMPILE) --extra aws --extra neighbours --constraint $(LOCK) \
	  --output-file $(LOCKS)/image.txt pyproject.toml
	$(COMPILE) --group pyproject.toml:image --output-file $(LOCKS)/image-tools.txt
	$(COMPILE) --group pyproject.toml:aws-stack --output-file $(LOCKS)/aws-stack.txt
	@if grep -n '://' $(LOCKS)/*.txt; then echo "a lock names a host" >&2; exit 1; fi

clean:
	rm -rf .venv .venv-aws .helm .kubernetes .headrace .headrace-chaos .headrace-soak .kafka .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
