# Every command of this repository; `make help` lists them. Tools for the tests go to e2e/.cache. Nothing else is
# installed, apart from Debian packages (as root, or with sudo).

CACHE := e2e/.cache
BIN := $(CACHE)/bin
GUEST := $(CACHE)/guest
GUEST_NEWER := $(CACHE)/guest-newer
STATIC := target/x86_64-unknown-linux-gnu/release
RELAY := target/x86_64-unknown-linux-gnu/relay/gangplank-relay
RELAY_MUSL := target/musl/x86_64-unknown-linux-musl/relay/gangplank-relay
RELAY_ARM64 := target/aarch64-unknown-linux-gnu/relay/gangplank-relay
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq
PACKAGES := qemu-system-x86 busybox-static binutils xz-utils tmux git bind9-dnsutils dnsmasq-base
NODE := $(addprefix $(CACHE)/,bin/kubelet bin/kube-apiserver bin/critest bin/kubectl-1.37 bin/vhost-device-vsock etcd containerd runc cni node-image.tar)
# Runs a built program in its own network, mount and process namespaces.
ALONE := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(SUDO) $(CURDIR)/e2e/node/alone"
CLIENTS := $(addprefix $(BIN)/,crictl kubectl-1.37 kubectl-1.28 kubectl-1.20 portdial)
GENERATIONS := $(addprefix $(BIN)/kubectl-1.,20 28 29 30 31 32 33 34 35 36 37)
LIBRARIES := $(addprefix $(CACHE)/,python js java bin/kube-rs-forward)

FUZZ_TARGETS := frames header_blocks pair link opening
FUZZ_SECONDS := 5

.PHONY: help demo demo-vm test lint advisories unit fuzz e2e e2e-commands e2e-node run-node node vsock bench relay relay-arm64 relay-size tools packages guest daemon static clean e2e-generations e2e-guest e2e-nested relay-musl
.DELETE_ON_ERROR:

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

demo: daemon ## See it work, with a guest inside the same process
	target/release/gangplank demo

demo-vm: daemon guest $(BIN)/vhost-device-vsock ## See it work, with a real QEMU guest
	cargo build --release --locked -p gangplank-e2e --bin run-guest
	target/release/gangplank demo --vm target/release/run-guest

test: lint unit fuzz e2e e2e-commands e2e-guest relay-size vsock ## Everything that must pass

lint: $(BIN)/cargo-deny ## Format, clippy, documentation and dependencies; no warning is allowed
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	docs/check-specification
	$< --locked check bans licenses sources

advisories: $(BIN)/cargo-deny ## Known vulnerabilities in dependencies (downloads the advisory database)
	$< --locked check advisories

unit: ## The crates' own tests (as root: some create network namespaces)
	cargo test --locked --workspace --exclude gangplank-e2e
	cargo test --locked -p gangplank-e2e --lib

e2e: daemon static tools ## Real kubectl, crictl and library clients, to a local pod and into a QEMU guest
	cargo test --release --locked -p gangplank-e2e --test forward --test libraries -- --test-threads 2

e2e-commands: daemon static guest $(addprefix $(BIN)/,crictl portdial vhost-device-vsock) $(CACHE)/python ## The commands in a terminal, with real DNS and git, and a CRI runtime in Go
	cargo test --release --locked -p gangplank-e2e --test commands -- --test-threads 2

fuzz: $(BIN)/cargo-fuzz ## Every fuzz target, FUZZ_SECONDS each (5 by default)
	cd fuzz && for target in $(FUZZ_TARGETS); do mkdir -p corpus/$$target seeds/$$target && \
	  $(CURDIR)/$< fuzz run -s none $$target corpus/$$target seeds/$$target -- \
	  -max_total_time=$(FUZZ_SECONDS) -verbosity=0 || exit 1; done

e2e-generations: daemon static $(GENERATIONS) ## kubectl 1.20 and 1.28 to 1.37 (each takes three CPU minutes to build)
	cargo test --release --locked -p gangplank-e2e --test generations -- --test-threads 2

e2e-node: node $(LIBRARIES) ## The whole chain: clients, API server, kubelets, gangplank, containerd and QEMU (needs root)
	$(ALONE) cargo test --release --locked -p gangplank-e2e --test node -- --test-threads 1

