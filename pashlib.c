/* SPDX-License-Identifier: MIT */
/* pashlib: join the two ends of a shell pipeline across machines, through NATs and firewalls.
 * Build: cc -O2 -o pashlib pashlib.c. README has the contract. Read it from top to bottom, as data
 * flows. Each part says what it touches, and touches nothing else. Lower parts call upward only.
 *
 *  1 addresses     2 settings, log     3 clock, descriptors, jobs   4 STUN        5 HTTP, IMDS
 *  6 discovery     7 SHA-256, HMAC     8 rendezvous    9 connect   10 transfer   11 command line */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64                /* files may be large where a long has 32 bits */
#define VERSION "1.0"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined __linux__
#include <sys/prctl.h>
#elif defined __APPLE__
#include <sys/random.h>
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0                     /* whoever sends has SIGPIPE ignored as well */
#endif
#ifndef SOCK_NONBLOCK
#define SOCK_NONBLOCK 0
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0                 /* without it, a peer that has gone shows when a write fails */
#endif
#ifndef PASHLIB_BUFFER
#define PASHLIB_BUFFER 131072     /* bytes carried at a time; the tests also build with very few */
#endif
#define COUNT(array) (sizeof (array) / sizeof *(array))

/* ---- 1. addresses: parse, print, compare ------------------------------------------------------
 * Pure. IPv4 is held as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2): one dual-stack socket serves both. */

enum { WHY_MAX = 512, HOST_MAX = 254, ADDR_TEXT = 56 };    /* sizes of texts, their NUL included */
struct addr { unsigned char ip[16]; unsigned port; };      /* port in host order; all zero: none */
static const unsigned char v4_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

/* Write the reason of a failure into WHY (WHY_MAX bytes) and return 0: a check takes one line. */
__attribute__((format(printf, 2, 3))) static int fail(char *why, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, WHY_MAX, fmt, args);
    va_end(args);
    return 0;
}

/* The whole of S is a decimal number, digits only, of at most MAX. 1: *N is set. */
static int number(const char *s, unsigned long max, unsigned long *n) {
    if (!*s || s[strspn(s, "0123456789")]) return 0;
    *n = strtoul(s, NULL, 10);                                  /* too large: ULONG_MAX */
    return *n <= max;
}

/* Split S, which is HOST[:PORT], [IPv6][:PORT] or a bare IPv6 address, into HOST (HOST_MAX bytes)
 * and *PORT, which stays as it is where S names none. 1: done. 0: S is none of these. */
static int host_port(const char *s, char *host, unsigned *port) {
    const char *colon = strchr(s, ':'), *end = s + strlen(s), *tail = end;
    unsigned long n;
    if (*s == '[') {
        end = strchr(++s, ']');
        if (!end || !colon || colon > end) return 0;
        tail = end + 1;
    } else if (colon && colon == strrchr(s, ':')) tail = end = colon;
    if (end == s || end - s >= HOST_MAX) return 0;
    snprintf(host, HOST_MAX, "%.*s", (int)(end - s), s);
    if (!*tail) return 1;
    if (*tail != ':' || !number(tail + 1, 65535, &n) || n == 0) return 0;
    *port = (unsigned)n;
    return 1;
}

/* An IPv4 or IPv6 literal, without brackets. 1: a->ip is set. */
static int ip_parse(const char *s, struct addr *a) {
    if (inet_pton(AF_INET6, s, a->ip) == 1) return 1;
    memcpy(a->ip, v4_prefix, 12);
    return inet_pton(AF_INET, s, a->ip + 12) == 1;
}

/* IP:PORT, IPv6 in brackets. 1: *A is set. */
static int addr_parse(const char *s, struct addr *a) {
    char host[HOST_MAX];
    a->port = 0;
    return host_port(s, host, &a->port) && a->port && ip_parse(host, a);
}

static int addr_is_v4(const struct addr *a) { return memcmp(a->ip, v4_prefix, 12) == 0; }

static int addr_same(const struct addr *a, const struct addr *b) {
    return a->port == b->port && memcmp(a->ip, b->ip, 16) == 0;
}

static int addr_is_loopback(const struct addr *a) {
    return addr_is_v4(a) ? a->ip[12] == 127 : memcmp(a->ip, &in6addr_loopback, 16) == 0;
}

/* Whether it can be one host's: not unspecified, multicast or the limited broadcast address. */
static int ip_usable(const struct addr *a) {
    static const unsigned char zero[16], ones[4] = { 0xff, 0xff, 0xff, 0xff };
    if (!addr_is_v4(a)) return memcmp(a->ip, zero, 16) != 0 && a->ip[0] != 0xff;
    return memcmp(a->ip + 12, zero, 4) && memcmp(a->ip + 12, ones, 4) && (a->ip[12] & 0xf0) != 0xe0;
}

static int addr_usable(const struct addr *a) { return a->port && ip_usable(a); }

/* IP:PORT, or the IP alone where the port is 0, into TEXT (ADDR_TEXT bytes). Returns TEXT. */
static const char *addr_text(const struct addr *a, char *text) {
    char ip[INET6_ADDRSTRLEN] = "?";
    int v4 = addr_is_v4(a);
    inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? a->ip + 12 : a->ip, ip, sizeof ip);
    snprintf(text, ADDR_TEXT, !a->port ? "%s" : v4 ? "%s:%u" : "[%s]:%u", ip, a->port);
    return text;
}
#define SHOW(a) addr_text(a, (char[ADDR_TEXT]){ 0 })            /* until the end of the block */

/* As the kernel takes it, for a socket of FAMILY. Returns its size; 0: not in that family. Copied
 * into OUT as bytes: a store through another type's pointer may be moved (C99, 6.5). */
static socklen_t addr_to_kernel(const struct addr *a, int family, struct sockaddr_storage *out) {
    struct sockaddr_in in4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)a->port) };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = in4.sin_port };
    memcpy(&in4.sin_addr, a->ip + 12, 4);
    memcpy(&in6.sin6_addr, a->ip, 16);
    if (family == AF_INET) memcpy(out, &in4, sizeof in4);
    else memcpy(out, &in6, sizeof in6);
    return family != AF_INET ? sizeof in6 : addr_is_v4(a) ? sizeof in4 : 0;
}

static struct addr addr_from_kernel(const struct sockaddr_storage *from) {
    const struct sockaddr_in *in4 = (const void *)from;
    const struct sockaddr_in6 *in6 = (const void *)from;
    int v4 = from->ss_family == AF_INET;
    struct addr a = { { 0 }, ntohs(v4 ? in4->sin_port : in6->sin6_port) };
    memcpy(a.ip, v4 ? v4_prefix : (const void *)&in6->sin6_addr, v4 ? 12 : 16);
    if (v4) memcpy(a.ip + 12, &in4->sin_addr, 4);
    return a;
}

/* ---- 2. settings and log ----------------------------------------------------------------------
 * The environment, read once, into `set`, the only variable at file scope. Standard error. */

enum { LOG_ERROR, LOG_INFO, LOG_DEBUG };
enum { RDV_UNSET, RDV_DIR, RDV_DYNAMODB };
enum { SERVERS_MAX = 8, PLACE_MAX = 1024, MS_MAX = 86400000 };
struct host { char name[HOST_MAX]; unsigned port; int tcp; };
struct url { struct host at; int tls; char authority[HOST_MAX + 16], path[256]; };
struct servers { int n; struct host at[SERVERS_MAX]; };
struct place { int kind; char name[PLACE_MAX], text[PLACE_MAX + 80]; }; /* NAME: of PATH or TABLE */

typedef struct { long long at; } deadline; /* CLOCK_MONOTONIC, ms; a struct, so no duration fits */
struct job { pid_t pid; int fd; };          /* fd: a stream socket that leads to it; pid 0: none */

struct stream {
    int sends;                             /* 1: from PATH to the peer; 0: from the peer to PATH */
    const char *key, *path;
    unsigned me, peer;                      /* node numbers */
    int listener, udp, stun;                /* on the stream's port; -1: none; stun: see settle() */
    struct addr local, external;            /* what the peer is told */
    const char *source;                     /* whence the external address; NULL: not known yet */
    enum { MAPPING_UNKNOWN, MAPPING_INDEPENDENT, MAPPING_DEPENDENT } mapping;
    struct job child, rdv;                  /* its processes */
    deadline rdv_end;                       /* of the latter, once the former has ended */
};

static struct settings {
    int no_holepunch, stun_ms, peer_ms, connect_ms, level, imds_off, imds_v1_off;
    struct addr public_addr, public_ip;     /* all zero: not set */
    struct servers stun;
    struct place rdv;
    struct url imds, dynamodb;              /* dynamodb: port 0 where not set */
    const char *region, *key_id, *secret, *token;           /* NULL: not set */
    int purse[2];                           /* a pair of sockets, in which the credentials lie */
    const struct stream *who;               /* whom log lines are about; NULL: the process */
    int stuck;                              /* the last log line found no room */
} set = { .level = LOG_INFO };

/* Write SIZE bytes, once more where a signal came between. 1: done. */
static int write_whole(int fd, const void *p, size_t size) {
    ssize_t n;
    do n = write(fd, p, size); while (n < 0 && errno == EINTR);
    return n == (ssize_t)size;
}

/* Write a line to standard error. One whose reader has gone stops nothing: the SIGPIPE that this
 * causes is taken back. Nor does one that is stuck: after a second the line is dropped. */
static void log_write(const char *line, size_t len) {
    struct pollfd room = { 2, POLLOUT, 0 };
    sigset_t sigpipe, before, pending;
    int sig, n;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    do n = poll(&room, 1, set.stuck ? 0 : 1000); while (n < 0 && errno == EINTR);
    set.stuck = n < 1;
    if (set.stuck) return;
    sigprocmask(SIG_BLOCK, &sigpipe, &before);
    if (!write_whole(2, line, len) && errno == EPIPE && sigpending(&pending) == 0
        && sigismember(&pending, SIGPIPE)) sigwait(&sigpipe, &sig);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Say one line, if LEVEL is asked for. Keys, paths and what servers answer come from outside:
 * control characters (C0, DEL, and C1 as UTF-8 has them) are shown as \xNN. */
__attribute__((format(printf, 2, 3))) static void say(int level, const char *fmt, ...) {
    char text[2048], line[4 * sizeof text + 16];
    const struct stream *s = set.who;
    size_t n = 0, at;
    int c1 = 0;              /* c1: how many bytes of one are still to come */
    va_list args;
    if (level > set.level) return;
    if (s) n = (size_t)snprintf(text, sizeof text, "%s %s: ", s->sends ? "send" : "recv", s->key);
    va_start(args, fmt);
    vsnprintf(text + n, sizeof text - n, fmt, args);
    va_end(args);
    at = (size_t)sprintf(line, "pashlib: ");
    for (const unsigned char *c = (void *)text; *c; c++, c1 -= c1 > 0) {
        if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) c1 = 2;
        at += (size_t)sprintf(line + at, c1 || *c < 0x20 || *c == 0x7f ? "\\x%02x" : "%c", *c);
    }
    line[at++] = '\n';
    log_write(line, at);
}

/* The parsers. V is the value, not empty. 1: *AT is set. 0: WHY says what is wanted. */
static int parse_flag(void *at, const char *v, char *why) {
    *(int *)at = strcmp(v, "0") != 0 && strcmp(v, "false") != 0;
    return why != NULL;
}

static int parse_true(void *at, const char *v, char *why) {       /* as the AWS SDKs do */
    *(int *)at = strcasecmp(v, "true") == 0;
    return why != NULL;
}

static int parse_ms(void *at, const char *v, char *why) {
    unsigned long n;
    if (!number(v, MS_MAX, &n)) return fail(why, "want milliseconds, 0 to %d", MS_MAX);
    *(int *)at = (int)n;
    return 1;
}

static int parse_level(void *at, const char *v, char *why) {
    static const char *const names[] = { "error", "info", "debug" };
    for (int i = 0; i < (int)COUNT(names); i++)
        if (strcmp(v, names[i]) == 0) { *(int *)at = i; return 1; }
    return fail(why, "want error, info or debug");
}

static int parse_public_addr(void *at, const char *v, char *why) {
    return (addr_parse(v, at) && ip_usable(at))
        || fail(why, "want IP:PORT of one host, as 203.0.113.7:5000 or [2001:db8::7]:5000");
}

static int parse_public_ip(void *at, const char *v, char *why) {
    return (ip_parse(v, at) && ip_usable(at))
        || fail(why, "want the IP of one host, as 203.0.113.7 or 2001:db8::7");
}

static const char letters[] = "-_.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/* HOST[:PORT]: a literal address, or a name, the last label of which is not a number. */
static int parse_host(struct host *h, const char *v, char *why) {
    struct addr a;
    unsigned long n;
    if (!host_port(v, h->name, &h->port)) return fail(why, "\"%s\" is no HOST or HOST:PORT", v);
    if (ip_parse(h->name, &a))
        return ip_usable(&a) || fail(why, "%s is not the address of one host", h->name);
    const char *dot = strrchr(h->name, '.');
    if (number(dot ? dot + 1 : h->name, ULONG_MAX, &n) || h->name[strspn(h->name, letters)])
        return fail(why, "\"%s\" is no host name", h->name);
    return 1;
}

static int parse_servers(void *at, const char *v, char *why) {
    struct servers *list = at;
    char item[HOST_MAX + 16];
    for (list->n = 0;; v++) {
        size_t len = strcspn(v, ",");
        struct host *h = &list->at[list->n];
        if (list->n == SERVERS_MAX) return fail(why, "want at most %d servers", SERVERS_MAX);
        if (len == 0 || len >= sizeof item) return fail(why, "want [udp:|tcp:]HOST[:PORT],...");
        snprintf(item, sizeof item, "%.*s", (int)len, v);
        h->tcp = strncmp(item, "tcp:", 4) == 0;
        h->port = 3478;                                         /* RFC 8489, 18.6 */
        if (!parse_host(h, item + (h->tcp || !strncmp(item, "udp:", 4) ? 4 : 0), why)) return 0;
        list->n++;
        if (!*(v += len)) return 1;
    }
}

/* dir:PATH, trailing slashes dropped (behind them lstat would follow a link), or dynamodb:TABLE. */
static int parse_place(void *at, const char *v, char *why) {
    struct place *p = at;
    size_t len = strlen(v);
    int dir = strncmp(v, "dir:", 4) == 0;
    if (len >= PLACE_MAX) return fail(why, "want at most %d bytes", PLACE_MAX - 1);
    memcpy(p->text, v, len + 1);
    while (dir && len > 5 && p->text[len - 1] == '/') p->text[--len] = 0;
    strcpy(p->name, p->text + (dir || len < 9 ? strnlen(p->text, 4) : 9));
    p->kind = dir ? RDV_DIR : RDV_DYNAMODB;
    if (dir) return *p->name || fail(why, "want a PATH behind the colon");
    if (strncmp(v, "dynamodb:", 9) != 0) return fail(why, "want dir:PATH or dynamodb:TABLE");
    if (len >= 9 + 3 && len <= 9 + 255 && !p->name[strspn(p->name, letters)]) return 1;
    return fail(why, "want a TABLE of 3 to 255 letters, digits, - _ and .");
}

static int parse_word(void *at, const char *v, char *why) {
    for (const char *c = v; *c; c++)
        if (*c <= ' ' || *c > '~') return fail(why, "want printable ASCII without blanks");
    *(const char **)at = v;
    return 1;
}

static int parse_url(void *at, const char *v, char *why) {
    struct url *u = at;
    size_t len, path;
    u->tls = strncasecmp(v, "https://", 8) == 0;
    if (u->tls ? u == &set.imds : strncasecmp(v, "http://", 7) != 0)
        return fail(why, "want http://HOST[:PORT][/PATH]");
    v += u->tls ? 8 : 7;
    len = strcspn(v, "/");
    path = strlen(v + len);
    while (path && v[len + path - 1] == '/') path--;
    if (len >= sizeof u->authority || path >= sizeof u->path) return fail(why, "it is too long");
    snprintf(u->authority, sizeof u->authority, "%.*s", (int)len, v);
    snprintf(u->path, sizeof u->path, "%.*s", (int)path, v + len);
    if (!parse_word(&v, u->path, why)) return fail(why, "its path is not printable ASCII");
    u->at.port = 80;
    return parse_host(&u->at, u->authority, why);
}

