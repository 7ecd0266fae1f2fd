# `make` alone lists the targets. `make demo` and `make test` set up all that they need, on a machine that has Rust
# (https://rustup.rs) and Python 3.10 or newer: an environment in .venv, the locked packages, the engine.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV    := .venv
BIN     := $(VENV)/bin
# The stamps lie in the environment: whoever removes it removes them too.
DEPS    := $(VENV)/.stamp-deps
CORE    := $(VENV)/.stamp-core
# How everything is built: `fast` skips link-time optimisation. One profile for the package, the lints and the tests, so that
# what the engine stands on is compiled once. Benchmarks measure `release`, as wheels are built, unless PROFILE is given:
# a package of its own, so that tests and benchmarks never take each other's.
PROFILE ?= fast
MEASURED := $(if $(filter file,$(origin PROFILE)),release,$(PROFILE))
BUILT   := target/bench/$(MEASURED)
BENCHED := $(BUILT)/.stamp
MEASURE := PYTHONPATH=$(CURDIR)/$(BUILT) $(BIN)/python
# In tests our own code checks what it asserts, and every sum. It is optimised a little: the simulation takes half the time.
CARGO_TEST := cargo test --locked --profile $(PROFILE) --features kafka,s3 \
  $(foreach set,debug-assertions=true overflow-checks=true opt-level=1,--config profile.$(PROFILE).package.penstock.$(set))
# maturin tells PyO3's build script about the wheel, clippy does not: each has its own, else each undoes the other's.
CARGO_LINT := cargo clippy --locked --profile $(PROFILE) --config profile.$(PROFILE).package.pyo3-ffi.opt-level=1
# How many tests of the package run at a time (0: in one process, and what they print is seen): most wait for a server.
PYTEST_JOBS ?= 4
EVENTS  ?= 100000
JOBS    ?= 2

# The newest Python at hand that is new enough (an environment made before keeps the one that it has).
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11 python3.10 python,\
  $(shell $(p) -c 'import sys; print("$(p)") if sys.version_info >= (3, 10) else sys.exit(1)' 2>/dev/null)))
# uv, where it is there and works; else one of our own, put beside the environment.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)

# No Python of uv's own: the environment is that of the Python found above.
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(VENV)
# Compiled once here, so that no command or test compiles its packages again.
export UV_COMPILE_BYTECODE := 1
# One interpreter for every build of the bindings, so that cargo does not build them again.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
# What cargo calls our library follows from its features then: else the tests and the package, which have not the same ones,
# would write one file, and each would be compiled anew after the other.
export __CARGO_DEFAULT_LIB_METADATA := penstock

##@ See it work
.PHONY: demo
demo: $(CORE) ## Events with flaws → lake, warehouse, marts, checks, and a ledger for every event (EVENTS=100000)
	$(BIN)/penstock demo ecommerce --dir demo --events $(EVENTS)

##@ Work on it
.PHONY: setup
setup: $(CORE) ## Make the environment in .venv and build the engine into it (the other targets do this themselves)

.PHONY: test
test: test-rust test-python ## All tests: the engine's own, then those of the package

.PHONY: test-rust
test-rust: $(DEPS) ## The engine's tests alone
	$(CARGO_TEST)