run-node: node ## The same cluster to try things out: prints its kubeconfig and a shell command, runs until Ctrl-C
	$(ALONE) cargo run --release --locked -p gangplank-e2e --bin run-node

e2e-guest: daemon static tools $(GUEST_NEWER)/initrd.img $(CACHE)/runc $(BIN)/oci-spec ## Channel and relay with real QEMU guests: transfers, crashes, pauses, containers
	cargo test --release --locked -p gangplank-e2e --test guest -- --test-threads 2

bench: daemon relay guest $(BIN)/vhost-device-vsock ## Performance, compared with the reference server and a plain TCP relay
	e2e/bench/run

relay: ## The relay for the guest, one static file
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile relay --locked \
	  --target x86_64-unknown-linux-gnu -p gangplank-relay
	@ls -l $(RELAY)

relay-arm64: ## The same for arm64 (linked with Debian's cross compiler, run once in QEMU)
	@command -v aarch64-linux-gnu-gcc qemu-aarch64-static >/dev/null || { \
	  $(APT) update && $(APT) install --no-install-recommends -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static; }
	rustup target add aarch64-unknown-linux-gnu
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc RUSTFLAGS="-C target-feature=+crt-static" \
	  cargo build --profile relay --locked --target aarch64-unknown-linux-gnu -p gangplank-relay
	qemu-aarch64-static $(RELAY_ARM64) --version
	@ls -l $(RELAY_ARM64)

# This also builds the standard library, without unwinding and panic messages, which would be half of the program. The
# options for that are not stable yet, so this needs rustc 1.95. A panic ends the program without a message.
relay-musl: ## The smallest relay, linked with musl (x86-64; also builds the standard library)
	rustup target add x86_64-unknown-linux-musl
	rustup component add rust-src
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zunstable-options -Cpanic=immediate-abort" cargo build --profile relay --locked \
	  -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size \
	  --target-dir target/musl --target x86_64-unknown-linux-musl -p gangplank-relay
	src/relay/tests/check-size $(RELAY_MUSL) musl

relay-size: relay ## Check that the relay stays within its promised size and memory
	src/relay/tests/check-size $(RELAY)

vsock: packages $(CACHE)/linux $(CACHE)/linux-newer ## Channel and relay over AF_VSOCK, inside one QEMU guest
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked \
	  --target x86_64-unknown-linux-gnu -p gangplank-e2e-guest --bin vsock
	e2e/guest/check-vsock $(CACHE)/linux $(STATIC)/vsock
	e2e/guest/check-vsock $(CACHE)/linux-newer $(STATIC)/vsock

e2e-nested: guest ## AF_VSOCK with the kernel's vhost: a guest in a guest, saved, restored and killed (takes minutes)
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked \
	  --target x86_64-unknown-linux-gnu -p gangplank-e2e-guest --bin nested
	e2e/guest/check-nested $(CACHE)/linux $(GUEST) $(STATIC)/nested

tools: $(CLIENTS) $(LIBRARIES) $(BIN)/vhost-device-vsock guest ## Build the clients, the vsock device and the guest for the tests

clean: ## Remove everything that was built
	rm -rf target $(CACHE)

# ---- parts ----

daemon:
	cargo build --release --locked -p gangplank

# The programs that also run in a guest.
static:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked \
	  --target x86_64-unknown-linux-gnu --bin gangplank-relay --bin podserver

# Everything for a cluster of two nodes, including the tests' own runtime.
node: daemon static guest $(NODE)
	cargo build --release --locked -p gangplank-e2e -p gangplank-e2e-node

packages:
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { \
	  $(APT) update && $(APT) install --no-install-recommends -y $(PACKAGES); }

guest: $(GUEST)/initrd.img

$(GUEST)/initrd.img: static packages $(CACHE)/linux e2e/guest/init e2e/guest/build-initrd
	e2e/guest/build-initrd $(CACHE)/linux $(STATIC)/gangplank-relay $(STATIC)/podserver $@

$(GUEST_NEWER)/initrd.img: static packages $(CACHE)/linux-newer e2e/guest/init e2e/guest/build-initrd
	e2e/guest/build-initrd $(CACHE)/linux-newer $(STATIC)/gangplank-relay $(STATIC)/podserver $@

# Linux 6.12, whose AF_VSOCK splits large packets for the device and limits how many may be queued.
$(CACHE)/linux-newer:
	e2e/guest/unpack-kernel bookworm-backports $@

