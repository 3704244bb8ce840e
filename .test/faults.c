/*
 * System calls that fail: a library that is loaded before libc, by LD_PRELOAD. The environment says what is to fail:
 *
 *   FAIL="NAME N ERRNO"   the Nth call of NAME fails, in each process, with the error number ERRNO
 *   FAIL="eintr N"        one in N of the calls that can wait is interrupted (EINTR)
 *   STRUCK=DIRECTORY      where a call has failed, a file with its name appears there
 *
 * A child goes on counting from where its parent was when it forked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char which[32];                      /* The name of the call that is to fail, or "eintr". */
static int nth;
static int error;
static int calls;                           /* How often the call that is to fail has been made. */
static unsigned chance;                     /* As random as it need be. */

/* This runs before main(). What is called still earlier does not fail. */
__attribute__((constructor)) static void settings_read(void) {
    const char *fail = getenv("FAIL");
    if (fail)
        sscanf(fail, "%31s %d %d", which, &nth, &error);
}

/* Leave word that a call has failed. The system calls are made directly: none of these is to fail, or to be counted. */
static void struck(void) {
    const char *directory = getenv("STRUCK");
    char path[PATH_MAX];
    if (!directory)
        return;
    snprintf(path, sizeof path, "%s/%s", directory, which);
    syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

/* 1: this call of NAME is to fail, and errno says with what. WAITS: the call can wait. */
static int fails(const char *name, int waits) {
    int interrupted;
    chance = chance * 1103515245U + 12345U;
    interrupted = waits && strcmp(which, "eintr") == 0 && (chance >> 16) % (unsigned)nth == 0;
    if (interrupted || (strcmp(which, name) == 0 && ++calls == nth)) {
        struck();
        errno = interrupted ? EINTR : error;
        return 1;
    }
    return 0;
}

/* Define the function NAME, which fails, or is libc's function of that name. */
#define WRAP(type, name, waits, params, args)           \
    type name params {                                  \
        static type(*real) params;                      \
        if (!real) {                                    \
            void *found = dlsym(RTLD_NEXT, #name);      \
            memcpy(&real, &found, sizeof real);         \
        }                                               \
        if (fails(#name, waits))                        \
            return -1;                                  \
        return real args;                               \
    }

WRAP(int, socket, 0, (int a, int b, int c), (a, b, c))
WRAP(int, socketpair, 0, (int a, int b, int c, int d[2]), (a, b, c, d))
WRAP(int, bind, 0, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
WRAP(int, listen, 0, (int a, int b), (a, b))
WRAP(int, accept, 0, (int a, struct sockaddr *b, socklen_t *c), (a, b, c))
WRAP(int, connect, 0, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
WRAP(int, poll, 1, (struct pollfd *a, nfds_t b, int c), (a, b, c))
WRAP(ssize_t, read, 1, (int a, void *b, size_t c), (a, b, c))
WRAP(ssize_t, write, 1, (int a, const void *b, size_t c), (a, b, c))
WRAP(ssize_t, send, 0, (int a, const void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, recv, 1, (int a, void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, splice, 1, (int a, off64_t *b, int c, off64_t *d, size_t e, unsigned f), (a, b, c, d, e, f))
WRAP(ssize_t, sendmsg, 1, (int a, const struct msghdr *b, int c), (a, b, c))
WRAP(ssize_t, recvmsg, 1, (int a, struct msghdr *b, int c), (a, b, c))
WRAP(pid_t, fork, 0, (void), ())
WRAP(int, mkdir, 0, (const char *a, mode_t b), (a, b))
WRAP(int, rename, 0, (const char *a, const char *b), (a, b))
WRAP(int, getentropy, 0, (void *a, size_t b), (a, b))
WRAP(int, setsockopt, 0, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
WRAP(int, dup2, 0, (int a, int b), (a, b))

/* open() takes its mode from a variable argument list; a program with _FILE_OFFSET_BITS=64 calls it open64(). */
#define WRAP_OPEN(name, name_at) \
    int name(const char *path, int flags, ...) { \
        va_list args; \
        mode_t mode = 0; \
        if (flags & O_CREAT) { \
            va_start(args, flags); \
            mode = va_arg(args, mode_t); \
            va_end(args); \
        } \
        if (fails("open", 0)) \
            return -1; \
        return name_at(AT_FDCWD, path, flags, mode); \
    }
WRAP_OPEN(open, openat)
WRAP_OPEN(open64, openat64)

/* dlsym() itself may allocate, so the allocators call glibc's own by their other names. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t each);

void *malloc(size_t n) {
    if (fails("malloc", 0))
        return NULL;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t each) {
    if (fails("calloc", 0))
        return NULL;
    return __libc_calloc(n, each);
}
