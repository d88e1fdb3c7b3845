# The entry points; each is a line or a script. `make` lists them.

# Where rustup's and Go's own installers put things, for shells that have not been told yet.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin

.DEFAULT_GOAL := help
.PHONY: help up down shell build test chaos soak conformance oci-conformance critest check bench bench-cgroupfs bench-intercept bench-kubelet bench-network bench-oci bench-pods clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24

up: build ## start a cluster with the sample app in it, in a new gVisor sandbox (or in the one you are in)
	@scripts/up

down: ## stop that cluster and its sandbox
	@scripts/down

shell: ## a shell inside, where kubectl works
	@scripts/shell

build: ## make everything, into out/
	@scripts/build

test: build ## all tests; the scenarios in tests/ run in real sandboxes (MATRIX=full: in all kinds of them)
	@MATRIX=$(MATRIX) scripts/test

chaos: build ## fifty rounds of up and down and of kill -9 (CHAOS_ROUNDS)
	@scripts/chaos

soak: build ## a cluster left to itself for an hour in each build of gVisor (SOAK_MINUTES, BUILDS)
	@scripts/soak $(BUILDS)

conformance: build ## the network specs of Kubernetes's own conformance suite (BUILDS, FOCUS)
	@scripts/conformance $(BUILDS)

oci-conformance: build ## the validation programs of the OCI's runtime-tools, on Linux and in gVisor (PLACES, FOCUS)
	@scripts/oci-conformance $(PLACES)

critest: build ## critest, the suite of Kubernetes' cri-tools for container runtimes, in gVisor (BUILDS, FOCUS)
	@scripts/critest $(BUILDS)

check: ## format, lints, docs, licences
	@scripts/check

bench: build ## compare with peers, in the same run
	@scripts/bench

bench-cgroupfs: build ## what reading cgroups through the FUSE server costs, and the server itself
	@scripts/bench-cgroupfs

bench-intercept: build ## what interception costs beside plain and fully traced calls, in the same run
	@scripts/bench-intercept

bench-kubelet: build ## what the kubelet takes with 50 Pods, with and without interception
	@scripts/bench-kubelet

bench-network: build ## what Services cost beside direct connections, in the same run
	@scripts/bench-network

bench-oci: build ## what a container costs beside other OCI runtimes, in the same run
	@scripts/bench-oci

bench-pods: build ## what a Pod costs beside runc and its shim, in the same run
	@scripts/bench-pods

clean: ## remove what was built here (the component cache stays)
	rm -rf out target