# The kernel of Debian's cloud images. Like all packages below, it is unpacked, not installed.
$(CACHE)/linux:
	$(APT) update
	e2e/unpack $$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: //p') $@

$(BIN)/kubectl-1.20:
	$(APT) update
	e2e/unpack kubernetes-client $(CACHE)/kubernetes-client
	$(CACHE)/kubernetes-client/usr/bin/kubectl version --client | grep -q v1.20
	mkdir -p $(BIN) && mv $(CACHE)/kubernetes-client/usr/bin/kubectl $@ && touch $@

$(BIN)/kubectl-%: e2e/go/kubectl-%/go.mod e2e/go/kubectl-%/main.go
	cd $(<D) && go build -ldflags '-s -w' -o $(CURDIR)/$@ .

$(BIN)/crictl: e2e/go/crictl/go.mod
	cd $(<D) && go build -ldflags '-s -w' -o $(CURDIR)/$@ sigs.k8s.io/cri-tools/cmd/crictl

# The official JavaScript client, with its own Node.js: Debian's is too old and only provides npm.
$(CACHE)/js: $(wildcard e2e/clients/js/*)
	@command -v npm >/dev/null || { $(APT) update && $(APT) install --no-install-recommends -y nodejs npm; }
	mkdir -p $@ && cp $^ $@ && cd $@ && npm ci --silent --no-audit --no-fund && touch .

# The two Java clients. Java runs the test programs from source.
$(CACHE)/java: e2e/clients/java/pom.xml
	@command -v mvn >/dev/null && command -v javac >/dev/null || { \
	  $(APT) update && $(APT) install --no-install-recommends -y default-jdk-headless maven; }
	mvn --quiet --batch-mode --file $< -Dmaven.repo.local=$(CURDIR)/$@/maven dependency:copy-dependencies \
	  -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$@/lib && touch $@

$(BIN)/kube-rs-forward: $(addprefix e2e/clients/kube-rs/,Cargo.toml Cargo.lock src/main.rs)
	cargo build --release --locked --manifest-path $< --target-dir $(CACHE)/kube-rs
	mkdir -p $(BIN) && cp $(CACHE)/kube-rs/release/$(@F) $@

# kube-apiserver and kubelet. They report their version to each other, so it is set here.
$(addprefix $(BIN)/,kubelet kube-apiserver): e2e/go/node/go.mod
	cd $(<D) && go build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)" \
	  -o $(CURDIR)/$@ k8s.io/kubernetes/cmd/$(@F)

# critest is built as the test binary of its module.
$(BIN)/critest: e2e/go/critest/go.mod
	cd $(<D) && go test -c -ldflags '-s -w' -o $(CURDIR)/$@ sigs.k8s.io/cri-tools/cmd/critest

$(CACHE)/etcd $(CACHE)/containerd $(CACHE)/runc $(CACHE)/cni:
	$(APT) update
	e2e/unpack $(or $(DEBIAN_$(@F)),$(@F)) $@

DEBIAN_etcd := etcd-server
DEBIAN_cni := containernetworking-plugins

$(CACHE)/node-image.tar: static packages e2e/node/build-image
	e2e/node/build-image $(STATIC)/podserver $@

# A virtual environment with the official Python client.
$(CACHE)/python: e2e/python/requirements.txt
	python3 -m venv --clear $@ || { $(APT) update && $(APT) install --no-install-recommends -y python3-venv && \
	  python3 -m venv --clear $@; }
	$@/bin/pip install --quiet --disable-pip-version-check -r $< && touch $@

$(BIN)/portdial: e2e/go/portdial/go.mod e2e/go/portdial/main.go
	cd $(<D) && go build -ldflags '-s -w' -o $(CURDIR)/$@ .

$(BIN)/oci-spec: e2e/go/oci-spec/go.mod e2e/go/oci-spec/main.go
	cd $(<D) && go build -ldflags '-s -w' -o $(CURDIR)/$@ .

$(BIN)/cargo-deny:
	cargo install --locked --no-track --root $(CACHE) --version 0.20.2 cargo-deny

$(BIN)/cargo-fuzz:
	cargo install --locked --no-track --root $(CACHE) --version 0.13.1 cargo-fuzz

$(BIN)/vhost-device-vsock:
	cargo install --locked --no-track --root $(CACHE) --version 0.3.0 vhost-device-vsock
