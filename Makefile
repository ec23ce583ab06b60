# make run    serve on the embedded store, with built-in defaults
# make test   install what the tests need, then run all of them
# make lint   formatting, vet, staticcheck
# make fuzz   every fuzz target for FUZZTIME: a number of inputs, such as 50000x (a time, such as 5s, may end in a false "context deadline exceeded")
# make bench  the side-by-side benchmarks (minutes; installs nginx; with redis-server from make tools, Redis too)
# make soak   the long tests (an hour)
# make cluster   the webhook against a real kube-apiserver and etcd (builds the first from its module, ten minutes once; as root)

# Packages are tested one at a time (-p 1): some hold real servers to a quarter of a second.
GO       ?= go
RACE     ?=
FUZZTIME ?= 50000x
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
export GOBIN := $(CURDIR)/bin/tools
export CGO_ENABLED ?= 0
export OO_CORPORA ?= $(abspath ../shared/corpora)

.PHONY: run build test unit e2e lint fuzz bench soak cluster tools clean

run:
	$(GO) run ./cmd/oo-sidecar serve

build:
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/oo-sidecar ./cmd/oo-sidecar

test: tools unit e2e

unit:
	CGO_ENABLED=$(if $(RACE),1,0) $(GO) build $(RACE) ./...
	CGO_ENABLED=$(if $(RACE),1,0) $(GO) test $(RACE) -p 1 -timeout 15m ./...
	$(if $(RACE),$(GO) test -run Allocat ./dedup ./hmac # not counted with the race detector)
	OO_TEST_STORE=redis $(GO) test ./internal/api

e2e: build
	cd test && PATH="$(GOBIN):$$PATH" OO_BIN="$(CURDIR)/bin/oo-sidecar" $(GO) test -v -count=1 -p 1 -timeout 20m ./...

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	@for module in . test bench; do ( cd $$module && $(GO) vet ./... && $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./... ) || exit 1; done

fuzz:
	./test/fuzz.sh $(FUZZTIME)

bench: build
	./bench/run.sh
	OO_BENCH=1 $(GO) test ./internal/store -run TestRedisFigures -v -count=1 -timeout 10m

soak: build
	OO_SOAK=1 $(GO) test -v -count=1 -timeout 60m -run '^Test(Cluster)?Failover$$' ./internal/store
	cd test && PATH="$(GOBIN):$$PATH" OO_BIN="$(CURDIR)/bin/oo-sidecar" OO_SOAK=1 $(GO) test -count=1 -timeout 90m ./...

cluster: build
	command -v etcd >/dev/null || ./test/install.sh etcd-server
	./test/kube-apiserver.sh "$(GOBIN)/kube-apiserver"
	cd test && PATH="$(GOBIN):$$PATH" OO_BIN="$(CURDIR)/bin/oo-sidecar" OO_KUBE_APISERVER="$(GOBIN)/kube-apiserver" $(GO) test -v -count=1 -timeout 10m -run '^TestCluster$$' ./k8s

tools:
	./test/setup.sh

clean:
	rm -rf bin
