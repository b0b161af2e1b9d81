# ddictl: build, check and install. 'make' builds; 'make help' says what else there is.

PREFIX ?= /usr
DESTDIR ?=
SYSCONFDIR ?= /etc
MOUNT_DDI ?= no
# Which makers of initrds are to put ddictl into what they make: initramfs-tools, dracut, or both.
INITRD ?=
CARGO ?= cargo

# Where cargo puts what it builds.
TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET)/release/ddictl
COMPLETIONS := $(TARGET)/completions

bindir := $(DESTDIR)$(PREFIX)/bin
sbindir := $(DESTDIR)$(PREFIX)/sbin
libdir := $(DESTDIR)$(PREFIX)/lib
datadir := $(DESTDIR)$(PREFIX)/share
docdir := $(datadir)/doc/ddictl
udevdir := $(libdir)/udev
policydir := $(libdir)/ddictl/policy
unitdir := $(libdir)/systemd/system
generatordir := $(libdir)/systemd/system-generators
dracutdir := $(libdir)/dracut/modules.d/90ddictl
initramfsdir := $(datadir)/initramfs-tools
bashdir := $(datadir)/bash-completion/completions
zshdir := $(datadir)/zsh/site-functions
fishdir := $(datadir)/fish/vendor_completions.d
# A generator is masked by a link to /dev/null under its own name, in the directory that comes first.
maskdir := $(DESTDIR)$(SYSCONFDIR)/systemd/system-generators

# What mount(8) calls for the type ddictl, and with MOUNT_DDI=yes for the type ddi, which else is systemd's.
helpers := mount.ddictl $(if $(filter yes,$(MOUNT_DDI)),mount.ddi)