/* Every setting: this table parses them and prints --help; the tests hold README against it. Of two
 * rows for one member, the upper counts. */
static const struct setting {
    const char *name, *unset;               /* UNSET: the value where there is none, or NULL */
    int (*parse)(void *at, const char *v, char *why);
    void *at;
    const char *what;
} table[] = {
#define ROW(name, dflt, type, member, what) { name, dflt, parse_##type, &set.member, what }
    ROW("PASH_NO_HOLEPUNCH", NULL, flag, no_holepunch, "1: ask neither STUN nor IMDS"),
    ROW("PASH_PUBLIC_ADDR", NULL, public_addr, public_addr, "IP:PORT, fallback; first local port"),
    ROW("PASH_PUBLIC_IP", NULL, public_ip, public_ip, "IP, fallback external address"),
    ROW("PASH_STUN_TIMEOUT_MS", "8000", ms, stun_ms, "longest that STUN may take; 0: none"),
    ROW("PASH_STUN_SERVER", "stun.l.google.com:19302", servers, stun, "[tcp:]HOST[:PORT],..."),
    ROW("PASH_RENDEZVOUS", NULL, place, rdv, "dir:PATH or dynamodb:TABLE; default below"),
    ROW("PASH_PEER_TIMEOUT_MS", "300000", ms, peer_ms, "longest wait for the peer"),
    ROW("PASH_CONNECT_TIMEOUT_MS", "30000", ms, connect_ms, "longest that connecting may take"),
    ROW("PASH_LOG", "info", level, level, "error, info or debug"),
    ROW("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254", url, imds, "IMDS"),
    ROW("AWS_EC2_METADATA_DISABLED", NULL, true, imds_off, "true: do not ask IMDS"),
    ROW("AWS_EC2_METADATA_V1_DISABLED", NULL, true, imds_v1_off, "true: IMDSv2 or nothing"),
    ROW("AWS_REGION", NULL, word, region, "region of the DynamoDB table"),
    ROW("AWS_DEFAULT_REGION", NULL, word, region, "the same, where AWS_REGION is not set"),
    ROW("AWS_ACCESS_KEY_ID", NULL, word, key_id, "credentials; else the instance role's"),
    ROW("AWS_SECRET_ACCESS_KEY", NULL, word, secret, "the secret that belongs to it"),
    ROW("AWS_SESSION_TOKEN", NULL, word, token, "the token, where it is temporary"),
    ROW("AWS_ENDPOINT_URL_DYNAMODB", NULL, url, dynamodb, "http://HOST[:PORT] of DynamoDB"),
    ROW("AWS_ENDPOINT_URL", NULL, url, dynamodb, "the same, for want of the former"),
};

/* Read the environment into `set`, each value checked; empty is none. 0: said which are wrong. */
static int settings_read(void) {
    char why[WHY_MAX], dflt[PATH_MAX];
    const char *v, *tmp = getenv("TMPDIR");
    int bad = 0;
    for (size_t i = COUNT(table); i > 0; i--) {
        const struct setting *t = &table[i - 1];
        if (!(v = getenv(t->name)) || !*v) v = t->unset;
        if (!v || t->parse(t->at, v, why)) continue;
        if (strstr(t->name, "SECRET") || strstr(t->name, "TOKEN")) v = "(not shown)";
        say(LOG_ERROR, "%s is \"%s\": %s", t->name, v, why);
        bad = 1;
    }
    if (!tmp || !*tmp) tmp = "/tmp";
    snprintf(dflt, sizeof dflt, set.region ? "dynamodb:rdv" : "dir:%s/pashlib-%lu", tmp,
             (unsigned long)geteuid());
    if (set.rdv.kind != RDV_UNSET || parse_place(&set.rdv, dflt, why)) return !bad;
    say(LOG_ERROR, "TMPDIR is \"%s\": %s", tmp, why);
    return 0;
}

/* ---- 3. clock, descriptors, jobs --------------------------------------------------------------
 * Deadlines, poll(), sockets, and jobs: children for what would block, ended in time. */

static long long clock_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static deadline after(long long ms) { return (deadline){ clock_ms(CLOCK_MONOTONIC) + ms }; }
static deadline sooner(deadline a, deadline b) { return a.at < b.at ? a : b; }
static deadline later(deadline a, deadline b) { return a.at < b.at ? b : a; }

static int ms_left(deadline d) {
    long long left = d.at - clock_ms(CLOCK_MONOTONIC);
    return left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

static void die(const char *what) { say(LOG_ERROR, "%s: %s", what, strerror(errno)); _exit(1); }

/* Wait for one of N descriptors until END. How many have something; 0 also after a signal. */
static int wait_for(struct pollfd *fds, size_t n, deadline end) {
    int r = poll(fds, (nfds_t)n, ms_left(end));
    if (r < 0 && errno != EINTR && errno != EAGAIN) die("poll");
    for (size_t i = 0; i < n && r < 0; i++) fds[i].revents = 0;
    return r < 0 ? 0 : r;
}

static int wait_for_one(int fd, short events, deadline end) {
    return wait_for(&(struct pollfd){ fd, events, 0 }, 1, end);
}

static int would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }
static void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }
static void close_fd(int *fd) { if (*fd >= 0) close(*fd); *fd = -1; }

/* Numbers of N bytes, big-endian. */
static void put(unsigned char *p, int n, uint64_t v) { for (; n > 0; v >>= 8) p[--n] = v & 0xff; }
static uint64_t get(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v = v << 8 | p[i];
    return v;
}

static void random_bytes(unsigned char *p, size_t n) {          /* n: at most 256 */
    if (getentropy(p, n) < 0) die("no random numbers from the kernel");
}

static int set_option(int fd, int level, int option, int value) {
    return setsockopt(fd, level, option, &value, sizeof value) == 0;
}

/* A non-blocking socket for IPv6 and IPv4, or, where a host has no such, for IPv4. -1: errno. */
static int socket_open(int type) {
    int fd = socket(AF_INET6, type | SOCK_NONBLOCK, 0);
    if (fd >= 0 && !set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)) close_fd(&fd);
    if (fd < 0) fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
    if (fd >= 0 && !SOCK_NONBLOCK) set_nonblocking(fd);
    return fd;
}

/* Let FD close without a trace: by a reset, where TCP would keep its two ports in TIME_WAIT. */
static void close_hard(int fd) {
    struct linger none = { 1, 0 };
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

static void close_now(int *fd) { close_hard(*fd); close_fd(fd); }

/* The address that FD has; before it is bound: the unspecified one of its family, and port 0. */
static struct addr socket_address(int fd, struct sockaddr_storage *kernel) {
    socklen_t len = sizeof *kernel;
    *kernel = (struct sockaddr_storage){ 0 };
    getsockname(fd, (struct sockaddr *)kernel, &len);
    return addr_from_kernel(kernel);
}

/* Bind to PORT on all addresses; 0: to one that is free. 1: done. 0: errno. */
static int socket_bind(int fd, unsigned port) {
    struct sockaddr_storage any;
    struct addr a = socket_address(fd, &any);
    a.port = port;
    return bind(fd, (struct sockaddr *)&any, addr_to_kernel(&a, any.ss_family, &any)) == 0;
}

/* A socket on PORT, which others of this process have, too. -1: errno, which close() leaves. */
static int socket_on(int type, unsigned port) {
    int fd = socket_open(type);
    if (fd >= 0 && !(set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)
        && set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) && socket_bind(fd, port))) close_fd(&fd);
    return fd;
}

/* Connect, without waiting. 0: done. Otherwise an error number, EINPROGRESS among others. */
static int socket_connect(int fd, const struct addr *to) {
    struct sockaddr_storage ss;
    socket_address(fd, &ss);
    socklen_t len = addr_to_kernel(to, ss.ss_family, &ss);
    int error = !len ? EAFNOSUPPORT : connect(fd, (struct sockaddr *)&ss, len) < 0 ? errno : 0;
    say(LOG_DEBUG, "connect(%d, %s): %s", fd, SHOW(to), error ? strerror(error) : "done");
    return error;
}

static int socket_error(int fd) {
    int e = 0;
    socklen_t len = sizeof e;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0 ? errno : e;
}

/* Run RUN(its end of a socket pair, ARG) in a child, which ends with us and to which SIGPIPE is an
 * error of a write. 1: *J is set. 0: WHY. */
static int job_start(struct job *j, void (*run)(int, const void *), const void *arg, char *why) {
    int fd[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0)
        return fail(why, "socketpair: %s", strerror(errno));
    j->pid = fork();
    if (j->pid == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        if (getppid() != parent) _exit(1);                      /* it went before prctl() */
        signal(SIGPIPE, SIG_IGN);
        close(fd[0]);
        run(fd[1], arg);
        _exit(0);
    }
    close(fd[1]);
    j->fd = fd[0];
    if (j->pid > 0) return 1;
    close_fd(&j->fd);
    j->pid = 0;
    return fail(why, "fork: %s", strerror(errno));
}

static void job_end(struct job *j) {
    if (!j->pid) return;
    kill(j->pid, SIGKILL);
    while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR) continue;
    close(j->fd);
    j->pid = 0;
}

/* A job answers with structs. Read one. 0: the job ended without. */
static int job_read(int fd, void *p, size_t size) {
    ssize_t n;
    do n = recv(fd, p, size, MSG_WAITALL); while (n < 0 && errno == EINTR);
    return n == (ssize_t)size;
}

static void job_write(int fd, const void *message, size_t size) {
    if (!write_whole(fd, message, size)) _exit(1);              /* nobody waits for it any more */
}

struct lookup { int n; struct addr at[8]; char why[WHY_MAX]; };     /* what was found; n 0: WHY */

/* Look H up: a literal at once, a name by the resolver, however long that takes. IPv4 first. */
static void lookup_now(const struct host *h, struct lookup *found) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    found->n = ip_parse(h->name, &found->at[0]);
    found->at[0].port = h->port;
    if (found->n) return;
    int error = getaddrinfo(h->name, NULL, &hints, &list);
    for (int v4 = 1; v4 >= 0; v4--)
        for (struct addrinfo *i = list; i && found->n < (int)COUNT(found->at); i = i->ai_next) {
            struct addr *a = &found->at[found->n];
            *a = addr_from_kernel((void *)i->ai_addr);
            a->port = h->port;
            found->n += addr_is_v4(a) == v4 && addr_usable(a);
        }
    if (list) freeaddrinfo(list);
    fail(found->why, "name look-up of %s: %s", h->name, error ? gai_strerror(error) : "no address");
}

static void lookup_job(int fd, const void *arg) {
    struct lookup found = { 0 };
    lookup_now(arg, &found);
    job_write(fd, &found, sizeof found);
}

/* ---- 4. STUN (RFC 8489): ask a server from which address it sees us ---------------------------
 * Decoding is pure; stun_start(), stun_send() and stun_read() touch the network. */

enum { STUN_MAX = 2048, STUN_RTO_MS = 500, STUN_SENDS = 5, STUN_COOKIE = 0x2112a442 };
enum { STUN_DROP, STUN_ADDRESS, STUN_ERROR };

/* (XOR-)MAPPED-ADDRESS (RFC 8489, 14.1 and 14.2), N bytes: a zero byte, the family, the port, 4 or
 * 16 bytes of address. XOR: 16 bytes, the cookie and the id, or zeros. 1: *A is set. */
static int stun_address(const unsigned char *v, size_t n, const unsigned char *xor, struct addr *a,
                        char *why) {
    if ((n != 8 || v[1] != 1) && (n != 20 || v[1] != 2))
        return fail(why, "its address is malformed");
    memcpy(a->ip, v4_prefix, 12);
    for (size_t i = 4; i < n; i++) a->ip[16 + i - n] = v[i] ^ xor[i - 4];
    a->port = (unsigned)(get(v + 2, 2) ^ get(xor, 2));
    return addr_usable(a) || fail(why, "its address cannot be ours");
}

/* Decode the LEN bytes at M, an answer to our request ID (12 bytes; RFC 8489, 5, 6.3.3, 6.3.4, 14).
 * STUN_ADDRESS: *A is set. STUN_ERROR: WHY has the server's code and reason. STUN_DROP: WHY has
 * what is wrong; the caller waits on, since it may be forged. */
static int stun_decode(const unsigned char *m, size_t len, const unsigned char *id, struct addr *a,
                       char *why) {
    unsigned char xor[16], zero[16] = { 0 };
    int exact = 0, plain = 0, code = 0;
    if (len < 20) return fail(why, "%zu bytes are no STUN header", len);
    put(xor, 4, STUN_COOKIE);
    memcpy(xor + 4, id, 12);
    if (m[0] != 1 || (m[1] != 0x01 && m[1] != 0x11) || get(m + 2, 2) != len - 20
        || memcmp(m + 4, xor, 16)) return fail(why, "not an answer to our request");
    for (size_t at = 20, next; at < len; at = next) {   /* attributes: kind, size, value, padding */
        unsigned kind = len - at < 2 ? 0 : (unsigned)get(m + at, 2);
        size_t n = len - at < 4 ? len : (size_t)get(m + at + 2, 2);
        next = at + 4 + (n + 3) / 4 * 4;
        if (next > len) return fail(why, "attribute 0x%04x runs past the end", kind);
        const unsigned char *v = m + at + 4;
        if (kind == 0x0020 && !exact && !(exact = stun_address(v, n, xor, a, why))) return 0;
        if (kind == 0x0001 && !exact && !plain) plain = stun_address(v, n, zero, a, why);
        if (kind == 0x0009 && n >= 4 && !code) {                /* ERROR-CODE (RFC 8489, 14.8) */
            code = (v[2] & 7) * 100 + v[3];
            fail(why, "error %d %.*s", code, n > 132 ? 128 : (int)n - 4, (const char *)v + 4);
        }
    }
    if (m[1] == 0x11) return code ? STUN_ERROR : fail(why, "an error without a code");
    return exact || plain ? STUN_ADDRESS : fail(why, "no address in it");
}

struct query {
    enum { QUERY_WAITS, QUERY_ANSWERED, QUERY_FAILED } state;
    int fd, tcp, next, sends;               /* fd: -1: ask its NEXT address; requests sent */
    unsigned char id[12], in[STUN_MAX];     /* in: HAVE bytes of an answer */
    size_t have;
    deadline resend;
    struct addr server, mapped;             /* whom it asks; as what that sees us */
    char why[WHY_MAX];
};

static void stun_failed(struct query *q, int error) {             /* gives this address up */
    fail(q->why, "%s", strerror(error));
    close_now(&q->fd);
}

/* Send the request: by UDP after 0, 500, 1500, 3500 and 7500 ms (RFC 8489, 6.2.1), by TCP once, as
 * soon as poll() says that it is connected (6.2.2). */
static void stun_send(struct query *q) {
    unsigned char m[20] = { 0, 1, 0, 0 };       /* Binding request, no attributes (RFC 8489, 5) */
    put(m + 4, 4, STUN_COOKIE);
    memcpy(m + 8, q->id, 12);
    q->sends++;
    q->resend = after(q->tcp || q->sends == STUN_SENDS ? MS_MAX : STUN_RTO_MS / 2 << q->sends);
    if (send(q->fd, m, sizeof m, MSG_NOSIGNAL) < 0 && !would_block()) stun_failed(q, errno);
}

