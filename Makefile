# The commands of this repository. `make help` lists them.
#
# Everything that is built lies outside the checkout, below $(CACHE): one target directory and one profile for run,
# test, lint and bench, so that RocksDB is compiled once. Set CARGO_TARGET_DIR to have it elsewhere.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(HOME)/.cache/muster
export CARGO_TARGET_DIR ?= $(CACHE)/target
export MUSTER_TOOLS ?= $(CACHE)/tools
export PATH := $(MUSTER_TOOLS)/bin:$(HOME)/.cargo/bin:$(PATH)

BIN = $(CARGO_TARGET_DIR)/debug
# With the helpers of the system tests, so that dependencies have the features that `cargo test --workspace` gives them,
# and nothing is compiled twice.
PROGRAMS = -p muster -p muster-loadtest -p system-tests
# They mostly wait for a supervisor's next poll, so there may be more of them than processors.
INTEROP_AT_ONCE := 16
# Seconds per fuzz target.
SECONDS_EACH := $(if $(SECONDS),$(SECONDS),20)

.PHONY: help setup target build run test lint interop coverage simulate upgrade fuzz bench

help: ## list these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'

setup: ## install or name what building needs
	@scripts/setup build

target: setup
	@scripts/target

build: target ## build muster and muster-loadtest
	@cargo build $(PROGRAMS)

run: build ## demo: a server, 50 simulated supervisors, one rollout; Ctrl-C ends it
	@scripts/demo "$(BIN)"

test: build ## every test but those with real peers (make interop)
	@scripts/setup test
	@cargo test --workspace --no-fail-fast

interop: build ## what needs Go: real supervisor, collector and Python client; histories of clients checked
	@scripts/setup interop
	@tests/interop/build
	@cd tests/linearizable && CGO_ENABLED=0 GOWORK=off GOFLAGS=-buildvcs=false go test ./...
	@cargo test --workspace --features system-tests/interop --test interop -- --test-threads $(INTEROP_AT_ONCE)
	@cargo test --workspace --features system-tests/interop --test linearizable

coverage: ## how many lines of fleet its tests run; fails below LEAST=95 percent
	@scripts/setup coverage
	@scripts/coverage

simulate: target ## random clusters on virtual time, WORLDS=2000 of them from the seed FROM=0 on
	@MUSTER_SIM_WORLDS=$(or $(WORLDS),2000) MUSTER_SIM_FROM=$(or $(FROM),0) \
		cargo test -p sim --test world -- --nocapture invariants_hold

upgrade: ## a cluster and a data directory of an older commit taken over by this one; OLD=308e2e1 for another commit
	@scripts/setup test
	@scripts/upgrade

lint: target ## formatting, clippy, licences, and the rules of scripts/check
	@scripts/lint

fuzz: ## fuzz what strangers can reach, SECONDS=20 for each target
	@scripts/setup fuzz
	@scripts/fuzz "$(SECONDS_EACH)"

bench: target ## check-ins, registrations, memory, large fleets, clusters, etcd beside them; writes bench-results.json
	@scripts/setup bench
	@scripts/bench
