# make            build pashlib
# make demo       run a splitter-worker-merger pipeline through it, on this machine
# make test       run the tests
# make static     a static binary, with musl-gcc if it is there
# make layer      a Lambda layer, pashlib-layer.zip, with it: /opt/pashlib
# make install    into $(DESTDIR)$(PREFIX)/bin
.POSIX:
CC = cc
CFLAGS = -O2 -Wall -Wextra
LDFLAGS =
LDLIBS =
STATIC_CC = $$(command -v musl-gcc || echo $(CC))
STATIC_CFLAGS = -Os -Wall -Wextra
STATIC_LDFLAGS = -static -s
PREFIX = /usr/local
DESTDIR =

all: pashlib

pashlib: pashlib.c
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

install: pashlib
	mkdir -p $(DESTDIR)$(PREFIX)/bin
	cp pashlib $(DESTDIR)$(PREFIX)/bin/pashlib
	chmod 755 $(DESTDIR)$(PREFIX)/bin/pashlib

clean:
	rm -f pashlib pashlib-layer.zip

.PHONY: all static layer demo test install clean