/* Ask the next of the server's addresses, from PORT; by TCP, poll() says when it can be asked. */
static void stun_start(struct query *q, const struct lookup *server, unsigned port) {
    if (server->n == 0) fail(q->why, "%s", server->why);
    if (q->next == server->n) { q->state = QUERY_FAILED; return; }
    q->server = server->at[q->next++];
    q->sends = 0;
    q->have = 0;
    q->resend = after(MS_MAX);
    random_bytes(q->id, sizeof q->id);
    q->fd = socket_on(q->tcp ? SOCK_STREAM : SOCK_DGRAM, port);
    int error = q->fd < 0 ? errno : socket_connect(q->fd, &q->server);
    if (error && error != EINPROGRESS) stun_failed(q, error);
    else if (q->tcp) close_hard(q->fd);         /* however we end, PORT may ask again at once */
    else stun_send(q);
}

/* Take a datagram, or what has come of an answer by TCP. An error of the socket (an ICMP message, a
 * local firewall, a reset) ends this address of the server, and so does what cannot be framed; an
 * error response ends the server. What else is no good answer is dropped. */
static void stun_read(struct query *q) {
    size_t whole = !q->tcp ? STUN_MAX : q->have < 20 ? 20 : 20 + (size_t)get(q->in + 2, 2);
    ssize_t n = recv(q->fd, q->in + q->have, whole - q->have, 0);
    if (n < 0 && would_block()) return;
    if (n < 0 || (n == 0 && q->tcp)) { stun_failed(q, n ? errno : ECONNRESET); return; }
    q->have += (size_t)n;
    if (q->tcp && q->have == 20) whole = 20 + (size_t)get(q->in + 2, 2);
    if (whole > STUN_MAX) { stun_failed(q, EMSGSIZE); return; }
    if (q->tcp && q->have < whole) return;
    int got = stun_decode(q->in, q->have, q->id, &q->mapped, q->why);
    say(LOG_DEBUG, "%zu bytes from a STUN server: %s", q->have,
        got == STUN_ADDRESS ? "good" : q->why);
    q->have = 0;
    if (got == STUN_DROP) return;
    q->state = got == STUN_ADDRESS ? QUERY_ANSWERED : QUERY_FAILED;
}

/* ---- 5. HTTP and the instance metadata service (IMDS) -----------------------------------------
 * Decoding is pure; http_ask() touches the network (TCP). IMDS is asked in a job, in plain
 * sequence; see AWS, "Use the Instance Metadata Service to access instance metadata". No files. */

enum { HTTP_MAX = 1 << 20, IMDS_MAX = 16384, TOKEN_MAX = 3072 };        /* bytes of a response */
enum { IMDS_MS = 2000, IMDS_TOKEN_MS = 1000 };
enum { HTTP_NOT_CONNECTED, HTTP_NO_ANSWER };    /* what may stand in place of a status */
struct http { int status; size_t body, body_len; };           /* body: its offset in the message */

/* Join a body's chunks (RFC 9112, 7.1). 1: *LEN bytes. 0: WHY; if empty, wait, none was moved. */
static int http_chunks(char *body, size_t *len, int join, char *why) {
    char *p = body, *out = body, *end = body + *len, *eol;
    unsigned long n = 1;
    while (n) {
        if (!(eol = memchr(p, '\n', (size_t)(end - p)))) return 0;
        n = strspn(p, "0123456789abcdefABCDEF");
        if (n == 0 || n > 6 || !memchr("; \t\r\n", p[n], 5))    /* strtoul() would take 0x */
            return fail(why, "a chunk without a size");
        n = strtoul(p, NULL, 16);
        p = eol + 1;
        if ((size_t)(end - p) < n + 2) return 0;
        if (join) memmove(out, p, n);
        out += n;
        p += n + 2;
    }
    if (!join) return http_chunks(body, len, 1, why);           /* first look, then move */
    *len = (size_t)(out - body);
    return 1;
}

/* Decode the LEN bytes at M, an HTTP/1.x response (RFC 9112). ENDED: the server has closed, which
 * ends a body without Content-Length. 1: *H is set. 0: WHY; where it is empty, more is to come. */
static int http_decode(char *m, size_t len, int ended, struct http *h, char *why) {
    const char *line = m, *eol, *chunked = NULL, *value = NULL; /* value: of Content-Length */
    char code[4] = "";
    unsigned long n;
    why[0] = 0;
    while ((eol = memchr(line, '\n', len - (size_t)(line - m))) && eol - line > (*line == '\r')) {
        if (strncasecmp(line, "Transfer-Encoding:", 18) == 0) chunked = line;
        if (!value && strncasecmp(line, "Content-Length:", 15) == 0) value = line + 15;
        line = eol + 1;                                         /* up to the empty line */
    }
    if (!eol) return ended ? fail(why, "the answer is cut in its head") : 0;
    h->body = (size_t)(eol + 1 - m);
    h->body_len = len - h->body;
    if (h->body < 14 || memcmp(m, "HTTP/1.", 7) != 0 || m[8] != ' '
        || !number(memcpy(code, m + 9, 3), 599, &n) || n < 100)
        return fail(why, "it is no HTTP response");
    h->status = (int)n;
    if (chunked && http_chunks(m + h->body, &h->body_len, 0, why)) return 1;
    if (chunked) return !ended || why[0] ? 0 : fail(why, "the body is cut in its chunks");
    if (!value) return ended;
    value += strspn(value, " \t");
    n = *value > ' ' ? strtoul(value, NULL, 10) : ULONG_MAX;    /* it would skip the line's end */
    if (!memchr(" \t\r\n", value[strspn(value, "0123456789")], 4) || n > HTTP_MAX)
        return fail(why, "Content-Length is \"%.*s\"", (int)strcspn(value, " \t\r\n"), value);
    if (h->body_len < n)
        return ended ? fail(why, "the body is cut: %zu of %lu bytes", h->body_len, n) : 0;
    h->body_len = n;
    return 1;
}

/* Connect to the first of the addresses TO that lets us, until END. A socket, or -1 and WHY. */
static int http_connect(const struct lookup *to, deadline end, char *why) {
    if (!to->n) fail(why, "%s", to->why);
    for (int i = 0; i < to->n; i++) {
        int fd = socket_open(SOCK_STREAM), error = fd < 0 ? errno : socket_connect(fd, &to->at[i]);
        if (error == EINPROGRESS)
            error = wait_for_one(fd, POLLOUT, end) ? socket_error(fd) : ETIMEDOUT;
        if (!error) return fd;
        close_fd(&fd);
        fail(why, "%s: %s", SHOW(&to->at[i]), strerror(error));
    }
    return -1;
}

/* Send REQUEST to TO; the answer, a NUL behind it, comes into M (MAX bytes). 1: *H. 0: WHY. */
static int http_ask(const struct lookup *to, const char *request, char *m, size_t max,
                    struct http *h, deadline end, char *why) {
    size_t have = 0;
    int fd = http_connect(to, end, why), done = 0;
    h->status = fd < 0 ? HTTP_NOT_CONNECTED : HTTP_NO_ANSWER;
    if (fd < 0) return 0;
    for (why[0] = 0; !done && !why[0];) {
        wait_for_one(fd, *request ? POLLOUT : POLLIN, end);
        ssize_t n = *request ? send(fd, request, strlen(request), MSG_NOSIGNAL)
                             : recv(fd, m + have, max - 1 - have, 0);
        if (!ms_left(end)) fail(why, "no whole answer in time");
        else if (n < 0 && !would_block()) fail(why, "%s", strerror(errno));
        else if (n >= 0 && *request) request += n;
        else if (n >= 0) {
            have += (size_t)n;
            done = http_decode(m, have, n == 0, h, why);
            if (!done && !why[0] && have == max - 1) fail(why, "the answer is too long");
        }
    }
    close_fd(&fd);
    if (done) m[h->body + h->body_len] = 0;
    return done;
}

/* GET PATH from IMDS into M (IMDS_MAX bytes): IMDSv2, or v1 where no token is to be had. 0: WHY. */
static int imds_get(const char *path, char *m, struct http *h, deadline end, char *why) {
    const char *root = set.imds.path, *host = set.imds.authority, *token = "";
    char request[IMDS_MAX + sizeof set.imds + 256];             /* room for a token out of M */
    struct lookup to = { 0 };
    lookup_now(&set.imds.at, &to);
    snprintf(request, sizeof request, "PUT %s/latest/api/token HTTP/1.0\r\nHost: %s\r\n"
             "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n", root, host);
    if (http_ask(&to, request, m, IMDS_MAX, h, sooner(end, after(IMDS_TOKEN_MS)), why)) {
        int s = h->status;
        fail(why, "PUT /latest/api/token: status %d", s);
        if (s == 200) token = m + h->body;
        else if (s != 401 && s != 403 && s != 404 && s != 405 && s < 500) return 0;
        if (s == 200 && h->body_len == 0) return fail(why, "its token has 0 bytes");
        if (s == 200 && (strlen(token) != h->body_len || !parse_word(&token, token, why)))
            return fail(why, "its token is not ASCII");
    }
    size_t n = strlen(why);
    if (!*token && set.imds_v1_off)
        return snprintf(why + n, WHY_MAX - n, ", and AWS_EC2_METADATA_V1_DISABLED is true") < 0;
    snprintf(request, sizeof request, "GET %s%s HTTP/1.0\r\nHost: %s%s%s\r\n\r\n", root, path, host,
             *token ? "\r\nX-aws-ec2-metadata-token: " : "", token);
    return http_ask(&to, request, m, IMDS_MAX, h, end, why);
}

/* Job: the public IPv4 address of this instance, as a struct lookup. ARG: the deadline. */
static void imds_job(int fd, const void *arg) {
    struct lookup found = { 0 };
    struct http h;
    char m[IMDS_MAX], *text;
    if (imds_get("/latest/meta-data/public-ipv4", m, &h, *(const deadline *)arg, found.why)) {
        text = m + h.body;
        while (h.body_len && memchr(" \t\r\n", text[h.body_len - 1], 4)) text[--h.body_len] = 0;
        if (h.status == 404) fail(found.why, "this instance has no public IPv4 address");
        else if (h.status != 200) fail(found.why, "GET public-ipv4: status %d", h.status);
        else found.n = (strlen(text) == h.body_len && !strchr(text, ':')
            && ip_parse(text, &found.at[0]) && ip_usable(&found.at[0]))
            || fail(found.why, "\"%.64s\" is no public IPv4 address", text);
    }
    job_write(fd, &found, sizeof found);
}

/* ---- 6. discovery: the address that others see, for all streams at once -----------------------
 * STUN has a head start; then the fallback chain is asked too: PASH_PUBLIC_ADDR, PASH_PUBLIC_IP,
 * IMDS, the local address. Touches the network: listens on a port a stream, asks STUN and IMDS. */

enum { HEAD_START_MS = 750, SECOND_MS = 100, TICK_MS = 20, IMDS = SERVERS_MAX };
struct discovery {
    struct stream *streams;
    int n, servers, tcp, both;      /* tcp: of them; both: two answers are worth the head start */
    struct query *queries;                  /* of stream i to server k: [i * servers + k] */
    struct pollfd *fds;                     /* of the jobs, then of the queries that wait */
    struct job jobs[IMDS + 1];              /* [k] looks server k up, [IMDS] asks IMDS */
    struct lookup found[IMDS + 1];          /* what they found */
    deadline head, second;                  /* of the head start; of the wait for a second answer */
    deadline end, imds_end;                 /* of STUN; of IMDS, 0: not asked */
};

/* Take a port for S: FIRST, or the next that is free; 0: any. TCP and UDP, each without sharing, so
 * that no two processes get the same; then the sockets that connect from it may share it. */
static int port_take(struct stream *s, unsigned first, char *why) {
    struct sockaddr_storage ss;
    for (int tries = 0; first <= 65535 && (first || tries < 100); tries++, first += first > 0) {
        s->listener = socket_open(SOCK_STREAM);
        s->udp = socket_open(SOCK_DGRAM);
        if (s->listener < 0 || s->udp < 0) return fail(why, "socket: %s", strerror(errno));
        /* SO_REUSEADDR: never past another listener, but past what closed connections leave. */
        if (set_option(s->listener, SOL_SOCKET, SO_REUSEADDR, 1) && socket_bind(s->listener, first)
            && listen(s->listener, 128) == 0) {
            s->local.port = socket_address(s->listener, &ss).port;
            if (socket_bind(s->udp, s->local.port)
                && set_option(s->udp, SOL_SOCKET, SO_REUSEPORT, 1)
                && set_option(s->listener, SOL_SOCKET, SO_REUSEPORT, 1)) return 1;
        }
        if (errno != EADDRINUSE) return fail(why, "port %u: %s", first, strerror(errno));
        close_fd(&s->listener);
        close_fd(&s->udp);
    }
    return fail(why, set.public_addr.port ? "no port is free from %u (PASH_PUBLIC_ADDR) on"
                                          : "no port is free", set.public_addr.port);
}

/* The address that the kernel would send from towards TO: a UDP connect, which sends nothing. */
static int local_towards(const struct addr *to, struct addr *local) {
    struct sockaddr_storage ss;
    int fd = socket_open(SOCK_DGRAM), good = fd >= 0 && socket_connect(fd, to) == 0;
    if (good) memcpy(local->ip, socket_address(fd, &ss).ip, sizeof local->ip);
    close_fd(&fd);
    return good && ip_usable(local);
}

/* The local address: towards the outside (addresses for documentation, RFC 5737 and 3849), else
 * towards a STUN server, else loopback. Never the unspecified one. */
static void local_address(const struct discovery *d, struct addr *local) {
    struct addr to = { { 0 }, 9 };
    if (ip_parse("203.0.113.1", &to) && local_towards(&to, local)) return;
    if (ip_parse("2001:db8::1", &to) && local_towards(&to, local)) return;
    for (int k = 0; k < d->servers; k++)
        for (int i = 0; i < d->found[k].n; i++)
            if (local_towards(&d->found[k].at[i], local)) return;
    ip_parse("127.0.0.1", local);
}

static int use(struct stream *s, const char *source, const struct addr *ip, unsigned port) {
    s->source = source;
    s->external = *ip;
    s->external.port = port;
    return 1;
}

/* Decide on the external address of stream number I. What TCP gives is exact, so it is preferred,
 * and its connection kept until the stream's stands, or the mapping could go. A second answer by
 * the same way shows how the NAT maps (RFC 5780, 4.3). 1: decided. 0: not yet. */
static int settle(struct discovery *d, int i) {
    struct stream *s = &d->streams[i];
    struct query *q = d->queries + i * d->servers, *first[2] = { NULL, NULL };  /* UDP's, TCP's */
    int waits[2] = { 0, 0 }, failed;
    for (int k = 0; k < d->servers; k++, q++) {
        struct query *f = first[q->tcp];
        waits[q->tcp] += q->state == QUERY_WAITS;
        if (q->state != QUERY_ANSWERED) continue;
        if (!f) first[q->tcp] = q;
        else if (addr_is_v4(&f->mapped) != addr_is_v4(&q->mapped)
                 || addr_same(&f->server, &q->server)) continue;        /* one server, twice */
        else if (!addr_same(&f->mapped, &q->mapped)) s->mapping = MAPPING_DEPENDENT;
        else if (!s->mapping) s->mapping = MAPPING_INDEPENDENT;
    }
    failed = !(waits[0] + waits[1]) || !ms_left(d->end);
    q = first[1] ? first[1] : first[0];
    if (q && !d->second.at) d->second = d->both ? d->head : after(SECOND_MS);
    if (!failed && ms_left(d->head) && (!q || (waits[1] && !first[1])
        || (!s->mapping && ms_left(d->second)))) return 0;
    if (q) {
        s->stun = q->tcp ? q->fd : -1;
        q->fd = q->tcp ? -1 : q->fd;
        return use(s, "stun", &q->mapped, q->mapped.port);
    }
    if (set.public_addr.port) return use(s, "PASH_PUBLIC_ADDR", &set.public_addr, s->local.port);
    if (ip_usable(&set.public_ip)) return use(s, "PASH_PUBLIC_IP", &set.public_ip, s->local.port);
    if (!d->imds_end.at && !set.no_holepunch) {
        d->imds_end = after(IMDS_MS);
        if (set.imds_off) fail(d->found[IMDS].why, "AWS_EC2_METADATA_DISABLED is true");
        else job_start(&d->jobs[IMDS], imds_job, &d->imds_end, d->found[IMDS].why);
    }
    if (d->found[IMDS].n) return use(s, "imds", d->found[IMDS].at, s->local.port);
    return failed && !d->jobs[IMDS].pid && use(s, "local", &s->local, s->local.port);
}