.PHONY: test-python
# Servers that come from PyPI are installed by the same uv.
test-python: $(CORE) ## The package's tests alone (ARGS="-k cli" picks some)
	PATH="$(dir $(abspath $(UV))):$$PATH" $(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadgroup $(ARGS)

.PHONY: soak
soak: $(CORE) oldest-airflow ## For hours: ten million keys in 64 MiB; runs killed at random (KILLS=5000); a storm (STORM=3600 s)
	$(CARGO_TEST) --test spill -- --ignored --nocapture
	PENSTOCK_KILLS=$${KILLS:-5000} $(BIN)/python -m pytest tests/test_crash.py -k random -s --timeout 0 $(ARGS)
	$(UV) pip install --quiet --python $(BIN)/python "pyspark>=4.0"
	PENSTOCK_STORM_SECONDS=$${STORM:-3600} $(BIN)/python -m pytest -m soak -s --timeout 0 $(ARGS)

.PHONY: oldest-airflow
oldest-airflow: $(CORE) ## The tests of operators, DAGs and sensor with the oldest Airflow that is supported
	$(UV) venv --quiet --allow-existing --python $(BIN)/python target/oldest-airflow
	$(UV) pip install --quiet --python target/oldest-airflow/bin/python -r tests/airflow/oldest.txt
	PYTHONPATH=python target/oldest-airflow/bin/python -m pytest tests/airflow/test_operators.py tests/airflow/test_dags.py \
	  tests/airflow/test_sensor.py tests/airflow/test_daily_checks.py \
	  -k "not manifest and not postgresql and not started_again and not cannot_look and not asked_again" --timeout 600

# Short: what the machine does beside moves a median more than more samples would.
CRITERION := --warm-up-time 0.5 --measurement-time 1

.PHONY: bench
bench: $(BENCHED) ## Measure kernels; as wheels are built: whole runs beside Polars and DuckDB, a topic, growth, state, imports
	rm -rf $${CARGO_TARGET_DIR:-target}/criterion
	cargo bench --locked --profile $(PROFILE) --features kafka,s3 -- $(CRITERION)
	$(MEASURE) benches/kernels.py --profile $(PROFILE)
	$(MEASURE) benches/compare/run.py $(ARGS)
	$(MEASURE) benches/compare/kafka.py
	$(MEASURE) benches/compare/growth.py --most 4
	$(MEASURE) benches/compare/scd2.py
	$(MEASURE) benches/compare/state.py
	$(MEASURE) benches/warehouse.py --only duckdb
	$(MEASURE) benches/compare/imports.py
	$(MEASURE) benches/pages.py

.PHONY: bench-check
bench-check: $(DEPS) ## Have kernels become slower? Counts instructions with valgrind (UPDATE=1 keeps the counts)
	$(BIN)/python benches/check.py --profile $(PROFILE) $(if $(UPDATE),--update) $(ARGS)

# Nearly all of `unsafe` calls C (librdkafka, libc), which Miri cannot run: valgrind looks at both sides of the calls. That of
# `contract::lanes` computes with registers and touches no memory; that of `packed` skips a check that was just made;
# that of `prefetch` is a hint.
MEMCHECK := --config "target.'cfg(unix)'.runner=['valgrind', '--quiet', '--error-exitcode=99', '--fair-sched=yes']"

.PHONY: memcheck
memcheck: $(DEPS) ## The tests that reach `unsafe` code, under valgrind's memcheck
	@command -v valgrind >/dev/null || { echo "valgrind is needed and was not found: apt-get install valgrind" >&2; exit 1; }
	$(CARGO_TEST) $(MEMCHECK) --lib -- --test-threads=1 kafka:: producer:: memory:: failpoint:: lanes:: packed:: prefetch::

.PHONY: bench-plot
bench-plot: $(BENCHED) ## Time and memory against events, beside Polars and DuckDB (docs/images/growth.svg); up to 16 M alone
	$(MEASURE) benches/compare/growth.py --most 16
	$(MEASURE) benches/compare/plot.py $(ARGS)
	$(MEASURE) benches/pages.py

.PHONY: bench-spark
bench-spark: $(BENCHED) ## File and topic beside Spark local[2] (needs Java 17 or newer and Maven; installs PySpark into target/)
	@java -version >/dev/null 2>&1 || { echo "Java is needed and was not found: apt-get install default-jre-headless" >&2; exit 1; }
	@command -v mvn >/dev/null || { echo "Maven is needed and was not found: apt-get install maven" >&2; exit 1; }
	$(UV) venv --quiet --allow-existing --python $(BIN)/python target/pyspark
	$(UV) pip install --quiet --python target/pyspark/bin/python "pyspark>=4.0"
	$(MEASURE) benches/compare/spark.py --spark $(CURDIR)/target/pyspark/bin/python $(ARGS)
	$(MEASURE) benches/pages.py

LIMITS := target/limits

.PHONY: bench-limits
bench-limits: $(CORE) ## What reading, parsing alone and writing the same events take here, by well-known libraries
	mkdir -p $(LIMITS)
	cd benches/compare && $(CURDIR)/$(BIN)/python -c "import run, pathlib; run.generate(pathlib.Path('$(CURDIR)/$(LIMITS)/events.jsonl'), 1_000_000)"
	cargo run --release --locked --manifest-path benches/limits/Cargo.toml --target-dir $(LIMITS) -- $(LIMITS)/events.jsonl
	rm $(LIMITS)/events.jsonl

.PHONY: lint
lint: lint-rust lint-python ## Check format, lints and types of Rust and Python

.PHONY: lint-rust
lint-rust: $(DEPS) ## Rust alone
	cargo fmt --check
	$(CARGO_LINT) --all-targets --all-features -- -D warnings

.PHONY: lint-python
lint-python: $(CORE) ## Python and dbt alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=python $(BIN)/python -m mypy.stubtest penstock._core --ignore-disjoint-bases
	cd dbt && ../$(BIN)/dbt --quiet parse --profiles-dir .

.PHONY: format
format: $(DEPS) ## Format Rust and Python, and mend what the linter can mend
	cargo fmt
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: dbt-manifest
dbt-manifest: $(CORE) ## Write what a DAG has to know of the dbt models anew: dbt/manifest.json
	cd dbt && ../$(BIN)/dbt --quiet parse --profiles-dir .
	$(BIN)/python -m penstock.airflow.manifest dbt/target/manifest.json dbt/manifest.json

.PHONY: docs
docs: $(CORE) ## Build the documentation into site/ (a warning is an error)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: wheel
wheel: $(DEPS) ## Build the wheel that is released, into dist/
	$(BIN)/maturin build --release --locked --out dist

.PHONY: clean
clean: ## Remove what was built and made: environment, targets, demo, site
	rm -rf $(VENV) .uv target dist site build demo benches/out .mypy_cache .pytest_cache .ruff_cache
	rm -f python/penstock/_core*.so python/penstock/_core*.pyd

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- set-up: runs when the lock or a source file is newer than the stamp, else not at all -----------------------------

.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed and was not found on PATH" >&2; exit 1; }
	$(PYTHON) -m venv .uv || { rm -rf .uv; \
	  echo "Python's venv module is missing: install it (Debian, Ubuntu: apt-get install python3-venv), or uv" >&2; exit 1; }
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(DEPS): uv.lock pyproject.toml | $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv)
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed and was not found on PATH" >&2; exit 1; }
	@cargo --version >/dev/null 2>&1 || { echo "Rust is needed and was not found: see https://rustup.rs" >&2; exit 1; }
	test -x $(BIN)/python || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	$(UV) sync --quiet --locked --inexact
	@touch $@

$(CORE): $(DEPS) Cargo.toml Cargo.lock $(shell find src -name '*.rs' 2>/dev/null)
	PATH="$(CURDIR)/$(BIN):$(dir $(abspath $(UV))):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" \
	  maturin develop --uv --locked --profile $(PROFILE)
	@touch $@

$(BENCHED): $(DEPS) Cargo.toml Cargo.lock $(shell find src python/penstock -type f -not -name '*.so' -not -path '*/__pycache__/*' 2>/dev/null)
	rm -rf $(BUILT)
	PATH="$(CURDIR)/$(BIN):$(dir $(abspath $(UV))):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" \
	  maturin build --quiet --locked --profile $(MEASURED) --out $(BUILT)/wheel
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --target $(BUILT) $(BUILT)/wheel/*.whl
	@touch $@
