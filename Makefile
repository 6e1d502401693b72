# The two commands a person needs are `make demo` and `make test`; `make help`
# lists the rest. A Rust toolchain is all they expect to find.

PREFIX ?= /usr/local
CARGO_TARGET_DIR ?= target
# Where `make build` puts the three programs, side by side as they look for
# each other.
DIST = $(CARGO_TARGET_DIR)/dist

.PHONY: help build demo test soak bench bench-boot bench-net fuzz install clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo              install what is needed, build, run a command in a microVM'
	@echo 'make test              the whole test suite, formatting and lints included'
	@echo 'make bench             measure builds beside other tools; rewrites docs/benchmarks.md'
	@echo 'make bench-boot        measure boots in the lab; rewrites docs/benchmarks.md'
	@echo 'make bench-net         measure the network of guests; rewrites docs/benchmarks.md'
	@echo 'make soak SECONDS=     tests that are worth repeating, each so long (default 600);'
	@echo '          ROUNDS=      so many rounds of chaos instead'
	@echo 'make fuzz SECONDS=     the fuzz targets, each so long (default 300)'
	@echo 'make build             the programs, in $(DIST)/'
	@echo 'make install PREFIX=   build, and install below PREFIX (default /usr/local)'
	@echo 'make clean             remove what was built'

build:
	@tests/host/build.sh '$(DIST)'

demo:
	@tests/host/demo.sh '$(DIST)'

test:
	@tests/host/test.sh '$(CARGO_TARGET_DIR)/dist-dev'

soak: SECONDS = 600
soak:
	@MICROAGENT_SOAK_ROUNDS='$(ROUNDS)' tests/host/soak.sh '$(CARGO_TARGET_DIR)/dist-dev' '$(SECONDS)'

# What else build-bench can be told, --help says.
BENCH_FLAGS ?= --large
bench: build
	@tests/host/bench.sh build '$(DIST)' $(BENCH_FLAGS)

# Needs a kernel of `microagent kernel build`: some minutes the first time.
BOOT_BENCH_FLAGS ?=
bench-boot: build
	@tests/host/bench.sh boot '$(DIST)' $(BOOT_BENCH_FLAGS)

# Needs root, for network namespaces, and the same kernel.
NET_BENCH_FLAGS ?=
bench-net: build
	@tests/host/bench.sh net '$(DIST)' $(NET_BENCH_FLAGS)

SECONDS ?= 300

fuzz:
	@tests/host/fuzz.sh '$(SECONDS)'

SHARE = $(DESTDIR)$(PREFIX)/share

# The supervisor and the agent are not commands: they live in libexec.
install: build
	install -D -m 755 '$(DIST)/microagent' '$(DESTDIR)$(PREFIX)/bin/microagent'
	install -D -m 755 '$(DIST)/microagent-supervisor' '$(DESTDIR)$(PREFIX)/libexec/microagent/microagent-supervisor'
	install -D -m 755 '$(DIST)/microagent-guest' '$(DESTDIR)$(PREFIX)/libexec/microagent/microagent-guest'

	install -d '$(SHARE)/bash-completion/completions' '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d'
	'$(DIST)/microagent' completions bash >'$(SHARE)/bash-completion/completions/microagent'
	'$(DIST)/microagent' completions zsh >'$(SHARE)/zsh/site-functions/_microagent'
	'$(DIST)/microagent' completions fish >'$(SHARE)/fish/vendor_completions.d/microagent.fish'
	'$(DIST)/microagent' --quiet man '$(SHARE)/man/man1' >/dev/null

clean:
	@set=$$(tests/host/toolchain.sh) && eval "$$set" && cargo clean