/* Send what is due; wait, one tick at most, lest a deadline pass unseen; take what has come. */
static void discovery_turn(struct discovery *d) {
    struct pollfd *f = d->fds;                  /* poll() takes no more than may be open */
    for (int k = 0; k <= IMDS; k++)
        if (d->jobs[k].pid) *f++ = (struct pollfd){ d->jobs[k].fd, POLLIN, 0 };
    for (int i = 0; i < d->n * d->servers; i++) {
        struct query *q = &d->queries[i];
        int k = i % d->servers;
        if (q->state != QUERY_WAITS || d->jobs[k].pid) continue;
        if (q->fd < 0) stun_start(q, &d->found[k], d->streams[i / d->servers].local.port);
        else if (!ms_left(q->resend)) stun_send(q);
        if (q->fd >= 0) *f++ = (struct pollfd){ q->fd, q->sends ? POLLIN : POLLOUT, 0 };
    }
    wait_for(d->fds, (size_t)(f - d->fds), after(TICK_MS));

    f = d->fds;
    for (int k = 0; k <= IMDS; k++) {
        struct lookup *found = &d->found[k];
        if (!d->jobs[k].pid || !f++->revents) continue;
        if (!job_read(d->jobs[k].fd, found, sizeof *found)) fail(found->why, "its job died");
        job_end(&d->jobs[k]);
    }
    for (struct query *q = d->queries; q < d->queries + d->n * d->servers; q++) {
        if (q->state != QUERY_WAITS || q->fd < 0 || !f++->revents) continue;
        stun_read(q);                           /* takes an error, too: of connect(), by TCP */
        if (q->fd >= 0 && !q->sends) stun_send(q);
    }
    if (!d->jobs[IMDS].pid || ms_left(d->imds_end)) return;
    fail(d->found[IMDS].why, "%s: no answer within 2 s", set.imds.authority);
    job_end(&d->jobs[IMDS]);
}

static void stun_reasons(const struct discovery *d, int i, char *why) {
    struct query *q = d->queries + i * d->servers;
    size_t at = 0;
    if (!d->servers)
        fail(why, "skipped (PASH_%s)", set.no_holepunch ? "NO_HOLEPUNCH" : "STUN_TIMEOUT_MS=0");
    for (int k = 0; k < d->servers && at < WHY_MAX; k++, q++) {
        if (q->state != QUERY_FAILED)
            fail(q->why, "no answer%s within %d ms", d->jobs[k].pid ? " from the resolver" : "",
                 ms_left(d->end) ? HEAD_START_MS : set.stun_ms);
        at += (size_t)snprintf(why + at, WHY_MAX - at, "%s%s%s:%u: %s", k ? "; " : "",
                               q->tcp ? "tcp:" : "", set.stun.at[k].name, set.stun.at[k].port,
                               q->why);
    }
}

/* The phrases that users search for, kept word for word. The metadata line comes once a process. */
static void discovery_say(struct discovery *d, int i) {
    const struct stream *s = &d->streams[i];
    const char *local = SHOW(&s->local), *outer = SHOW(&s->external);
    struct lookup *meta = &d->found[IMDS];
    char why[WHY_MAX];
    if (strcmp(s->source, "stun") == 0) {
        say(LOG_INFO, "STUN discovery succeeded - local_addr: %s external_addr: %s", local, outer);
        if (d->tcp && s->stun < 0)
            say(LOG_INFO, "no tcp: server answered in time: TCP may have another address");
        return;
    }
    stun_reasons(d, i, why);
    say(LOG_INFO, "STUN discovery failed: %s", why);
    say(LOG_INFO, "Using fallback address resolution...");
    if (meta->n) say(LOG_INFO, "AWS metadata service returned public IP: %s", SHOW(meta->at));
    else if (meta->why[0]) say(LOG_INFO, "AWS metadata query failed: %s", meta->why);
    memset(meta, 0, sizeof *meta);
    say(LOG_INFO, "Fallback succeeded - local_addr: %s external_addr: %s", local, outer);
}

/* Take a port for each of the N streams and find the addresses to tell the peers; BOTH: and the
 * mapping, if it is to be had. Says how it went. 1: done. 0: WHY. */
static int discover(struct stream *s, int n, int both, char *why) {
    int servers = set.no_holepunch || !set.stun_ms ? 0 : set.stun.n, open, said = 0;
    struct discovery d = { .streams = s, .n = n, .servers = servers, .both = both,
                           .head = after(HEAD_START_MS), .end = after(set.stun_ms) };
    d.queries = calloc((size_t)(n * servers + 1), sizeof *d.queries);
    d.fds = calloc((size_t)(n * servers + IMDS + 1), sizeof *d.fds);
    if (!d.queries || !d.fds) return fail(why, "out of memory");
    for (int i = 0; i < n * servers; i++) {
        d.queries[i].fd = -1;
        d.queries[i].tcp = set.stun.at[i % servers].tcp;
    }
    for (int k = 0; k < servers; k++) {
        const struct host *h = &set.stun.at[k];
        d.tcp += h->tcp;
        if (ip_parse(h->name, &d.found[k].at[0])) lookup_now(h, &d.found[k]);
        else job_start(&d.jobs[k], lookup_job, h, d.found[k].why);
    }
    for (int i = 0; i < n; i++) {
        unsigned first = i && set.public_addr.port ? s[i - 1].local.port + 1 : set.public_addr.port;
        if (!port_take(&s[i], first, why)) return 0;
        for (int k = 0; k < servers; k++)       /* they work while the next port is taken */
            if (!d.jobs[k].pid)
                stun_start(&d.queries[i * servers + k], &d.found[k], s[i].local.port);
    }
    for (;;) {
        for (int i = open = 0; i < n; i++) open += !s[i].source && !settle(&d, i);
        if (!open) break;
        if (!said && !ms_left(d.head))
            say(LOG_INFO, "waiting for STUN%s", d.jobs[IMDS].pid ? " and IMDS" : "");
        said = !ms_left(d.head);
        discovery_turn(&d);
    }
    for (int i = 0; i < n; i++) {
        set.who = s[i].key ? &s[i] : NULL;
        close_fd(&s[i].udp);
        if (i) memcpy(s[i].local.ip, s[0].local.ip, sizeof s[0].local.ip);
        else local_address(&d, &s[0].local);
        if (strcmp(s[i].source, "local") == 0) s[i].external = s[i].local;
        discovery_say(&d, i);
    }
    set.who = NULL;
    for (int k = 0; k <= IMDS; k++) job_end(&d.jobs[k]);
    for (int i = 0; i < n * servers; i++) close_now(&d.queries[i].fd);
    free(d.queries);
    free(d.fds);
    return 1;
}

/* ---- 7. SHA-256 (FIPS 180-4) and HMAC (RFC 2104) ----------------------------------------------
 * Pure. The tests check them against the vectors of FIPS 180-4 and RFC 4231. */

enum { HASH = 32, HASH_BLOCK = 64 };        /* bytes */
static uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_block(uint32_t *h, const unsigned char *block) {     /* FIPS 180-4, 6.2.2 */
    static const uint32_t k[64] = {         /* 4.2.2 */
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
    };
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) w[i] = (uint32_t)get(block + 4 * i, 4);
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ a >> 3)
             + w[i - 7] + (rotr(b, 17) ^ rotr(b, 19) ^ b >> 10);
    }
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[0], b = v[1], c = v[2], e = v[4], f = v[5], g = v[6];
        uint32_t t1 = v[7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g))
                    + k[i] + w[i];
        uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}

/* The hash of a block FIRST (or NULL: none) and N bytes at DATA, into OUT (HASH bytes); DATA may be
 * OUT. Returns OUT. Padding (5.1.1): 0x80, zeros, and, to end a block, the number of bits. */
static const unsigned char *sha256(const unsigned char *first, const void *data, size_t n,
                                   unsigned char *out) {
    uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,                   /* 5.3.3 */
                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    const unsigned char *p = data;
    unsigned char block[HASH_BLOCK];
    size_t end = (n + 8) / HASH_BLOCK * HASH_BLOCK + HASH_BLOCK, all = n + (first ? HASH_BLOCK : 0);
    if (first) sha256_block(h, first);
    for (size_t i = 0; i < end; i++) {
        block[i % HASH_BLOCK] = i < n ? p[i] : i == n ? 0x80 : 0;
        if (i == end - 1) put(block + HASH_BLOCK - 8, 8, (uint64_t)all * 8);
        if (i % HASH_BLOCK == HASH_BLOCK - 1) sha256_block(h, block);
    }
    for (int i = 0; i < 8; i++) put(out + 4 * i, 4, h[i]);
    return out;
}

/* HMAC-SHA-256 of DATA under KEY, into OUT (HASH bytes), which DATA may be. */
static void hmac(const void *key, size_t key_len, const void *data, size_t n, unsigned char *out) {
    unsigned char block[HASH_BLOCK] = { 0 };
    if (key_len > sizeof block) sha256(NULL, key, key_len, block);
    else memcpy(block, key, key_len);
    for (size_t i = 0; i < sizeof block; i++) block[i] ^= 0x36;
    sha256(block, data, n, out);
    for (size_t i = 0; i < sizeof block; i++) block[i] ^= 0x36 ^ 0x5c;
    sha256(block, out, HASH, out);
}

static void hex(const unsigned char *p, size_t n, char *text) {   /* text: 2 n + 1 bytes */
    for (size_t i = 0; i < n; i++) sprintf(text + 2 * i, "%02x", p[i]);
}

struct creds { char id[144], secret[144], token[TOKEN_MAX], until[32], why[WHY_MAX]; };

/* Sign CANONICAL, a canonical request with the headers SIGNED, at DATE (YYYYMMDDThhmmssZ). OUT (512
 * bytes): the value of its header Authorization. See AWS, "Create a signed AWS API request". */
static void sigv4(const struct creds *c, const char *date, const char *region, const char *service,
                  const char *canonical, const char *signed_headers, char *out) {
    char scope[160], text[320], key[160], digest[2 * HASH + 1];
    const char *const chain[] = { region, service, "aws4_request", text };
    unsigned char k[HASH];
    hex(sha256(NULL, canonical, strlen(canonical), k), HASH, digest);
    snprintf(scope, sizeof scope, "%.8s/%.64s/%s/aws4_request", date, region, service);
    snprintf(text, sizeof text, "AWS4-HMAC-SHA256\n%s\n%s\n%s", date, scope, digest);
    snprintf(key, sizeof key, "AWS4%s", c->secret);
    hmac(key, strlen(key), date, 8, k);
    for (int i = 0; i < 4; i++) hmac(k, HASH, chain[i], strlen(chain[i]), k);
    hex(k, HASH, digest);
    snprintf(out, 512, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", c->id,
             scope, signed_headers, digest);
}

/* ---- 8. rendezvous: tell the peer my addresses and learn its ----------------------------------
 * In a process of its own, so that a slow file system or network never holds up connecting. Touches
 * files below the directory of PASH_RENDEZVOUS, or asks DynamoDB and IMDS. JSON reading is pure. */

enum { REGISTRATION_MAX = 4096, JSON_DEPTH = 32, NAME_LEN = 255, DIR_MAX = PLACE_MAX + 3 * 256 };
enum { REQUEST_MS = 5000, LOOK_MS = 2500, WITHDRAW_MS = 5000, WITHDRAW_HASTE_MS = 1000 };
struct json { const char *p, *end; };
static int json_peek(struct json *j) {      /* the next character behind white space; 0: the end */
    while (j->p < j->end && *j->p && strchr(" \t\r\n", *j->p)) j->p++;
    return j->p < j->end ? (unsigned char)*j->p : 0;
}

static int json_eat(struct json *j, int c) { return json_peek(j) == c && j->p++; }
static int json_next(struct json *j) { return j->p < j->end ? (unsigned char)*j->p++ : 0; }

/* The value of the four hex digits of \u (RFC 8259, 7), or -1. */
static long json_hex4(struct json *j) {
    char digits[5] = "";
    for (int i = 0; i < 4; i++) digits[i] = (char)json_next(j);
    return strspn(digits, "0123456789abcdefABCDEF") == 4 ? strtol(digits, NULL, 16) : -1;
}

/* What stands behind a backslash, as UTF-8 (RFC 3629, 3) into OUT. Returns its length, 1 to 4
 * bytes; 0: it is no escape, or a NUL, or half of a surrogate pair. */
static size_t json_escape(struct json *j, char *out) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    int kind = json_next(j);
    const char *e = kind ? strchr(names, kind) : NULL;
    long c, low;
    size_t n;
    if (e) { out[0] = values[e - names]; return 1; }
    if (kind != 'u' || (c = json_hex4(j)) <= 0 || c >> 10 == 0x37) return 0;
    if (c >> 10 == 0x36) {
        low = json_next(j) == '\\' && json_next(j) == 'u' ? json_hex4(j) : -1;
        if (low >> 10 != 0x37) return 0;
        c = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
    }
    n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(n == 1 ? c : (0xf00 >> n & 0xf0) | c);
    return n;
}

/* A string, into OUT if it fits into MAX bytes. Returns how many it needs, with a NUL; 0: none. */
static size_t json_string(struct json *j, char *out, size_t max) {
    char bytes[4];
    size_t n = 0, len;
    int c;
    if (!json_eat(j, '"')) return 0;
    while ((c = json_next(j)) != '"') {
        len = 1;
        bytes[0] = (char)c;
        if (c < 0x20 || (c == '\\' && (len = json_escape(j, bytes)) == 0)) return 0;
        if (n + len < max) memcpy(out + n, bytes, len);
        n += len;
    }
    if (n < max) out[n] = 0;
    return n + 1;
}

/* Go behind a value of any kind, or, where PATH is not NULL, to what stands in it at PATH, names of
 * members (63 bytes at most) with '/' between; the first where a name comes twice. 1: j is there.
 * 0: there is no such thing, or it is malformed or nested beyond DEPTH. */
static int json_go(struct json *j, const char *path, int depth) {
    int open = json_peek(j), close = open == '{' ? '}' : ']';
    size_t n = path ? strcspn(path, "/") : 0, size;
    const char *start = j->p;
    char name[64];
    if (path && !*path) return 1;
    if (path && open != '{') return 0;
    if (open == '"') return json_string(j, NULL, 0) > 0;
    if (open != '{' && open != '[') {
        while (j->p < j->end && *j->p && strchr("+-.0123456789truefalsnEu", *j->p)) j->p++;
        return j->p > start;
    }
    if (depth == 0) return 0;
    j->p++;
    if (json_eat(j, close)) return !path;
    do {
        size = open == '{' ? json_string(j, name, sizeof name) : 0;
        if (open == '{' && (!size || !json_eat(j, ':'))) return 0;
        if (path && size == n + 1 && memcmp(name, path, n) == 0)
            return json_go(j, path + n + (path[n] == '/'), depth - 1);
        if (!json_go(j, NULL, depth - 1)) return 0;
    } while (json_eat(j, ','));
    return !path && json_eat(j, close);
}

/* The string at PATH in the LEN bytes at TEXT. 1: it is in OUT (MAX bytes with a NUL). 0: none. */
static int json_find(const char *text, size_t len, const char *path, char *out, size_t max) {
    struct json j = { text, text + len };
    size_t size = json_go(&j, path, JSON_DEPTH) ? json_string(&j, out, max) : 0;
    return size > 0 && size <= max;
}

