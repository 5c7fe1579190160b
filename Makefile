# The commands of this repository. `make` alone lists them.
# Every tool that is not Rust's own comes from target/tools, at the version that
# tests/tools/requirements.txt locks; apart from cargo's cache nothing outside target/ is written.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Cargo and the tests use all cores by themselves; parallel targets would only wait for its lock.
.NOTPARALLEL:

export PATH := $(CURDIR)/target/tools/bin:$(PATH)
export BUF_CACHE_DIR := $(CURDIR)/target/tools/buf-cache

# Called by their own names: `cargo deny` and `cargo nextest` would prefer copies in ~/.cargo/bin.
DENY := cargo-deny --locked --all-features
NEXTEST := cargo-nextest nextest

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: preflight
preflight:
	@sh tests/tools/preflight.sh

.PHONY: tools
tools: preflight ## install the pinned back ends, clients and gates into target/tools
	@python3 tests/tools/install.py

.PHONY: build
build: preflight ## build taskpassd and taskpass into target/debug
	cargo build --locked --workspace --all-features

.PHONY: quickstart
quickstart: tools build ## from nothing to a revoked credential, on this machine, in one go
	target/tools/venv/bin/python tests/quickstart/quickstart.py

# The runner goes last, so that its summary is the last thing on the screen. Properties are tried on
# the same values each time, so that a red run is about the change; `cargo nextest run` without the
# seed tries others. Many tests wait for a server most of the time, so two share a core.
.PHONY: test
test: export PROPTEST_RNG_SEED ?= 1
test: export NEXTEST_TEST_THREADS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
test: tools build ## run every test against the real back ends
	cargo test --locked --workspace --all-features --doc --quiet
	$(NEXTEST) run --locked --workspace --all-features

# Random histories of the engine, as many as fit; `make test` runs the first 2,000. For others:
# SIM_FROM=1000000. There are twenty tests, each of which takes its SIM_SECONDS: on two cores that
# is ten times as long.
SIM_SECONDS := 60
SIM_FROM := 0
.PHONY: simulate
simulate: preflight ## run random histories of the engine, each of twenty tests for SIM_SECONDS (60)
	TASKPASS_SIM_SECONDS=$(SIM_SECONDS) TASKPASS_SIM_FROM=$(SIM_FROM) \
		cargo test --locked -p taskpass-engine --all-features --lib simulation::histories -- --nocapture

# Cheap gates first.
.PHONY: check
check: tools ## format, dependencies, protocol, lints and docs: what a change must pass
	cargo fmt --all --check
	$(DENY) check -D unmatched-skip bans licenses sources
	buf lint proto
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --all-features --no-deps
	python3 tests/mutants/mutants.py --check

.PHONY: advisories
advisories: tools ## look for known vulnerabilities in the dependencies (needs the network)
	$(DENY) check advisories

.PHONY: fuzz
fuzz: preflight ## look for inputs that break a parser; TARGET=name SECONDS=60, or all targets
	@python3 tests/fuzz/fuzz.py run --seconds $(or $(SECONDS),60) $(TARGET)

.PHONY: bench
bench: tools ## measure against the budgets; takes minutes and wants a quiet machine
	cargo build --locked --profile bench -p taskpass-broker -p taskpass-cli -p taskpass-tests --bins
	target/release/taskpass-bench

.PHONY: bench-check
bench-check: bench ## measure, and fail on a ratio 15 % worse than in tests/bench/REPORT.json
	target/release/taskpass-bench check

.PHONY: torture
torture: tools build ## outage, histories, faults, syncs, kills and load, all at full length
	TASKPASS_SIM_OUTAGE_HOURS=24 cargo test --locked -p taskpass-engine --all-features --lib simulation::outage -- --nocapture
	$(MAKE) simulate SIM_SECONDS=30 SIM_FROM=$$(date +%s)000
	target/debug/taskpass-torture $(TORTURE)

# `make mutants MUTANTS="03 07"`: only mutants with names that begin so.
.PHONY: mutants
mutants: tools ## break each invariant on purpose, and see the tests notice; takes an hour
	python3 tests/mutants/mutants.py $(MUTANTS)

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all
