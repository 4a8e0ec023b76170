# What to do with this tree; `make help` lists it. Only Go is needed for run, build and demo.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
ARGS    ?=
# How long each fuzz target runs.
FUZZTIME ?= 20s

# A checkout that belongs to another user must build too.
export GOFLAGS := $(strip $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false)

TOOLS       := $(CURDIR)/.cache/tools
STATICCHECK := $(TOOLS)/staticcheck@v0.8.2/staticcheck

# The race detector needs a C compiler.
HAVE_CC = $(shell command -v "$$(go env CC)" 2>/dev/null)

.PHONY: help run build test check e2e bench demo fuzz faults mutants unit image clean
.DEFAULT_GOAL := help

help: ## this text
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  %-8s %s\n", $$1, $$2 }'

run: build ## build and start the daemon with its defaults (flags: make run ARGS="--listen :5050")
	@exec bin/cistern serve $(ARGS)

build: ## put the static binary at bin/cistern
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -buildid= -X main.version=$(VERSION)' -o bin/cistern ./cmd/cistern

# The race detector makes a run of these six times as long, and sees in a few of their rounds what it sees in all: they do a
# sample with it, and all that they are for without it.
LONG := -run 'Every(Operation|IndexCall|Transaction)|TestHistories|TestMutations|TestFileSettles|TestFootprint' ./cache/...

test: ## unit tests and in-process end-to-end tests, with the race detector
ifneq ($(HAVE_CC),)
	CGO_ENABLED=1 go test -race -timeout 10m ./...
	CGO_ENABLED=0 go test -timeout 10m $(LONG)
else
	@echo '*** no C compiler ($(shell go env CC)): testing WITHOUT the race detector; install gcc ***' >&2
	@if [ "$$CI" = true ]; then echo 'CI needs the race detector' >&2; exit 1; fi
	go test -timeout 10m ./...
endif

check: $(STATICCHECK) unit ## formatting, vet, staticcheck, layers and grain, the systemd unit
	@unformatted=$$(find . -name '*.go' -not -path './.*/*' -exec gofmt -l {} +); \
	if [ -n "$$unformatted" ]; then echo "not gofmt'd:" >&2; echo "$$unformatted" >&2; exit 1; fi
	go vet ./...
	cd test && go vet ./...
	$(STATICCHECK) ./...
	cd test && $(STATICCHECK) ./...
	go test ./internal/arch

$(STATICCHECK):
	GOBIN=$(@D) go install honnef.co/go/tools/cmd/staticcheck@$(patsubst staticcheck@%,%,$(notdir $(@D)))

# The exposure that `systemd-analyze security` reckons, from 0.0 (best) to 10.0, times ten.
unit:
	@if command -v systemd-analyze >/dev/null; then \
		verdict=$$(systemd-analyze security --offline=yes --threshold=12 --no-pager deploy/cistern.service) \
			|| { echo "$$verdict" >&2; exit 1; }; \
		echo "$$verdict" | tail -n 1; \
	else echo '*** no systemd-analyze: deploy/cistern.service is NOT checked ***' >&2; fi

e2e: build ## real clients and real registries against bin/cistern (installs what it needs)
	$(MAKE) -C test e2e

bench: build ## measure bin/cistern beside a bare file server and nginx
	$(MAKE) -C bench bench

demo: build ## a registry, a cold pull, a warm one, twenty at once: all on this machine
	@$(MAKE) -s -C bench demo

fuzz: ## each fuzz target for FUZZTIME
	@set -e; grep -rHoE --include='*_test.go' --exclude-dir='.?*' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's,/[^/]*:func , ,' | sort | \
	while read -r dir name; do \
		echo "$$dir $$name"; (cd "$$dir" && go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) .); \
	done

faults: build ## the long counts of docs/faults.md: kills, power cuts, random histories, damaged files (hours; KILLS, CUTS, TIMES, SEED)
	@$(MAKE) -s -C test faults

mutants: ## take protections out, one after the other: a test must notice each
	@$(MAKE) -s -C test mutants

image: ## container image cistern:VERSION
	docker build --build-arg VERSION=$(VERSION) -t cistern:$(VERSION) .

clean: ## remove what was built and the tools that were installed
	rm -rf bin .cache