/* The address literal that is member NAME of a registration. What cannot be used is all zero. */
static struct addr registration_get(const char *text, size_t len, const char *name) {
    struct addr a = { { 0 }, 0 }, none = a;
    char literal[ADDR_TEXT + 8];
    return json_find(text, len, name, literal, sizeof literal) && addr_parse(literal, &a)
        && addr_usable(&a) ? a : none;
}

struct rdv {
    const struct stream *s;
    char dir[DIR_MAX];                      /* of the key; in it: */
    char file[DIR_MAX + 16], beside[DIR_MAX + 16], peer_file[DIR_MAX + 16];
    char mine[REGISTRATION_MAX + 1], theirs[REGISTRATION_MAX + 1];     /* texts; theirs "": none */
    struct lookup at;                       /* DynamoDB; n 0: to be looked up (again) */
    int reached;                            /* it has let us connect */
    char expired[144];                      /* the id of credentials that it found expired */
};

/* KEY as a name in a directory, into NAME (3 * KEY + 1 bytes), hashed if long. All but letters,
 * digits, - _ and . is percent-encoded, and a leading dot: no key leads out of the directory. */
static void key_to_name(const char *key, char *name) {
    unsigned char digest[HASH];
    size_t n = 0;
    for (const char *p = key; *p; p++) {
        int plain = strchr(letters, *p) && (*p != '.' || p > key);
        n += (size_t)sprintf(name + n, plain ? "%c" : "%%%02X", (unsigned char)*p);
    }
    if (n <= NAME_LEN) return;
    strcpy(name, "%-");
    hex(sha256(NULL, key, strlen(key), digest), HASH, name + 2);
}

/* The directory PATH, made if need be: ours alone, no link. 1: it is there, or was just now. */
static int dir_make(const char *path, char *why) {
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return fail(why, "mkdir %.300s: %s", path, strerror(errno));
    if (lstat(path, &st) < 0)
        return errno == ENOENT || fail(why, "%.300s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return fail(why, "%.300s is not a directory", path);
    if (st.st_uid != geteuid()) return fail(why, "%.300s belongs to another user", path);
    return !(st.st_mode & 022) || fail(why, "%.300s can be written by others", path);
}

/* Read the registration in the file PATH into TEXT; what cannot be read counts as absent, "". */
static void dir_read(const char *path, char *text) {
    struct stat st;
    ssize_t n = -1;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= REGISTRATION_MAX)
        n = read(fd, text, REGISTRATION_MAX);
    text[n < 0 ? 0 : n] = 0;
    close_fd(&fd);
}

/* Write my registration beside its place and rename it: nobody reads half of it. The peer removes
 * the key's directory when it is empty: then once more. */