rules := $(wildcard udev-rules/*.rules)
policies := $(wildcard policy/*.policy)
units := $(wildcard units/*)
pages := $(wildcard man/*.[1-8])
dracut := $(notdir $(wildcard initrd/dracut/90ddictl/*))
initramfs := hooks/ddictl scripts/local-top/ddictl scripts/local-bottom/ddictl
unknown := $(filter-out initramfs-tools dracut,$(INITRD))
documents := $(wildcard README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT)

.PHONY: build help setup demo demo-boot test test-guest test-machine lint bench fuzz install uninstall clean

build:
	@command -v $(CARGO) >/dev/null || { echo "make: no cargo here: install Rust 1.89 or newer" >&2; exit 1; }
	$(CARGO) build --release --locked
	mkdir -p $(COMPLETIONS)
	$(BINARY) completion bash >$(COMPLETIONS)/ddictl.bash
	$(BINARY) completion zsh >$(COMPLETIONS)/_ddictl
	$(BINARY) completion fish >$(COMPLETIONS)/ddictl.fish

help:
	@echo "make             build the program and its shell completions"
	@echo "make setup       install the system packages of packages.list (SETUP=no: never)"
	@echo "make demo        show the whole way, from a directory to a verified root in RAM and back"
	@echo "make demo-boot   boot a guest into a good image and into a tampered one"
	@echo "make test        every check and every test (DDICTL_REQUIRE_ALL=1: a skipped test fails)"
	@echo "make test-guest  the tests that need a kernel with the device mapper, in guests"
	@echo "make test-machine  what needs firmware with keys and a kernel that checks signatures, in QEMU"
	@echo "make lint        the checks alone"
	@echo "make bench       speed, compared with the tools that do the same"
	@echo "make fuzz        every fuzz target for a while (FUZZ_SECONDS=600)"
	@echo "make install     what is built, below DESTDIR and PREFIX (/usr); MOUNT_DDI=yes: for 'mount -t ddi', too;"
	@echo "                 INITRD='initramfs-tools dracut': for initrds that these make"
	@echo "make uninstall   take it away again"
	@echo "make clean       remove what is built"

setup:
	@tests/support/setup

demo:
	@tests/support/setup build demo
	@$(MAKE) --no-print-directory build
	tests/support/demo

demo-boot:
	@tests/support/setup build demo test
	@$(MAKE) --no-print-directory build
	tests/support/demo-boot

test: setup
	tests/run

test-guest: setup
	tests/run guest

test-machine:
	@tests/support/setup build demo test machine
	tests/run machine

lint: setup
	tests/run lint

bench:
	@tests/support/setup build demo test bench
	benches/run

fuzz: setup
	tests/fuzz/run

install:
	@test -z "$(unknown)" || { echo "make: INITRD: no '$(unknown)' here, but initramfs-tools and dracut" >&2; exit 1; }
	@for file in $(BINARY) $(COMPLETIONS)/ddictl.bash $(COMPLETIONS)/_ddictl $(COMPLETIONS)/ddictl.fish; do \
		test -s $$file || { echo "make: '$$file' is not built: run 'make' first" >&2; exit 1; }; \
	done
	install -D -m 755 $(BINARY) $(bindir)/ddictl
	install -d $(udevdir)/rules.d $(policydir) $(unitdir) $(bashdir) $(zshdir) $(fishdir) $(docdir) $(maskdir) $(generatordir)
	ln -sfn ../../bin/ddictl $(udevdir)/ddictl-udev-helper
	ln -sfn ../../../bin/ddictl $(generatordir)/ddictl-generator
	install -m 755 initrd/contents $(libdir)/ddictl/initrd-contents
	install -m 644 initrd/functions $(libdir)/ddictl/initrd-functions
	$(if $(filter initramfs-tools,$(INITRD)),for file in $(initramfs); do \
		install -D -m 755 initrd/initramfs-tools/$$file $(initramfsdir)/$$file || exit 1; done)
	$(if $(filter dracut,$(INITRD)),install -d $(dracutdir) && \
		install -m 755 $(addprefix initrd/dracut/90ddictl/,$(filter %.sh,$(dracut))) $(dracutdir) && \
		install -m 644 $(addprefix initrd/dracut/90ddictl/,$(filter-out %.sh,$(dracut))) $(dracutdir))
	install -d $(sbindir)
	for name in $(helpers); do ln -sfn ../bin/ddictl $(sbindir)/$$name || exit 1; done
	$(if $(rules),install -m 644 $(rules) $(udevdir)/rules.d)
	$(if $(policies),install -m 644 $(policies) $(policydir))
	$(if $(units),install -m 644 $(units) $(unitdir))
	for page in $(pages); do install -D -m 644 $$page $(datadir)/man/man$${page##*.}/$${page##*/} || exit 1; done
	install -m 644 $(COMPLETIONS)/ddictl.bash $(bashdir)/ddictl
	install -m 644 $(COMPLETIONS)/_ddictl $(zshdir)/_ddictl
	install -m 644 $(COMPLETIONS)/ddictl.fish $(fishdir)/ddictl.fish
	$(if $(documents),install -m 644 $(documents) $(docdir))
	ln -sfn /dev/null $(maskdir)/systemd-import-generator

uninstall:
	rm -f $(bindir)/ddictl $(udevdir)/ddictl-udev-helper $(sbindir)/mount.ddictl
	test "$$(readlink $(sbindir)/mount.ddi)" != ../bin/ddictl || rm -f $(sbindir)/mount.ddi
	rm -f $(patsubst udev-rules/%,$(udevdir)/rules.d/%,$(rules)) $(patsubst units/%,$(unitdir)/%,$(units))
	for page in $(pages); do rm -f $(datadir)/man/man$${page##*.}/$${page##*/}; done
	rm -f $(generatordir)/ddictl-generator $(libdir)/ddictl/initrd-contents $(libdir)/ddictl/initrd-functions
	rm -f $(addprefix $(initramfsdir)/,$(initramfs)) $(addprefix $(dracutdir)/,$(dracut))
	rm -f $(bashdir)/ddictl $(zshdir)/_ddictl $(fishdir)/ddictl.fish
	rm -f $(patsubst policy/%,$(policydir)/%,$(policies)) $(addprefix $(docdir)/,$(documents))
	rmdir $(policydir) $(libdir)/ddictl $(docdir) $(dracutdir) 2>/dev/null || true
	test "$$(readlink $(maskdir)/systemd-import-generator)" != /dev/null || rm -f $(maskdir)/systemd-import-generator

clean:
	$(CARGO) clean
