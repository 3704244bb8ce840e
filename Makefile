# make            build pashlib
# make demo       run a splitter-worker-merger pipeline through it, on this machine
# make test       run the tests
# make fuzz       fuzz it, FUZZ_SECONDS (400) for each of nine targets
# make bench      measure it, beside nc and socat where they are there
# make static     a static binary, with musl-gcc if it is there
# make layer      a Lambda layer, pashlib-layer.zip, with it: /opt/pashlib
# make install    into $(DESTDIR)$(PREFIX)/bin
.POSIX:
CC = cc
CFLAGS = -O2 -Wall -Wextra
HARDENING = -fPIE -pie -fstack-protector-strong -D_FORTIFY_SOURCE=2 -Wl,-z,relro,-z,now
LDFLAGS =
LDLIBS =
STATIC_CC = $$(command -v musl-gcc || echo $(CC))
STATIC_CFLAGS = -Os -Wall -Wextra -fstack-protector-strong
STATIC_LDFLAGS = -static -s -Wl,-z,relro,-z,now
PREFIX = /usr/local
DESTDIR =

all: pashlib

pashlib: pashlib.c
	$(CC) $(CFLAGS) $(HARDENING) $(LDFLAGS) -o $@ pashlib.c $(LDLIBS) || \
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ pashlib.c $(LDLIBS)

static: pashlib.c
	$(STATIC_CC) $(STATIC_CFLAGS) $(STATIC_LDFLAGS) -o pashlib pashlib.c $(LDLIBS)

layer: static
	rm -f pashlib-layer.zip
	zip -q pashlib-layer.zip pashlib

demo: pashlib
	./test.sh demo

test: pashlib
	./test.sh

fuzz: pashlib
	FUZZ_SECONDS=$${FUZZ_SECONDS:-400} ./test.sh fuzz

bench: pashlib
	./test.sh bench

install: pashlib
	mkdir -p $(DESTDIR)$(PREFIX)/bin
	cp pashlib $(DESTDIR)$(PREFIX)/bin/pashlib
	chmod 755 $(DESTDIR)$(PREFIX)/bin/pashlib

clean:
	rm -f pashlib pashlib-layer.zip

.PHONY: all static layer demo test fuzz bench install clean