static int dir_publish(struct rdv *r, char *why) {
    for (int tries = 0, fd, good; tries < 100; tries++) {
        if (!dir_make(set.rdv.name, why) || !dir_make(r->dir, why)) return 0;
        unlink(r->beside);                                      /* what a crash left */
        fd = open(r->beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
        if (fd < 0 && errno == ENOENT) continue;
        if (fd < 0) return fail(why, "%.300s: %s", r->beside, strerror(errno));
        good = write_whole(fd, r->mine, strlen(r->mine));
        if (close(fd) == 0 && good && rename(r->beside, r->file) == 0) return 1;
        fail(why, "%.300s: %s", r->file, strerror(errno));
        if (unlink(r->beside) == 0 || errno != ENOENT) return 0;
    }
    return fail(why, "%.300s is removed again and again", r->dir);
}

/* Remove my registration, if it is still mine, and the key's directory, if it is empty then. */
static int dir_withdraw(struct rdv *r, char *why) {
    char text[REGISTRATION_MAX + 1];
    dir_read(r->file, text);
    if (strcmp(text, r->mine) == 0 && unlink(r->file) < 0 && errno != ENOENT)
        return fail(why, "%.300s: %s", r->file, strerror(errno));
    if (rmdir(r->dir) == 0 || errno == ENOENT || errno == ENOTEMPTY || errno == EEXIST) return 1;
    return fail(why, "rmdir %.300s: %s", r->dir, strerror(errno));
}

/* Fetch the credentials of the instance's role from IMDS. 1: *C is set. 0: WHY. */
static int creds_fetch(struct creds *c, char *why) {
    static const char base[] = "/latest/meta-data/iam/security-credentials/";
    char m[IMDS_MAX], path[sizeof base + 128], code[64] = "none";
    const char *word;
    struct http h;
    int n;
    if (set.imds_off) return fail(why, "AWS_EC2_METADATA_DISABLED is true");
    if (!imds_get(base, m, &h, after(IMDS_MS), why)) return 0;     /* a token may cost each 1 s */
    n = (int)strcspn(m + h.body, " \t\r\n?#");
    if (h.status == 404 || (h.status == 200 && n == 0))
        return fail(why, "this instance has no role");
    snprintf(path, sizeof path, "%s%.*s", base, h.status != 200 ? 0 : n, m + h.body);
    if (h.status == 200 && !imds_get(path, m, &h, after(IMDS_MS), why)) return 0;
    if (h.status != 200) return fail(why, "GET %s: status %d", path, h.status);
    json_find(m + h.body, h.body_len, "Code", code, sizeof code);
    if (strcmp(code, "Success") != 0) return fail(why, "GET %s: its Code is %s", path, code);
    return (json_find(m + h.body, h.body_len, "AccessKeyId", c->id, sizeof c->id)
            && json_find(m + h.body, h.body_len, "SecretAccessKey", c->secret, sizeof c->secret)
            && json_find(m + h.body, h.body_len, "Token", c->token, sizeof c->token)
            && json_find(m + h.body, h.body_len, "Expiration", c->until, sizeof c->until)
            && parse_word(&word, c->id, why) && parse_word(&word, c->token, why))
        || fail(why, "GET %s: a member is missing or malformed", path);
}

/* The credentials of the environment, or of the role, for all streams the one message in set.purse:
 * who takes it puts it back, renewed if over or if its id is EXPIRED. 1: *C is set. 0: WHY. */
static int creds_get(struct creds *c, const char *expired, char *why) {
    static const char form[] = "%Y-%m-%dT%H:%M:%SZ";
    struct creds fresh = { .why = "" };
    char soon[32];
    time_t t = time(NULL) + 60;
    if (set.key_id) {
        snprintf(c->id, sizeof c->id, "%s", set.key_id);
        snprintf(c->secret, sizeof c->secret, "%s", set.secret);
        snprintf(c->token, sizeof c->token, "%s", set.token ? set.token : "");
        return 1;
    }
    while (!job_read(set.purse[0], c, sizeof *c))               /* another may have been faster */
        if (!wait_for_one(set.purse[0], POLLIN, after(4 * IMDS_MS)))
            return fail(why, "the credentials do not come back");
    strftime(soon, sizeof soon, form, gmtime(&t));
    if (!c->why[0] && (strcmp(c->until, soon) <= 0 || strcmp(c->id, expired) == 0)) {
        if (creds_fetch(&fresh, why)) *c = fresh;
        else if (!c->id[0]) memcpy(c->why, why, sizeof c->why);
        else {                              /* they may do for a while: ask again in 30 s */
            t += 30;
            strftime(c->until, sizeof c->until, form, gmtime(&t));
        }
    }
    job_write(set.purse[1], c, sizeof *c);
    return !c->why[0] || fail(why, "no credentials: AWS_ACCESS_KEY_ID is not set; "
                              "instance role: %.300s", c->why);
}

/* TEXT as the inside of a JSON string, into OUT (6 bytes for each and a NUL). Returns OUT. */
static const char *json_quote(const char *text, char *out) {
    size_t n = 0;
    for (out[0] = 0; *text; text++) {
        unsigned char c = (unsigned char)*text;
        n += (size_t)sprintf(out + n, c < 0x20 || c == '"' || c == '\\' ? "\\u%04x" : "%c", c);
    }
    return out;
}

enum { GOOD = 1, FATAL = 0, AGAIN = -1 };   /* what became of a request */
/* Ask DynamoDB to do OP with the item of the key; MORE: further members of the request. GOOD: the
 * peer's text is in r->theirs, "" if a condition is not met. Else WHY. See AWS, "Low-level API". */
static int dynamo_ask(struct rdv *r, const char *op, const char *more, int ms, char *why) {
    char key[6 * NAME_LEN + 1], body[12288], canonical[4096], signature[512], request[20480];
    char date[20], digest[2 * HASH + 1], type[256] = "", text[WHY_MAX / 2] = "";
    const char *path = *set.dynamodb.path ? set.dynamodb.path : "/", *host = set.dynamodb.authority;
    const char *signed_headers, *name;
    static char m[HTTP_MAX];                /* too much for a small stack */
    unsigned char hash[HASH];
    struct creds c;
    time_t t = time(NULL);
    struct http h;
    int got;
    if (!creds_get(&c, r->expired, why)) return FATAL;
    signed_headers = c.token[0] ? "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
                                : "content-type;host;x-amz-date;x-amz-target";
    strftime(date, sizeof date, "%Y%m%dT%H%M%SZ", gmtime(&t));
    snprintf(body, sizeof body, "{\"TableName\":\"%s\",\"Key\":{\"key\":{\"S\":\"%s\"}},%s}",
             set.rdv.name, json_quote(r->s->key, key), more);
    hex(sha256(NULL, body, strlen(body), hash), HASH, digest);
    snprintf(canonical, sizeof canonical, "POST\n%s\n\ncontent-type:application/x-amz-json-1.0\n"
             "host:%s\nx-amz-date:%s\n%s%s%sx-amz-target:DynamoDB_20120810.%s\n\n%s\n%s", path,
             host, date, c.token[0] ? "x-amz-security-token:" : "", c.token, c.token[0] ? "\n" : "",
             op, signed_headers, digest);
    sigv4(&c, date, set.region, "dynamodb", canonical, signed_headers, signature);
    snprintf(request, sizeof request, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
             "Content-Type: application/x-amz-json-1.0\r\nX-Amz-Date: %s\r\n%s%s%s"
             "X-Amz-Target: DynamoDB_20120810.%s\r\nAuthorization: %s\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             path, host, date, c.token[0] ? "X-Amz-Security-Token: " : "", c.token,
             c.token[0] ? "\r\n" : "", op, signature, strlen(body), body);
    if (!r->at.n) lookup_now(&set.dynamodb.at, &r->at);
    got = http_ask(&r->at, request, m, sizeof m, &h, after(ms), why);
    r->reached |= h.status != HTTP_NOT_CONNECTED;
    if (!got) { r->at.n = 0; return r->reached ? AGAIN : FATAL; }
    if (h.status == 200) {
        snprintf(type, sizeof type, "%s/N_%u/S", strcmp(op, "GetItem") == 0 ? "Item" : "Attributes",
                 r->s->peer);
        if (!json_find(m + h.body, h.body_len, type, r->theirs, sizeof r->theirs)) *r->theirs = 0;
        return GOOD;
    }
    json_find(m + h.body, h.body_len, "__type", type, sizeof type);
    if (!json_find(m + h.body, h.body_len, "message", text, sizeof text))
        json_find(m + h.body, h.body_len, "Message", text, sizeof text);
    name = strchr(type, '#') ? strchr(type, '#') + 1 : type;
    fail(why, *name ? "%s: status %d %.100s: %s" : "%s: status %d", op, h.status, name, text);
    if (strcmp(name, "ConditionalCheckFailedException") == 0) { *r->theirs = 0; return GOOD; }
    if (h.status >= 500 || strcmp(name, "ProvisionedThroughputExceededException") == 0
        || strcmp(name, "ThrottlingException") == 0 || strcmp(name, "RequestLimitExceeded") == 0)
        return AGAIN;
    if (strcmp(name, "ExpiredTokenException") != 0 || set.key_id) return FATAL;
    strcpy(r->expired, c.id);
    return AGAIN;
}

/* UpdateItem with EXPRESSION, in which #me is my attribute and :mine my text. */
static int dynamo_update(struct rdv *r, const char *expression, int ms, char *why) {
    char more[2048], mine[1024];
    snprintf(more, sizeof more, "%s,\"ExpressionAttributeNames\":{\"#me\":\"N_%u\"},"
             "\"ExpressionAttributeValues\":{\":mine\":{\"S\":\"%s\"}},"
             "\"ReturnValues\":\"ALL_NEW\"", expression, r->s->me, json_quote(r->mine, mine));
    return dynamo_ask(r, "UpdateItem", more, ms, why);
}

/* Register; once PUBLISHED, look, for LOOK_MS at most, lest there be no time to withdraw. */
static int rdv_turn(struct rdv *r, int published, char *why) {
    if (set.rdv.kind == RDV_DIR) dir_read(r->peer_file, r->theirs);
    if (set.rdv.kind == RDV_DIR) return published || dir_publish(r, why);
    if (!published)
        return dynamo_update(r, "\"UpdateExpression\":\"SET #me = :mine\"", REQUEST_MS, why);
    return dynamo_ask(r, "GetItem", "\"ConsistentRead\":true", LOOK_MS, why);
}

/* Remove my registration, if it is still mine, and the item, if the peer's is not in it either. */
static int rdv_withdraw(struct rdv *r, deadline end, char *why) {
    char more[512];
    int got;
    if (set.rdv.kind == RDV_DIR) return dir_withdraw(r, why);
    got = dynamo_update(r, "\"UpdateExpression\":\"REMOVE #me\","
                        "\"ConditionExpression\":\"#me = :mine\"", ms_left(end), why);
    if (got != GOOD || *r->theirs) return got;                  /* not met: was an answer lost? */
    snprintf(more, sizeof more, "\"ConditionExpression\":\"attribute_not_exists(#me) AND "
             "attribute_not_exists(#peer)\",\"ExpressionAttributeNames\":"
             "{\"#me\":\"N_%u\",\"#peer\":\"N_%u\"}", r->s->me, r->s->peer);
    return dynamo_ask(r, "DeleteItem", more, ms_left(end), why);
}

/* What the rendezvous process tells the stream's, whenever it changes. */
struct news {
    enum { NEWS_ABSENT, NEWS_PEER, NEWS_FAILED } what;
    int before;                             /* the peer's registration was there before mine */
    struct addr local, external;            /* the peer's; one of them may be none */
    char why[WHY_MAX];                      /* NEWS_FAILED */
};

/* The rendezvous process of S: registers, looks until the stream's ends or closes FD, withdraws. */
static void rdv_run(int fd, const struct stream *s) {
    struct rdv r = { .s = s };
    char last[sizeof r.theirs], trouble[WHY_MAX] = "";
    struct news news = { 0 };
    int dir = set.rdv.kind == RDV_DIR, pause = dir ? 20 : 50, most = dir ? 200 : 1000;     /* ms */
    int got, published = 0;
    deadline end;
    key_to_name(s->key, r.dir + sprintf(r.dir, "%s/", set.rdv.name));
    sprintf(r.file, "%s/N_%u", r.dir, s->me);
    sprintf(r.beside, "%s/.N_%u", r.dir, s->me);
    sprintf(r.peer_file, "%s/N_%u", r.dir, s->peer);
    sprintf(r.mine, "{\"local_addr\":\"%s\",\"external_addr\":\"%s\"}",
            SHOW(&s->local), SHOW(&s->external));
    do {
        strcpy(last, r.theirs);
        got = rdv_turn(&r, published, news.why);
        news.local = registration_get(r.theirs, strlen(r.theirs), "local_addr");
        news.external = registration_get(r.theirs, strlen(r.theirs), "external_addr");
        news.what = got == FATAL ? NEWS_FAILED
                  : news.local.port || news.external.port ? NEWS_PEER : NEWS_ABSENT;
        news.before = !published;
        if (got == FATAL || (got == GOOD && (!published || strcmp(last, r.theirs) != 0)))
            send(fd, &news, sizeof news, MSG_NOSIGNAL);     /* nobody there? poll() will say so */
        if (got == AGAIN && strcmp(trouble, news.why) != 0)
            say(LOG_INFO, "%s: %s: trying again", set.rdv.text, strcpy(trouble, news.why));
        published |= got == GOOD;
        end = after(pause);
        pause += dir ? pause / 10 : pause / 2;
        if (pause > most) pause = most;
    } while (got != FATAL && !wait_for_one(fd, POLLIN, end));
    if (!published && !trouble[0]) return;                      /* nothing can be there */
    end = after(WITHDRAW_MS);
    while ((got = rdv_withdraw(&r, end, news.why)) == AGAIN && ms_left(end))
        wait_for(NULL, 0, sooner(end, after(pause)));
    if (got != GOOD) say(LOG_ERROR, "withdrawing the registration: %s", news.why);
}

/* ---- 9. connect: the hole punch and the handshake ---------------------------------------------
 * Touches the network: listens on the stream's port, connects from it, until one is chosen. */

enum { HELLO = 36, HANDSHAKE_MS = 5000, GRACE_MS = 5000, BACKOFF_MS = 100, BACKOFF_MAX_MS = 5000 };
enum { CONNS_MAX = 32, BURST = 20, TENTH_MS = 100, RETRY_MS = 1000 };
enum step { STEP_CONNECT, STEP_HELLO = HELLO, STEP_PROOF = HELLO + HASH, STEP_GO = STEP_PROOF + 1 };
enum outcome { TIMED_OUT, REFUSED, OTHER, UNPROVEN, OUTCOMES };         /* of an attempt */

/* A connection on its way through the handshake, accepted, or made to a target: an address of the
 * peer's, which is tried again and again. Free: neither a connection nor a target's. */
struct conn {
    int fd;                                 /* -1: none */
    int backoff;                            /* a target's: ms after a failed handshake; else 0 */
    int burst;                              /* attempts within the ... */
    long long tenth;                        /* ... tenth of a second of the wall clock */
    enum step step;                         /* what is awaited; how many bytes of `in` end it */
    deadline end;                           /* of the handshake; fd -1: of the pause */
    struct addr with;
    size_t have;                            /* bytes of `in` */
    unsigned char mine[HELLO], in[STEP_GO]; /* in: the peer's HELLO, its proof, GO */
};

struct punch {
    struct stream *s;
    int rdv, chosen, done;                  /* chosen: a descriptor; done: it is, or -1 and WHY */
    char *why;
    struct conn conns[CONNS_MAX];
    struct news peer;                       /* the last of the peer's registration; else absent */
    deadline began, limit;                  /* began: when the peer became known */
    struct { int n; char why[WHY_MAX]; } tried[OUTCOMES];               /* why: of the last */
};

/* HELLO: "PASHLIB1" | role u8, 1 send, 2 recv | 3 zero bytes | me u32 | peer u32 | nonce, 16. */
static void hello_encode(const struct stream *s, unsigned char *m) {
    memcpy(m, "PASHLIB1", 8);
    put(m + 8, 4, s->sends ? 1U << 24 : 2U << 24);
    put(m + 12, 4, s->me);
    put(m + 16, 4, s->peer);
    random_bytes(m + 20, 16);
}

/* 1: M (HELLO bytes) can be from the peer of S. 0: WHY. */
static int hello_check(const struct stream *s, const unsigned char *m, char *why) {
    uint64_t role = get(m + 8, 4), me = get(m + 12, 4), peer = get(m + 16, 4);
    if (memcmp(m, "PASHLIB1", 8) != 0) return fail(why, "it does not speak this protocol");
    if (role != 1U << 24 && role != 2U << 24) return fail(why, "its HELLO is malformed");
    if (me == s->peer && peer == s->me) return 1;
    return fail(why, "it is node %lu and wants node %lu", (unsigned long)me, (unsigned long)peer);
}

/* HMAC-SHA256(KEY, "pashlib proof" | HELLO of who proves | HELLO of the other), HASH bytes. */
static void proof(const char *key, const unsigned char *own, const unsigned char *other,
                  unsigned char *out) {
    unsigned char text[13 + 2 * HELLO];
    memcpy(text, "pashlib proof", 13);
    memcpy(text + 13, own, HELLO);
    memcpy(text + 13 + HELLO, other, HELLO);
    hmac(key, strlen(key), text, sizeof text, out);
}

static int same_in_constant_time(const unsigned char *a, const unsigned char *b, size_t n) {
    unsigned char differ = 0;
    for (size_t i = 0; i < n; i++) differ |= a[i] ^ b[i];
    return differ == 0;
}

/* C came to nothing; if it is a target's, it is tried again in PAUSE ms. */
static void conn_drop(struct punch *p, struct conn *c, enum outcome what, const char *why,
                      long long pause) {
    p->tried[what].n++;
    snprintf(p->tried[what].why, WHY_MAX, "%s", why);
    close_now(&c->fd);                      /* the same two ports may be joined again at once */
    c->end = after(pause);
}

static void conn_failed(struct punch *p, struct conn *c, const char *why) {
    say(LOG_DEBUG, "no handshake with %s: %s", SHOW(&c->with), why);
    conn_drop(p, c, UNPROVEN, why, c->backoff);
    c->backoff = c->backoff * 2 < BACKOFF_MAX_MS ? c->backoff * 2 : BACKOFF_MAX_MS;
}

/* An attempt at a target ended with ERROR. Repeat it at once, so that two SYNs cross in flight;
 * after too many, at the next tenth of a second, as the other end does. */
static enum outcome target_failed(struct punch *p, struct conn *c, int error) {
    long long wall = clock_ms(CLOCK_REALTIME);
    enum outcome what = error == ECONNREFUSED || error == ECONNRESET ? REFUSED
                      : error == ETIMEDOUT ? TIMED_OUT : OTHER;
    if (c->tenth != wall / TENTH_MS) c->burst = 0;
    c->tenth = wall / TENTH_MS;
    conn_drop(p, c, what, strerror(error), ++c->burst < BURST ? 0 : TENTH_MS - wall % TENTH_MS);
    return what;
}

static void target_try(struct punch *p, struct conn *c) {
    c->fd = socket_on(SOCK_STREAM, p->s->local.port);
    int error = c->fd < 0 ? errno : socket_connect(c->fd, &c->with);
    c->step = STEP_CONNECT;
    c->end = after(MS_MAX);
    if (!error || error == EINPROGRESS) return;                 /* poll() tells */
    if (target_failed(p, c, error) == OTHER) c->end = after(RETRY_MS);
}

/* Send N bytes: they are few, and the buffer of a new connection has room, or it is no good. */
static int conn_send(struct punch *p, struct conn *c, const void *m, size_t n) {
    if (send(c->fd, m, n, MSG_NOSIGNAL) == (ssize_t)n) return 1;
    conn_failed(p, c, strerror(errno));
    return 0;
}

static void conn_up(struct punch *p, struct conn *c) {
    set_option(c->fd, IPPROTO_TCP, TCP_NODELAY, 1);
    c->step = STEP_HELLO;
    c->end = after(HANDSHAKE_MS);
    c->have = 0;
    hello_encode(p->s, c->mine);
    conn_send(p, c, c->mine, HELLO);
}

static void conn_chosen(struct punch *p, struct conn *c) {
    say(LOG_INFO, "connected to node %u at %s", p->s->peer, SHOW(&c->with));
    p->chosen = c->fd;
    p->done = 1;
    c->fd = -1;
}

/* C has all the bytes of its step: take them. The lower node alone decides which one is chosen. */
static void conn_step(struct punch *p, struct conn *c) {
    const unsigned char *theirs = c->in;
    const struct stream *s = p->s;
    unsigned char m[HASH];
    char why[WHY_MAX];
    if (c->step == STEP_HELLO) {
        c->step = STEP_PROOF;
        proof(s->key, c->mine, theirs, m);
        if (hello_check(s, theirs, why)) conn_send(p, c, m, HASH);
        else conn_failed(p, c, why);
    } else if (c->step == STEP_PROOF) {
        c->step = STEP_GO;
        proof(s->key, theirs, c->mine, m);
        if (!same_in_constant_time(m, c->in + HELLO, HASH))
            conn_failed(p, c, "it does not know the key");
        else if (c->mine[8] == theirs[8]) {
            p->done = !fail(p->why, "both ends %s", s->sends ? "send" : "receive");
            close_now(&c->fd);
        } else if (s->me > s->peer) c->end = after(MS_MAX);
        else if (conn_send(p, c, "G", 1)) conn_chosen(p, c);
    } else if (c->in[HELLO + HASH] == 'G') conn_chosen(p, c);
    else conn_failed(p, c, "it sent no GO");
}

static void conn_event(struct punch *p, struct conn *c) {
    int error = c->step == STEP_CONNECT ? socket_error(c->fd) : 0;
    if (error) target_failed(p, c, error);
    else if (c->step == STEP_CONNECT) conn_up(p, c);
    while (c->fd >= 0) {                                  /* what follows GO is not ours to read */
        ssize_t n = recv(c->fd, c->in + c->have, c->step - c->have, 0);
        if (n < 0 && would_block()) return;
        if (n <= 0) { conn_failed(p, c, n ? strerror(errno) : "it closed the connection"); return; }
        c->have += (size_t)n;
        if (c->have == c->step) conn_step(p, c);
    }
}

static int from_peer(const struct punch *p, const struct conn *c) {
    const struct addr *external = &p->peer.external, *local = &p->peer.local;
    return !memcmp(c->with.ip, external->ip, 16) || !memcmp(c->with.ip, local->ip, 16);
}

/* A free place. If there is none, a connection goes that comes not from the peer's addresses, or
 * has proven least, or is oldest, but none of a target's: a stranger harms nobody else. */
static struct conn *conn_place(struct punch *p) {
    struct conn *worst = NULL;
    int near, worst_near = 0;
    for (struct conn *c = p->conns; c < p->conns + CONNS_MAX; c++) {
        if (c->backoff) continue;
        if (c->fd < 0) return c;
        near = from_peer(p, c);
        if (worst && near > worst_near) continue;
        if (!worst || near < worst_near || c->step < worst->step
            || (c->step == worst->step && c->end.at < worst->end.at)) worst = c;
        if (worst == c) worst_near = near;
    }
    conn_failed(p, worst, "too many came after it");
    return worst;
}

static void punch_accept(struct punch *p) {
    struct sockaddr_storage ss = { 0 };
    socklen_t len = sizeof ss;
    int fd = accept(p->s->listener, (struct sockaddr *)&ss, &len);
    if (fd < 0 && !would_block() && errno != ECONNABORTED)
        wait_for(NULL, 0, after(TENTH_MS));             /* no descriptor was free: do not spin */
    if (fd < 0) return;
    set_nonblocking(fd);
    struct conn *c = conn_place(p);
    *c = (struct conn){ .fd = fd, .with = addr_from_kernel(&ss) };
    conn_up(p, c);
}

/* Add A, unless it is unusable, or mine, or there, or loopback without mine being so. */
static void target_add(struct punch *p, struct addr a) {
    const struct stream *s = p->s;
    int near = addr_is_loopback(&s->local) || addr_is_loopback(&s->external);
    if (!addr_usable(&a) || addr_same(&a, &s->local) || addr_same(&a, &s->external)) return;
    if (addr_is_loopback(&a) && (!near || a.port == s->local.port)) return;
    for (int i = 0; i < CONNS_MAX; i++)
        if (p->conns[i].backoff && addr_same(&a, &p->conns[i].with)) return;
    *conn_place(p) = (struct conn){ .fd = -1, .with = a, .backoff = BACKOFF_MS };
}

static int punch_news(struct punch *p) {
    struct news news;
    if (!job_read(p->rdv, &news, sizeof news)) return fail(p->why, "its rendezvous process died");
    if (news.what == NEWS_FAILED)
        return fail(p->why, "rendezvous %.99s: %s", set.rdv.text, news.why);
    if (news.what == NEWS_ABSENT) {
        if (p->peer.what == NEWS_ABSENT)
            say(LOG_INFO, "waiting for node %u at %s", p->s->peer, set.rdv.text);
        if (p->peer.before)                             /* that was left over from an earlier run */
            p->limit = later(after(GRACE_MS), (deadline){ p->began.at + set.connect_ms });
        return 1;
    }
    for (int i = 0; i < CONNS_MAX; i++) {                 /* what is connected may yet be proven */
        p->conns[i].backoff = 0;
        if (p->conns[i].step == STEP_CONNECT) close_now(&p->conns[i].fd);
    }
    p->peer = news;
    p->began = after(0);
    p->limit = after(news.before ? set.peer_ms : set.connect_ms);
    say(LOG_INFO, "connecting from %s to %s", SHOW(&p->s->external),
        SHOW(news.external.port ? &news.external : &news.local));
    target_add(p, news.external);
    target_add(p, news.local);
    news.external.port = news.local.port;
    target_add(p, news.external);
    return 1;
}

static int punch_failed(struct punch *p) {
    static const char *const what[OUTCOMES] = { "attempts timed out", "refused", "failed: ",
                                                "without handshake: " };
    const struct addr *external = &p->peer.external, *local = &p->peer.local;
    double seconds = (double)((after(50).at - p->began.at) / 100) / 10;
    int attempts = 0;
    size_t at;
    if (p->peer.what == NEWS_ABSENT)
        return fail(p->why, "node %u did not register at %.300s within %g s", p->s->peer,
                    set.rdv.text, seconds);
    for (struct conn *c = p->conns; c < p->conns + CONNS_MAX; c++)
        p->tried[c->step == STEP_CONNECT ? TIMED_OUT : UNPROVEN].n += c->fd >= 0;
    at = (size_t)snprintf(p->why, WHY_MAX, "no connection to node %u (external %s, local %s) from "
                          "%s within %g s", p->s->peer, external->port ? SHOW(external) : "none",
                          local->port ? SHOW(local) : "none", SHOW(&p->s->external), seconds);
    for (int i = 0; i < OUTCOMES && at < WHY_MAX; i++) {
        int n = p->tried[i].n;
        if (!n) continue;
        at += (size_t)snprintf(p->why + at, WHY_MAX - at, "%s%d %s%s", attempts ? ", " : ": ", n,
                               what[i], i < OTHER ? "" : p->tried[i].why);
        attempts += n;
    }
    if (!attempts) snprintf(p->why + at, WHY_MAX - at, ": it has no usable address");
    else if (at < WHY_MAX && p->s->mapping == MAPPING_DEPENDENT)
        snprintf(p->why + at, WHY_MAX - at, "; the NAT here gives a different port to every "
                 "destination (mapping=endpoint-dependent)");
    return 0;
}

/* Try the targets, wait for what comes next, and take it. 0: one is chosen, or p->why. */
static int punch_turn(struct punch *p) {
    struct pollfd fds[3 + CONNS_MAX] = { { p->rdv, POLLIN, 0 }, { p->s->listener, POLLIN, 0 },
                                         { p->s->stun, POLLIN, 0 } }, *f = fds + 3;
    deadline limit = p->limit, next = after(MS_MAX);
    int late = !ms_left(limit);
    struct conn *c;
    for (c = p->conns; c < p->conns + CONNS_MAX; c++) {
        if (c->fd < 0 && (!c->backoff || late)) continue;
        while (c->fd < 0 && !ms_left(c->end)) target_try(p, c);
        next = sooner(next, c->end);
        if (c->fd < 0) continue;
        *f++ = (struct pollfd){ c->fd, c->step == STEP_CONNECT ? POLLOUT : POLLIN, 0 };
        if (c->step == STEP_GO)                        /* until the lower node has given up, too */
            limit.at = p->limit.at + GRACE_MS;
    }
    if (!ms_left(limit)) return punch_failed(p);
    wait_for(fds, (size_t)(f - fds), sooner(next, limit));
    for (c = p->conns, f = fds + 3; c < p->conns + CONNS_MAX && !p->done; c++) {
        if (c->fd < 0) continue;
        if (f++->revents) conn_event(p, c);
        else if (!ms_left(c->end)) conn_failed(p, c, "it did not complete the handshake in time");
    }
    if (p->done) return 0;
    if (fds[2].revents) {
        say(LOG_INFO, "the STUN server closed the connection that kept %s: the NAT may give "
            "another port now", SHOW(&p->s->external));
        close_now(&p->s->stun);
    }
    if (fds[1].revents) punch_accept(p);
    return fds[0].revents ? punch_news(p) : 1;
}

/* Join S with its peer; RDV: its rendezvous process. Returns a non-blocking socket, or -1: WHY. */
static int punch(struct stream *s, int rdv, char *why) {
    struct punch p = { .s = s, .rdv = rdv, .chosen = -1, .why = why, .began = after(0),
                       .limit = after(set.peer_ms), .tried[UNPROVEN].why = "it was silent" };
    for (int i = 0; i < CONNS_MAX; i++) p.conns[i].fd = -1;
    set_nonblocking(s->listener);
    while (punch_turn(&p)) continue;
    for (int i = 0; i < CONNS_MAX; i++) close_now(&p.conns[i].fd);
    close_now(&s->stun);
    return p.chosen;
}

/* ---- 10. transfer: frames between a descriptor and the connection -----------------------------
 * Sender: u32 length, 1 to 1,048,576, and as many bytes, again and again; at the end a length of 0
 * and u64 total. Receiver: every 15 s u64 2^64-2 while it lives; at the end u64 total, or 2^64-1
 * where its reader went away. Big-endian. Touches PATH, standard input and output, the socket. */

enum { FRAME_MAX = 1 << 20, ALIVE_MS = 15000, QUIET_MS = 60000, FINISH_MS = 10000 };
enum { FIFO_SIZE = 1 << 20, FIFOS_SIZE = 32 << 20, LOWAT_MAX = 1 << 18 };
enum { FEW = 1 << 14, LULL_NS = 150000, BUSY_MS = 2, LOWAT_MS = 10, FIFO_MS = 1000 };
#define SAID_ALIVE (UINT64_MAX - 1)
#define SAID_GONE UINT64_MAX
typedef unsigned long long bytes;           /* a uint64_t that printf knows by a short name */

/* A stream on its way between FD and SOCK: HAVE bytes in BUF, of which DONE have been passed on,
 * and behind them LEFT bytes of a frame that go from the one to the other without being copied. */
struct flow {
    const struct stream *s;
    int fd, sock;
    struct job opening;                     /* it opens the path, and FD leads to it until then */
    int fast, watch;                        /* nothing is copied; output: its reader may leave */
    size_t limit;                           /* bytes that can be written without sleeping */
    unsigned char *buf;
    size_t have, done, left;
    int streams, last;                      /* of this process; last: the end is in BUF */
    deadline busy;                          /* until then, the last frame is not long ago */
    bytes moved;                            /* to the socket, or to the output, in all */
};

/* Linux moves what is in a FIFO without copying it, which takes an eighth of nc's time, and sleeps
 * for neither end of it, even where that is standard input or output and may block. Not so for
 * files: what is written into one while it is on its way, or waits in a FIFO, would show there. */
#if defined __linux__ && !defined PASHLIB_NO_SPLICE
enum { CAN_MOVE = 1, MORE = MSG_MORE };
#define move(from, to, n) splice(from, NULL, to, NULL, n, SPLICE_F_NONBLOCK)
#define lull(ns) ppoll(NULL, 0, &(struct timespec){ 0, ns }, NULL)
#else
enum { CAN_MOVE = 0, MORE = 0 };
#define move(from, to, n) (-1)
#define lull(ns) 0
#endif

struct parcel { int fd, error; };
static void parcel_pass(int sock, int give, struct parcel *p) {     /* give 0: take it */
    union { struct cmsghdr head; char space[CMSG_SPACE(sizeof (int))]; } control = {
        { .cmsg_len = CMSG_LEN(sizeof (int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
    struct iovec iov = { &p->error, sizeof p->error };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                        .msg_controllen = give && p->fd < 0 ? 0 : sizeof control };
    memcpy(CMSG_DATA(&control.head), &p->fd, sizeof p->fd);
    ssize_t n;
    do n = give ? sendmsg(sock, &m, 0) : recvmsg(sock, &m, 0); while (n < 0 && errno == EINTR);
    if (!give && n > 0 && m.msg_controllen)
        memcpy(&p->fd, CMSG_DATA(&control.head), sizeof p->fd);
}

/* Job: open the path of stream ARG, for a FIFO until its other end comes, and pass it on. */
static void path_job(int sock, const void *arg) {
    const struct stream *s = arg;
    int fd = open(s->path, (s->sends ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC) | O_NOCTTY, 0666);
    parcel_pass(sock, 1, &(struct parcel){ fd, fd < 0 ? errno : 0 });
}

/* FD is the input or output now. A receiver that slept in a write could not say that it lives: a
 * description of our own, where the system gives one, does not block; else what is written at a
 * time is what poll() promises room for. (Files and disks do not sleep; what stands there stays.) A
 * FIFO is to hold more: one of 64 KiB costs twice the time of one of 1 MiB. All together take half
 * of what Linux gives an ordinary user; beyond that he would get very small ones. */
static void flow_open(struct flow *f, int fd) {
    struct stat st = { 0 };
    f->fd = fd;
    fstat(fd, &st);
    int file = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode), fifo = S_ISFIFO(st.st_mode), own = -1;
    if (fd == 1 && !file && !ptsname(fd)                        /* opening a pty's makes another */
        && (!fifo || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY))     /* its only reader, maybe */
        own = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY);
    if (own >= 0) dup2(own, fd);
    close_fd(&own);
    f->limit = file || fcntl(fd, F_GETFL) & O_NONBLOCK ? PASHLIB_BUFFER : PIPE_BUF;
    f->watch = fifo || S_ISSOCK(st.st_mode);
    f->fast = CAN_MOVE && fifo;
#ifdef F_SETPIPE_SZ
    int want = FIFOS_SIZE / f->streams < FIFO_SIZE ? FIFOS_SIZE / f->streams : FIFO_SIZE;
    if (fifo && fcntl(fd, F_GETPIPE_SZ) < want) fcntl(fd, F_SETPIPE_SZ, want);
#endif
}

static int path_opened(struct flow *f, char *why) {
    struct parcel p = { -1, EIO };
    parcel_pass(f->opening.fd, 0, &p);
    job_end(&f->opening);
    if (p.fd < 0) return fail(why, "opening %.300s: %s", f->s->path, strerror(p.error));
    set_nonblocking(p.fd);
    flow_open(f, p.fd);
    return 1;
}

static int lost(const struct flow *f, char *why) {
    return fail(why, "connection lost after %llu bytes: output is incomplete", f->moved);
}

struct heard { unsigned char in[8]; size_t have; bytes said; deadline quiet; };
/* Take what the receiver says, without waiting. 1: h->said is its answer. 0: none. -1: gone. */
static int hear(struct heard *h, int sock) {
    for (;;) {
        ssize_t n = recv(sock, h->in + h->have, sizeof h->in - h->have, 0);
        if (n < 0 && would_block()) return 0;
        if (n <= 0) return -1;
        h->quiet = after(QUIET_MS);
        h->have = (h->have + (size_t)n) % sizeof h->in;
        if (h->have) continue;
        h->said = get(h->in, 8);
        if (h->said != SAID_ALIVE) return 1;
    }
}

/* How many bytes can be moved from the input; 0: perhaps none. */
static int input_holds(const struct flow *f) {
    int n = 0;
    return f->fast && ioctl(f->fd, FIONREAD, &n) == 0 ? n : 0;
}

/* Begin the next frame: all that the input holds, or what one read() gives. Where that is little
 * and soon after the last, more is let come: a fifth of the time at 100 bytes each. 0: errno. */
static int frame_fill(struct flow *f) {
    int holds = input_holds(f);
    ssize_t n = 0;
    if (holds > 0 && holds < FEW && ms_left(f->busy) && lull(LULL_NS) == 0) holds = input_holds(f);
    f->left = holds < FRAME_MAX ? (size_t)holds : FRAME_MAX;
    if (!f->left) n = read(f->fd, f->buf + 4, PASHLIB_BUFFER);
    if (n < 0) return would_block();
    f->last = !n && !f->left;
    put(f->buf, 4, f->left + (size_t)n);
    if (f->last) put(f->buf + 4, 8, f->moved);
    f->have = f->last ? 12 : 4 + (size_t)n;
    f->done = 0;
    return 1;
}

/* Send what the socket takes of the frame. 0: errno. */
static int frame_send(struct flow *f) {
    while (f->done < f->have || f->left) {
        size_t before = f->done > 4 ? f->done : 4;
        int copied = f->done < f->have, more = f->left ? MORE : 0;
        ssize_t n = copied ? send(f->sock, f->buf + f->done, f->have - f->done, MSG_NOSIGNAL | more)
                           : move(f->fd, f->sock, f->left);
        if (n <= 0) return n < 0 && would_block();  /* 0: others have them, and the FIFO ended */
        if (copied) f->done += (size_t)n;
        else f->left -= (size_t)n;
        if (!copied) f->moved += (size_t)n;
        else if (!f->last && f->done > before) f->moved += f->done - before;
    }
    f->busy = after(BUSY_MS);
    return 1;
}

/* Carry the input to the socket. The answer is looked for while idle, while writing, and after a
 * write that failed. 1: delivered, or the reader needs no more. 0: WHY. */
static int send_frames(struct flow *f, char *why) {
    struct heard h = { .quiet = after(QUIET_MS) };
    int heard = 0;
    while (!heard) {
        int full = f->done < f->have || f->left, opens = f->opening.pid != 0;
        int dry = f->left && f->done == f->have && !input_holds(f);
        int hungry = !full || dry;          /* dry: others took the rest of a frame from the FIFO */
        struct pollfd p[2] = { { f->sock, hungry ? POLLIN : POLLIN | POLLOUT, 0 },
                               { hungry && !f->last ? f->fd : -1, POLLIN, 0 } };
        if (!wait_for(p, 2, h.quiet) && !ms_left(h.quiet)) return lost(f, why);
        if (p[0].revents & ~POLLOUT) heard = hear(&h, f->sock);
        if (heard) break;
        if (opens && p[1].revents && !path_opened(f, why)) return 0;
        if (!opens && !full && p[1].revents && !frame_fill(f))
            return fail(why, "reading %.300s: %s", f->s->path, strerror(errno));
        if (!frame_send(f)) heard = hear(&h, f->sock) > 0 ? 1 : -1;
    }
    if (heard < 0) return lost(f, why);
    if (h.said == SAID_GONE) {              /* who has yet to open our FIFO gets SIGPIPE, too */
        say(LOG_INFO, "node %u needs no more: its reader went away", f->s->peer);
        shutdown(f->sock, SHUT_WR);
        while (f->opening.pid && !wait_for_one(f->fd, POLLIN, after(MS_MAX))) continue;
    } else if (!f->last || f->done < f->have || h.said != f->moved)
        return fail(why, "node %u has %llu bytes of %llu: output is incomplete", f->s->peer, h.said,
                    f->moved);
    say(LOG_INFO, "sent %llu bytes", f->moved);
    return 1;
}

/* Tell the sender SAID: few bytes, and all that goes this way. 1: the kernel has them. */
static int tell(int sock, uint64_t said) {
    unsigned char m[8];
    put(m, 8, said);
    return send(sock, m, sizeof m, MSG_NOSIGNAL) == (ssize_t)sizeof m;
}

/* Give the answer, and wait until the sender, which has it then, closes. */
static void finish(int sock, uint64_t said) {
    deadline end = after(FINISH_MS);
    char rest[4096];
    ssize_t n = -1;
    int told = tell(sock, said) && shutdown(sock, SHUT_WR) == 0;
    while (told && ms_left(end) && (n = recv(sock, rest, sizeof rest, 0)) != 0
           && (n > 0 || would_block()))
        if (n < 0) wait_for_one(sock, POLLIN, end);
    if (n != 0) say(LOG_INFO, "the sender has not confirmed that it knows of the end");
}

/* The reader of frames: HAVE bytes of a header; what is LEFT to come of the frame. */
struct frames { unsigned char head[12]; size_t have, left; int ended; };

/* Take the next bytes from SOCK: of a header, or of a frame, at most MAX into BUF. Returns how many
 * came into BUF, 0 if none did. -1: errno; 0: the sender has gone, EPROTO: it is no sender. */
static ssize_t frames_read(struct frames *f, int sock, unsigned char *buf, size_t max) {
    size_t want = f->have >= 4 ? 12 : 4;
    ssize_t n = f->left ? recv(sock, buf, f->left < max ? f->left : max, 0)
                        : recv(sock, f->head + f->have, want - f->have, 0);
    if (n == 0) errno = 0;
    if (n <= 0) return n < 0 && would_block() ? 0 : -1;
    if (f->left) { f->left -= (size_t)n; return n; }
    f->have += (size_t)n;
    f->ended = f->have == 12;
    if (f->have != 4 || get(f->head, 4) == 0) return 0;
    f->left = (size_t)get(f->head, 4);
    f->have = 0;
    errno = EPROTO;
    return f->left > FRAME_MAX ? -1 : 0;
}

/* Carry what comes over the socket to the output. poll() is to wait for many bytes at once, but not
 * for long: the link may be slow, and Linux before 4.18 may have less room than that at the socket.
 * 1: done. -1: its reader left. 0: WHY. */
static int recv_frames(struct flow *f, char *why) {
    struct frames in = { .left = 0 };
    deadline alive = after(ALIVE_MS);
    int waits = 0, lowat = 1, slow = 0;     /* waits: what is at the socket waits for the output */
    while (!in.ended) {
        int full = f->done < f->have || waits, opens = f->opening.pid != 0;
        int wants = opens ? POLLIN : full ? POLLOUT : 0;
        int low = !in.left || slow ? 1 : in.left < LOWAT_MAX ? (int)in.left : LOWAT_MAX;
        struct pollfd p[2] = { { full ? -1 : f->sock, opens ? POLLRDHUP : POLLIN, 0 },
                               { wants || f->watch ? f->fd : -1, (short)wants, 0 } };
        if (!full && low != lowat) set_option(f->sock, SOL_SOCKET, SO_RCVLOWAT, lowat = low);
        slow = !wait_for(p, 2, full || low == 1 ? alive : sooner(alive, after(LOWAT_MS)));
        int due = !ms_left(alive);
        if (due && !tell(f->sock, SAID_ALIVE)) return lost(f, why);
        if (due) alive = after(ALIVE_MS);
        if (opens && p[1].revents) {
            if (!path_opened(f, why)) return 0;
        } else if (opens && p[0].revents) return lost(f, why);
        else if (p[1].revents && !full) return -1;
        else if (p[1].revents || (p[0].revents && f->fast && in.left)) {
            size_t have = f->have - f->done, most = have < f->limit ? have : f->limit;
            ssize_t n = have ? write(f->fd, f->buf + f->done, most) : move(f->sock, f->fd, in.left);
            if (n < 0 && errno == EPIPE) return -1;
            waits = !have && n < 0 && !waits;           /* for room, or else for more to come */
            if (n < 0 && would_block()) continue;
            if (n < 0 && have) return fail(why, "writing %.300s: %s", f->s->path, strerror(errno));
            if (n <= 0) return lost(f, why);
            f->moved += (size_t)n;
            if (have) f->done += (size_t)n;
            else in.left -= (size_t)n;
        } else if (p[0].revents) {
            ssize_t n = frames_read(&in, f->sock, f->buf, PASHLIB_BUFFER);
            if (n < 0 && errno == EPROTO) return fail(why, "a frame of %zu bytes is none", in.left);
            if (n < 0) return lost(f, why);
            f->done = 0;
            f->have = (size_t)n;
        }
    }
    if (get(in.head + 4, 8) == f->moved) return 1;
    return fail(why, "received %llu bytes of %llu: output is incomplete", f->moved,
                (bytes)get(in.head + 4, 8));
}

/* Carry stream S, one of STREAMS, over SOCK. FD: standard input or output; -1: its path. 0: WHY. */
static int transfer(const struct stream *s, int streams, int fd, int sock, char *why) {
    struct flow f = { .s = s, .sock = sock, .streams = streams,
                      .buf = malloc(PASHLIB_BUFFER + 12) };     /* a header, and the end's total */
    if (!f.buf) return fail(why, "out of memory");
    if (fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == (fd ? O_RDONLY : O_WRONLY))
        return fail(why, "opening -: %s", strerror(EBADF));     /* see standard_open() */
    if (fd >= 0) flow_open(&f, fd);
    else if (!job_start(&f.opening, path_job, s, why)) return 0;
    else if (!wait_for_one(f.fd = f.opening.fd, POLLIN, after(FIFO_MS)))
        say(LOG_INFO, "waiting for the other end of %s", s->path);
#ifdef TCP_USER_TIMEOUT
    if (!s->sends) set_option(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, QUIET_MS);
#endif
    int good = s->sends ? send_frames(&f, why) : recv_frames(&f, why);
    job_end(&f.opening);
    if (good > 0 && !s->sends && close(f.fd) < 0 && errno != EINTR)
        good = fail(why, "closing %.300s: %s", s->path, strerror(errno));
    if (s->sends || !good) return good;
    finish(sock, good < 0 ? SAID_GONE : f.moved);
    if (good < 0) say(LOG_INFO, "the reader of %s went away", s->path);
    say(LOG_INFO, "received %llu bytes", f.moved);
    return 1;
}

/* ---- 11. command line: parse it, a child for every stream, gather the results -----------------
 * Touches standard output (addr, --help, --version) and, in the parent alone, signals. */

enum { EXIT_USAGE = 2, STREAM_WORDS = 5 };
#define usage(...) (say(LOG_ERROR, __VA_ARGS__), EXIT_USAGE)
#define failed(...) (say(LOG_ERROR, __VA_ARGS__), EXIT_FAILURE)

static int printed(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    return failed("standard output: %s", strerror(errno));
}

static int print_help(void) {
    printf("usage: pashlib STREAM...                 carry streams until all have ended\n"
           "       pashlib send KEY ME PEER [PATH]   one stream, as words; [standard input]\n"
           "       pashlib recv KEY ME PEER [PATH]   ... [standard output]\n"
           "       pashlib addr                      print this machine's addresses\n"
           "       pashlib --help | --version\n\n"
           "STREAM is (send|recv)*KEY*ME*PEER*PATH. KEY: the same at both ends; ME and PEER:\n"
           "node numbers; PATH: a FIFO or file, or - for standard input or output.\n"
           "Exit status: 0 all delivered, 1 a stream failed, 2 wrong usage or setting.\n\n"
           "Environment [default]:\n");
    for (const struct setting *t = table; t < table + COUNT(table); t++)
        printf(t->unset ? "  %-29s %s [%s]\n" : "  %-29s %s\n", t->name, t->what, t->unset);
    printf("\nRendezvous: dynamodb:rdv where AWS_REGION or AWS_DEFAULT_REGION is set, else\n"
           "dir:${TMPDIR:-/tmp}/pashlib-UID. The data is not encrypted; README says more.\n");
    return printed();
}

/* Fill S from its words, which stay where they are; the last, if NULL, is "-". 0: done. 2: said. */
static int stream_parse(struct stream *s, char *const *word) {
    unsigned long node[2];
    *s = (struct stream){ .sends = strcmp(word[0], "send") == 0, .key = word[1],
                          .path = word[STREAM_WORDS - 1] ? word[STREAM_WORDS - 1] : "-",
                          .listener = -1, .udp = -1, .stun = -1, .child.fd = -1, .rdv.fd = -1 };
    if (!s->sends && strcmp(word[0], "recv"))
        return usage("\"%s\" is not send or recv", word[0]);
    if (!*s->key || strlen(s->key) > NAME_LEN || strchr(s->key, '*'))
        return usage("KEY is \"%s\": want 1 to %d bytes, no *", s->key, NAME_LEN);
    for (int i = 0; i < 2; i++)
        if (!number(word[2 + i], INT_MAX, &node[i]))
            return usage("%s %s: %s is \"%s\": want a number, 0 to %d", word[0], s->key,
                         i ? "PEER" : "ME", word[2 + i], INT_MAX);
    s->me = (unsigned)node[0];
    s->peer = (unsigned)node[1];
    if (s->me == s->peer) return usage("%s %s: ME and PEER are both %u", word[0], s->key, s->me);
    if (strcmp(s->path, s->sends ? "/dev/stdin" : "/dev/stdout") == 0
        || strcmp(s->path, s->sends ? "/dev/fd/0" : "/dev/fd/1") == 0)
        s->path = "-";                                        /* in a child they are other files */
    return *s->path ? 0 : usage("%s %s: PATH is empty", word[0], s->key);
}

/* Fill S from TEXT, (send|recv)*KEY*ME*PEER*PATH, cut at its first four stars. */
static int stream_split(struct stream *s, char *text) {
    char *word[STREAM_WORDS] = { text };
    for (int i = 1; i < STREAM_WORDS; i++) {
        char *star = strchr(word[i - 1], '*');
        if (!star) return usage("\"%s\" is no (send|recv)*KEY*ME*PEER*PATH", text);
        word[i] = star + 1;
    }
    for (int i = 1; i < STREAM_WORDS; i++) *(word[i] - 1) = 0;
    return stream_parse(s, word);
}

static int streams_check(const struct stream *s, int n) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++) {
            if (s[i].me == s[k].me && strcmp(s[i].key, s[k].key) == 0)
                return usage("KEY \"%s\" and node %u come twice", s[i].key, s[i].me);
            if (s[i].sends == s[k].sends && !strcmp(s[i].path, "-") && !strcmp(s[k].path, "-"))
                return usage("two streams share standard %s", s[i].sends ? "input" : "output");
        }
    return 0;
}

static int is_utf8(const char *text) {        /* RFC 3629, 4 */
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        int n = *p < 0x80 ? 0 : *p < 0xc2 ? -1 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : *p < 0xf5 ? 3 : -1;
        if (n < 0 || (*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f)
            || (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f)) return 0;
        for (; n; n--) if ((*++p & 0xc0) != 0x80) return 0;
    }
    return 1;
}

/* What DynamoDB needs: region, http:// endpoint, keys that JSON can hold. 0: done. 2: said. */
static int dynamodb_check(const struct stream *s, int n) {
    const char *region = set.region;
    char url[HOST_MAX], why[WHY_MAX];
    if (!region) return usage("%s: neither AWS_REGION nor AWS_DEFAULT_REGION is set", set.rdv.text);
    if (!set.dynamodb.at.port && (strstr(region, "-iso") || strncmp(region, "eusc-", 5) == 0))
        return usage("region %s: set AWS_ENDPOINT_URL_DYNAMODB, to an http:// endpoint", region);
    if (strspn(region, letters) != strlen(region) || strlen(region) > 63)
        return usage("region %s is none", region);
    snprintf(url, sizeof url, "http://dynamodb.%.63s.amazonaws.com%s", region,
             strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
    if (!set.dynamodb.at.port) parse_url(&set.dynamodb, url, why);      /* cannot fail */
    if (set.dynamodb.tls)
        return usage("endpoint https://%s: no TLS here, only signed requests over http://; "
                     "see README", set.dynamodb.authority);
    if (!set.key_id != !set.secret)
        return usage("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only the %s is set",
                     set.key_id ? "former" : "latter");
    if (set.key_id && (strlen(set.key_id) > 143 || strlen(set.secret) > 143
        || (set.token && strlen(set.token) >= TOKEN_MAX))) return usage("credentials are too long");
    for (int i = 0; i < n; i++)
        if (!is_utf8(s[i].key)) return usage("KEY \"%s\" is not UTF-8", s[i].key);
    snprintf(set.rdv.text, sizeof set.rdv.text, "dynamodb:%.255s (%.63s)", set.rdv.name, region);
    return 0;
}

/* Open descriptors 0, 1 and 2 on /dev/null where they are closed, so that no socket takes their
 * number; but 0 not for reading and 1 not for writing, so that whoever wants to do that fails. */
static void standard_open(void) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 1 ? 0 : O_WRONLY) != fd) _exit(1);
}

/* Let go of standard input and output but KEEP, and of listeners but ONE's, lest they stay open. */
static void let_go(struct stream *s, int n, const struct stream *one, int keep) {
    int none = socket(AF_UNIX, SOCK_DGRAM, 0);          /* /proc/self/fd/1 cannot be opened then */
    for (int i = 0; i < n; i++)
        if (&s[i] != one) { close_fd(&s[i].listener); close_fd(&s[i].stun); }
    for (int fd = 0; fd < 2; fd++) if (fd != keep && dup2(none, fd) < 0) die("socket");
    close_fd(&none);
}

/* What both processes of a stream get. MASK: of signals, at our start. */
struct start { struct stream *all; int n; struct stream *s; sigset_t mask; };

/* Job: the rendezvous process, which no signal ends, since it is to withdraw. */
static void rdv_job(int fd, const void *arg) {
    const struct start *start = arg;
    let_go(start->all, start->n, NULL, -1);
    rdv_run(fd, start->s);
}

/* Job: join a stream with its peer and carry it. Its exit status is the stream's. */
static void stream_job(int unused, const void *arg) {
    const struct start *start = arg;
    struct stream *s = start->s;
    char why[WHY_MAX];
    int fd = strcmp(s->path, "-") != 0 ? -1 : s->sends ? 0 : 1, sock, good;
    close(unused);
    sigprocmask(SIG_SETMASK, &start->mask, NULL);
    let_go(start->all, start->n, s, fd);
    sock = punch(s, s->rdv.fd, why);
    close(s->rdv.fd);                                           /* the registration is withdrawn */
    good = sock >= 0 && transfer(s, start->n, fd, sock, why);
    _exit(good ? 0 : failed("%s", why));
}

static void nothing(int sig) { (void)sig; }
/* What we wait for: our children, the alarm (caught, lest the system drop them), and what ends us,
 * unless it was ignored at the start; SIGPIPE is not left ignored. */
static void signals_begin(sigset_t *wanted) {
    static const int signals[] = { SIGCHLD, SIGALRM, SIGPIPE, SIGHUP, SIGINT, SIGTERM };
    struct sigaction was;
    signal(SIGCHLD, nothing);
    signal(SIGALRM, nothing);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(wanted);
    for (size_t i = 0; i < COUNT(signals); i++)
        if (sigaction(signals[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN)
            sigaddset(wanted, signals[i]);
}

/* See which children have ended (*STATUS: 1 if a stream failed); end the rendezvous processes that
 * outlast their streams for too long. Returns how many streams are left, and sets the alarm. */
static int streams_left(struct stream *s, int n, int *status) {
    struct itimerval soon = { .it_value = { 0, 50000 } };   /* us, until the next look */
    int left = 0, how;
    for (; n > 0; n--, s++) {
        set.who = s;
        if (s->rdv.pid && waitpid(s->rdv.pid, NULL, WNOHANG) > 0) s->rdv.pid = 0;
        if (s->child.pid && waitpid(s->child.pid, &how, WNOHANG) > 0) {
            s->child.pid = 0;
            s->rdv_end = after(WITHDRAW_MS);
            if (how) *status = 1;
            if (WIFSIGNALED(how)) say(LOG_ERROR, "its process ended by signal %d", WTERMSIG(how));
        }
        if (s->rdv.pid && !s->child.pid && !ms_left(s->rdv_end)) {
            say(LOG_ERROR, "withdrawing the registration: not done in time");
            job_end(&s->rdv);
        }
        if (s->rdv.pid && !s->child.pid) setitimer(ITIMER_REAL, &soon, NULL);
        left += s->child.pid || s->rdv.pid;
    }
    return left;
}

/* Carry the N streams, each in a child. Returns the exit status, or ends by the signal it got. The
 * parent's one wait is here: for its children, whose waits have deadlines, signals, an alarm. */
static int carry(struct stream *s, int n) {
    struct start start = { .all = s, .n = n };
    sigset_t wanted;
    char why[WHY_MAX];
    int status = 0, sig, got = 0;
    signals_begin(&wanted);
    if (!discover(s, n, 0, why)) return failed("%s", why);
    say(LOG_INFO, "rendezvous %s", set.rdv.text);
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, set.purse) < 0) die("socketpair");
    set_nonblocking(set.purse[0]);
    job_write(set.purse[1], &(struct creds){ .why = "" }, sizeof (struct creds));
    sigprocmask(SIG_BLOCK, &wanted, &start.mask);
    for (int i = 0; i < n; i++) {
        set.who = start.s = &s[i];
        if (!job_start(&s[i].rdv, rdv_job, &start, why)
            || !job_start(&s[i].child, stream_job, &start, why)) status = failed("%s", why);
        close_fd(&s[i].rdv.fd);
        close_fd(&s[i].child.fd);
        s[i].rdv_end = after(WITHDRAW_MS);
    }
    let_go(s, n, NULL, -1);
    while (streams_left(s, n, &status)) {
        sigwait(&wanted, &sig);
        if (sig == SIGCHLD || sig == SIGALRM || got) continue;
        got = sig;
        for (int i = 0; i < n; i++) {                   /* the rendezvous processes then withdraw */
            job_end(&s[i].child);                       /* ended: nothing is written after us */
            s[i].rdv_end = after(WITHDRAW_HASTE_MS);
        }
    }
    if (!got) return status;
    sigprocmask(SIG_UNBLOCK, &wanted, NULL);
    raise(got);
    return 1;
}

static int print_addresses(void) {
    struct stream s = { .listener = -1, .udp = -1, .stun = -1 };
    char why[WHY_MAX];
    if (!discover(&s, 1, 1, why)) return failed("%s", why);
    printf("local_addr=%s\nexternal_addr=%s\nsource=%s\n", SHOW(&s.local), SHOW(&s.external),
           s.source);
    if (s.mapping)
        printf("mapping=endpoint-%sdependent\n", s.mapping == MAPPING_DEPENDENT ? "" : "in");
    return printed();
}

int main(int argc, char **argv) {
    const char *first = argc > 1 ? argv[1] : "";
    int words = strcmp(first, "send") == 0 || strcmp(first, "recv") == 0;
    int n = words ? 1 : argc - 1, status = 0;
    struct stream *s;
    struct rlimit files = { RLIM_INFINITY, RLIM_INFINITY };
    standard_open();
    signal(SIGPIPE, SIG_IGN);                              /* what cannot be printed is an error */
    if (strcmp(first, "--help") == 0) return print_help();
    if (strcmp(first, "--version") == 0) return printf("pashlib %s\n", VERSION) < 0 || printed();
    if (!settings_read()) return EXIT_USAGE;
    if (n < 1) return usage("no stream is named; see pashlib --help");
    if (!strcmp(first, "addr")) return n > 1 ? usage("addr stands alone") : print_addresses();
    if (words && (argc < 5 || argc > 6)) return usage("%s takes KEY ME PEER [PATH]", first);
    if (!(s = calloc((size_t)n, sizeof *s))) die("memory");
    for (int i = 0; i < n && !status; i++)
        status = words ? stream_parse(&s[i], argv + 1) : stream_split(&s[i], argv[1 + i]);
    if (!status) status = streams_check(s, n);
    if (!status && set.rdv.kind == RDV_DYNAMODB) status = dynamodb_check(s, n);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (int *k = &set.stun.n; *k > 1 && (rlim_t)n * (unsigned)(*k + 2) + 64 > files.rlim_cur; --*k)
        say(LOG_INFO, "too few descriptors to ask STUN server %s, too", set.stun.at[*k - 1].name);
    if (!status) status = carry(s, n);
    free(s);
    return status;
}
