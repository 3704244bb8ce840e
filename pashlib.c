/* SPDX-License-Identifier: MIT */
/* pashlib: join the two ends of a shell pipeline across machines, through NATs and firewalls.
 *
 *     cc -O2 -o pashlib pashlib.c
 *
 * One file, to be read from top to bottom in the order in which data flows. Each part says what it
 * touches; what it does not name it does not touch. Lower parts call upward only. README has the
 * contract.
 *
 *  1 addresses     2 settings, log     3 clock, descriptors, jobs   4 STUN        5 HTTP, IMDS
 *  6 discovery     7 SHA-256, HMAC     8 rendezvous    9 connect   10 transfer   11 command line */
#define _GNU_SOURCE
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
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#ifdef __APPLE__
#include <sys/random.h>
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0                     /* whoever sends has SIGPIPE ignored as well */
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0                 /* without it, a peer that has gone shows when a write fails */
#endif
#ifndef PIPE_BUF
#define PIPE_BUF 512
#endif
#ifndef PASHLIB_BUFFER
#define PASHLIB_BUFFER 262144     /* bytes carried at a time; the tests also build with very few */
#endif
#ifdef __GNUC__
#define FORMAT(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define FORMAT(fmt, args)
#endif
#define COUNT(array) (sizeof (array) / sizeof *(array))

/* ---- 1. addresses: parse, print, compare ------------------------------------------------------
 * Pure functions. An address is held as IPv6, an IPv4 one as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), so
 * that one dual-stack socket serves both families. */

enum { WHY_MAX = 512, HOST_MAX = 254, ADDR_TEXT = 56 };    /* sizes of texts, their NUL included */

struct addr { unsigned char ip[16]; unsigned port; };      /* port in host order; all zero: none */

static const unsigned char v4_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

/* Write the reason of a failure into WHY (WHY_MAX bytes) and return 0: a check takes one line. */
FORMAT(2, 3) static int fail(char *why, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, WHY_MAX, fmt, args);
    va_end(args);
    return 0;
}

/* A decimal number, digits only, the whole of S, at most MAX. 1: *N is set. 0: S is no such
 * number. */
static int number(const char *s, unsigned long max, unsigned long *n) {
    if (!*s || s[strspn(s, "0123456789")]) return 0;
    *n = strtoul(s, NULL, 10);                                  /* too large: ULONG_MAX */
    return *n <= max;
}

/* Split S, which is HOST, HOST:PORT, [IPv6], [IPv6]:PORT or a bare IPv6 address, into HOST
 * (HOST_MAX bytes) and *PORT, which stays as it is where S names none. 1: done. 0: S is none of
 * these. */
static int host_port(const char *s, char *host, unsigned *port) {
    const char *colon = strrchr(s, ':'), *end = s + strlen(s);
    unsigned long n;
    if (*s == '[') {
        end = strchr(++s, ']');
        if (!end || (end[1] && end[1] != ':') || !memchr(s, ':', (size_t)(end - s))) return 0;
        colon = end[1] ? end + 1 : NULL;
    }
    else if (colon && colon == strchr(s, ':')) end = colon;
    else colon = NULL;
    if (end == s || end - s >= HOST_MAX) return 0;
    memcpy(host, s, (size_t)(end - s));
    host[end - s] = 0;
    if (!colon) return 1;
    if (!number(colon + 1, 65535, &n) || n == 0) return 0;
    *port = (unsigned)n;
    return 1;
}

/* An IPv4 or IPv6 literal, without brackets. 1: the address of *A is set, its port is not
 * touched. */
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

static int addr_is_loopback(const struct addr *a) {
    static const unsigned char v6[16] = { [15] = 1 };
    return addr_is_v4(a) ? a->ip[12] == 127 : memcmp(a->ip, v6, 16) == 0;
}

/* Whether it can be one host's: not unspecified, not multicast, not the limited broadcast
 * address. */
static int ip_usable(const struct addr *a) {
    static const unsigned char zero[16], ones[4] = { 0xff, 0xff, 0xff, 0xff };
    if (!addr_is_v4(a)) return memcmp(a->ip, zero, 16) != 0 && a->ip[0] != 0xff;
    return memcmp(a->ip + 12, zero, 4) && memcmp(a->ip + 12, ones, 4) && (a->ip[12] & 0xf0) != 0xe0;
}

static int addr_usable(const struct addr *a) { return a->port && ip_usable(a); }

static int addr_same(const struct addr *a, const struct addr *b) {
    return a->port == b->port && memcmp(a->ip, b->ip, 16) == 0;
}

/* IP:PORT, or the IP alone where the port is 0, into TEXT (ADDR_TEXT bytes). Returns TEXT. */
static const char *addr_text(const struct addr *a, char *text) {
    char ip[INET6_ADDRSTRLEN] = "?";
    int v4 = addr_is_v4(a);
    inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? a->ip + 12 : a->ip, ip, sizeof ip);
    snprintf(text, ADDR_TEXT, !a->port ? "%s" : v4 ? "%s:%u" : "[%s]:%u", ip, a->port);
    return text;
}
#define SHOW(a) addr_text(a, (char[ADDR_TEXT]){ 0 })            /* until the end of the block */

/* To the form that the kernel takes, for a socket of FAMILY. Returns its size; 0: not in that
 * family. */
static socklen_t addr_to_kernel(const struct addr *a, int family, struct sockaddr_storage *out) {
    struct sockaddr_in *in4 = (void *)out;
    struct sockaddr_in6 *in6 = (void *)out;
    memset(out, 0, sizeof *out);
    out->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        memcpy(&in4->sin_addr, a->ip + 12, 4);
        in4->sin_port = htons((uint16_t)a->port);
        return addr_is_v4(a) ? sizeof *in4 : 0;
    }
    memcpy(&in6->sin6_addr, a->ip, 16);
    in6->sin6_port = htons((uint16_t)a->port);
    return sizeof *in6;
}

static struct addr addr_from_kernel(const struct sockaddr_storage *from) {
    const struct sockaddr_in *in4 = (const void *)from;
    const struct sockaddr_in6 *in6 = (const void *)from;
    struct addr a = { { 0 }, 0 };
    if (from->ss_family == AF_INET) {
        memcpy(a.ip, v4_prefix, 12);
        memcpy(a.ip + 12, &in4->sin_addr, 4);
        a.port = ntohs(in4->sin_port);
    } else if (from->ss_family == AF_INET6) {
        memcpy(a.ip, &in6->sin6_addr, 16);
        a.port = ntohs(in6->sin6_port);
    }
    return a;
}

/* ---- 2. settings and log ----------------------------------------------------------------------
 * The environment is read once, here, into `set`, the only variable at file scope. The log goes to
 * standard error, a line a write. */

enum { LOG_ERROR, LOG_INFO, LOG_DEBUG };
enum { RDV_UNSET, RDV_DIR, RDV_DYNAMODB };
enum { SERVERS_MAX = 8, PLACE_MAX = 1024, MS_MAX = 86400000 };

struct host { char name[HOST_MAX]; unsigned port; };
struct url { struct host at; char authority[HOST_MAX + 16], path[256]; };  /* no slash ends PATH */
struct servers { int n; struct host at[SERVERS_MAX]; };
struct place { int kind; char text[PLACE_MAX]; const char *name; }; /* dir:NAME or dynamodb:NAME */

/* One stream, from the command line on. */
struct stream {
    int sends;                             /* 1: from PATH to the peer; 0: from the peer to PATH */
    const char *key, *path;
    unsigned me, peer;                      /* node numbers */
    int listener, udp;                      /* both on the stream's port; -1: none */
    struct addr local, external;            /* what the peer is told */
    const char *source, *mapping;          /* whence the external address; NULL: not known (yet) */
    char why[WHY_MAX];                      /* why STUN did not give it */
    pid_t child, rdv;                       /* its processes; 0: none, or ended */
    long long rdv_end;                  /* until when the latter may take, once the former ended */
};

static struct settings {
    int no_holepunch, stun_ms, peer_ms, connect_ms, level, imds_off, imds_v1_off;
    struct addr public_addr, public_ip;     /* all zero: not set */
    struct servers stun;
    struct place rdv;
    struct url imds;
    const char *region, *default_region;    /* NULL: not set */
    const struct stream *who;               /* whom log lines are about; NULL: the process */
} set = { .level = LOG_INFO };

/* Write a line to standard error. One whose reader has gone stops nothing: the SIGPIPE that this
 * causes is taken back. Nor does one that is stuck: after a second the line is dropped. */
static void log_write(const char *line, size_t len) {
    struct pollfd room = { 2, POLLOUT, 0 };
    sigset_t sigpipe, before, pending;
    int sig;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    if (poll(&room, 1, 1000) < 1) return;
    sigprocmask(SIG_BLOCK, &sigpipe, &before);
    if (write(2, line, len) < 0 && errno == EPIPE && sigpending(&pending) == 0
        && sigismember(&pending, SIGPIPE)) sigwait(&sigpipe, &sig);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Say one line, if LEVEL is asked for. Keys, paths and what servers answer come from outside:
 * control characters (C0, DEL, and C1 as UTF-8 has them) are shown as \xNN. */
FORMAT(2, 3) static void say(int level, const char *fmt, ...) {
    char text[2048], line[4 * sizeof text + 16];
    const struct stream *s = set.who;
    size_t n = 0, at;
    int saved = errno;
    va_list args;
    if (level > set.level) return;
    if (s) n = (size_t)snprintf(text, sizeof text, "%s %s: ", s->sends ? "send" : "recv", s->key);
    va_start(args, fmt);
    vsnprintf(text + n, sizeof text - n, fmt, args);
    va_end(args);
    at = (size_t)sprintf(line, "pashlib: ");
    for (n = 0; text[n]; n++) {
        unsigned char c = (unsigned char)text[n], next = (unsigned char)text[n + 1];
        int c1 = c == 0xc2 && next >= 0x80 && next < 0xa0;
        if (c1) at += (size_t)sprintf(line + at, "\\x%02x\\x%02x", c, next);
        else at += (size_t)sprintf(line + at, c < 0x20 || c == 0x7f ? "\\x%02x" : "%c", c);
        n += (size_t)c1;
    }
    line[at++] = '\n';
    log_write(line, at);
    errno = saved;
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

static int parse_text(void *at, const char *v, char *why) {
    *(const char **)at = v;
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
    if (addr_parse(v, at) && ip_usable(at)) return 1;
    return fail(why, "want IP:PORT of one host, as 203.0.113.7:5000 or [2001:db8::7]:5000");
}

static int parse_public_ip(void *at, const char *v, char *why) {
    if (ip_parse(v, at) && ip_usable(at)) return 1;
    return fail(why, "want the IP of one host, as 203.0.113.7 or 2001:db8::7");
}

/* HOST[:PORT]: a literal address, or a name, the last label of which is not a number. */
static int parse_host(struct host *h, const char *v, char *why) {
    static const char letters[] = "-_.0123456789abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    struct addr a;
    const char *last;
    if (!host_port(v, h->name, &h->port)) return fail(why, "\"%s\" is no HOST or HOST:PORT", v);
    if (ip_parse(h->name, &a))
        return ip_usable(&a) || fail(why, "%s is not the address of one host", h->name);
    last = strrchr(h->name, '.');
    last = last ? last + 1 : h->name;
    if ((*last && !last[strspn(last, "0123456789")]) || h->name[strspn(h->name, letters)])
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
        if (len == 0 || len >= sizeof item) return fail(why, "want [udp:]HOST[:PORT],...");
        memcpy(item, v, len);
        item[len] = 0;
        if (strncmp(item, "tcp:", 4) == 0) return fail(why, "tcp: servers are not supported yet");
        h->port = 3478;                                         /* RFC 8489, 18.6 */
        if (!parse_host(h, strncmp(item, "udp:", 4) == 0 ? item + 4 : item, why)) return 0;
        list->n++;
        v += len;
        if (!*v) return 1;
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
    p->name = p->text + (dir ? 4 : 9);
    p->kind = dir ? RDV_DIR : RDV_DYNAMODB;
    if (!dir && strncmp(v, "dynamodb:", 9) != 0)
        return fail(why, "want dir:PATH or dynamodb:TABLE");
    return *p->name || fail(why, "want a %s behind the colon", dir ? "PATH" : "TABLE");
}

static int parse_url(void *at, const char *v, char *why) {
    struct url *u = at;
    size_t len, path;
    if (strncasecmp(v, "http://", 7) != 0) return fail(why, "want http://HOST[:PORT][/PATH]");
    v += 7;
    len = strcspn(v, "/");
    path = strlen(v + len);
    while (path && v[len + path - 1] == '/') path--;
    if (len >= sizeof u->authority || path >= sizeof u->path) return fail(why, "it is too long");
    for (size_t i = len; i < len + path; i++)
        if (v[i] <= ' ' || v[i] > '~') return fail(why, "its path is not printable ASCII");
    memcpy(u->authority, v, len);
    memcpy(u->path, v + len, path);
    u->authority[len] = u->path[path] = 0;
    u->at.port = 80;
    return parse_host(&u->at, u->authority, why);
}

/* Every setting: this table parses them and prints --help; the tests hold README against it. */
static const struct setting {
    const char *name, *unset;               /* UNSET: the value where there is none, or NULL */
    int (*parse)(void *at, const char *v, char *why);
    size_t at;
    const char *what;
} table[] = {
#define AT(member) offsetof(struct settings, member)
#define ROW(name, dflt, type, at, what) { name, dflt, parse_##type, AT(at), what }
    ROW("PASH_NO_HOLEPUNCH", NULL, flag, no_holepunch, "1: ask neither STUN nor IMDS"),
    ROW("PASH_PUBLIC_ADDR", NULL, public_addr, public_addr, "IP:PORT, fallback; first local port"),
    ROW("PASH_PUBLIC_IP", NULL, public_ip, public_ip, "IP, fallback external address"),
    ROW("PASH_STUN_TIMEOUT_MS", "8000", ms, stun_ms, "longest that STUN may take; 0: none"),
    ROW("PASH_STUN_SERVER", "stun.l.google.com:19302", servers, stun, "HOST[:PORT],..."),
    ROW("PASH_RENDEZVOUS", NULL, place, rdv, "dir:PATH or dynamodb:TABLE; default below"),
    ROW("PASH_PEER_TIMEOUT_MS", "300000", ms, peer_ms, "longest wait for the peer"),
    ROW("PASH_CONNECT_TIMEOUT_MS", "30000", ms, connect_ms, "longest that connecting may take"),
    ROW("PASH_LOG", "info", level, level, "error, info or debug"),
    ROW("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254", url, imds, "IMDS"),
    ROW("AWS_EC2_METADATA_DISABLED", NULL, true, imds_off, "true: do not ask IMDS"),
    ROW("AWS_EC2_METADATA_V1_DISABLED", NULL, true, imds_v1_off, "true: IMDSv2 or nothing"),
    ROW("AWS_REGION", NULL, text, region, "region of the DynamoDB table"),
    ROW("AWS_DEFAULT_REGION", NULL, text, default_region, "the same, where AWS_REGION is not set"),
#undef ROW
#undef AT
};

static const char *environment(const char *name) { /* an empty value is as good as none */
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

/* Read the environment into `set`, every value checked, used or not. 0: said which are wrong. */
static int settings_read(void) {
    char why[WHY_MAX], dflt[PATH_MAX];
    const char *tmp = environment("TMPDIR") ? environment("TMPDIR") : "/tmp";
    int bad = 0;
    for (const struct setting *t = table; t < table + COUNT(table); t++) {
        const char *v = environment(t->name) ? environment(t->name) : t->unset;
        if (!v || t->parse((char *)&set + t->at, v, why)) continue;
        say(LOG_ERROR, "%s is \"%s\": %s", t->name, v, why);
        bad = 1;
    }
    if (set.rdv.kind != RDV_UNSET) return !bad;
    snprintf(dflt, sizeof dflt, "dir:%s/pashlib-%lu", tmp, (unsigned long)geteuid());
    if (set.region || set.default_region) strcpy(dflt, "dynamodb:rdv");
    if (parse_place(&set.rdv, dflt, why)) return !bad;
    say(LOG_ERROR, "TMPDIR is \"%s\": %s", tmp, why);
    return 0;
}

/* ---- 3. clock, descriptors, jobs --------------------------------------------------------------
 * Deadlines on the monotonic clock, the one poll(), sockets on a port, and jobs: what would block
 * runs in a child process, which is ended when its time is over. */

typedef struct { long long at; } deadline; /* CLOCK_MONOTONIC, ms; a struct, so no duration fits */

static long long clock_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static deadline after(long long ms) { return (deadline){ clock_ms(CLOCK_MONOTONIC) + ms }; }
static deadline sooner(deadline a, deadline b) { return a.at < b.at ? a : b; }
static deadline later(deadline a, deadline b) { return a.at < b.at ? b : a; }

/* What is left of it, in ms; 0: it is over. */
static int ms_left(deadline d) {
    long long left = d.at - clock_ms(CLOCK_MONOTONIC);
    return left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

/* End this process for a reason that leaves it nothing to go on with. */
static void die(const char *what) {
    say(LOG_ERROR, "%s: %s", what, strerror(errno));
    _exit(1);
}

/* Wait for one of N descriptors until END. Returns how many have something; 0 also after a signal:
 * the caller looks at its deadlines and comes again. */
static int wait_for(struct pollfd *fds, size_t n, deadline end) {
    int r = poll(fds, (nfds_t)n, ms_left(end));
    if (r < 0 && errno != EINTR && errno != EAGAIN) die("poll");
    for (size_t i = 0; i < n && r < 0; i++) fds[i].revents = 0;
    return r < 0 ? 0 : r;
}

static int wait_for_one(int fd, short events, deadline end) {
    struct pollfd p = { fd, events, 0 };
    return wait_for(&p, 1, end);
}

static int would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static void put(unsigned char *p, int n, uint64_t v) {      /* N bytes, big-endian */
    for (; n > 0; v >>= 8) p[--n] = (unsigned char)v;
}

static uint64_t get(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v = v << 8 | p[i];
    return v;
}

/* N bytes (at most 256) from the kernel's random number generator. */
static void random_bytes(unsigned char *p, size_t n) {
    if (getentropy(p, n) < 0) die("no random numbers from the kernel");
}

static void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static int set_option(int fd, int level, int option, int value) {
    return setsockopt(fd, level, option, &value, sizeof value) == 0;
}

/* A non-blocking socket for IPv6 and IPv4, or, where a host has no such, for IPv4. -1: errno. */
static int socket_open(int type) {
    int fd = socket(AF_INET6, type, 0);
    if (fd >= 0 && !set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)) close_fd(&fd);
    if (fd < 0) fd = socket(AF_INET, type, 0);
    if (fd >= 0) set_nonblocking(fd);
    return fd;
}

/* The address that FD has; before it is bound: the unspecified one of its family, and port 0. */
static struct addr socket_address(int fd, struct sockaddr_storage *kernel) {
    socklen_t len = sizeof *kernel;
    memset(kernel, 0, sizeof *kernel);
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

/* Connect, without waiting. 0: done. Otherwise an error number, EINPROGRESS among others. */
static int socket_connect(int fd, const struct addr *to) {
    struct sockaddr_storage ss;
    socklen_t len;
    int error = EAFNOSUPPORT;
    socket_address(fd, &ss);
    len = addr_to_kernel(to, ss.ss_family, &ss);
    if (len) error = connect(fd, (struct sockaddr *)&ss, len) < 0 ? errno : 0;
    say(LOG_DEBUG, "connect(%d, %s): %s", fd, SHOW(to), error ? strerror(error) : "done");
    return error;
}

/* The error that poll() announced; 0: none. */
static int socket_error(int fd) {
    int e = 0;
    socklen_t len = sizeof e;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0 ? errno : e;
}

/* First in every new child: it ends with PARENT, and SIGPIPE is an error of a write. */
static void child_begin(pid_t parent) {
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    if (getppid() != parent) _exit(1);                          /* it went before prctl() */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
}

struct job { pid_t pid; int fd; };          /* fd: a stream socket that leads to it; pid 0: none */

/* Run RUN(its end of a socket pair, ARG) in a child. 1: *J is set. 0: WHY. */
static int job_start(struct job *j, void (*run)(int, const void *), const void *arg, char *why) {
    int fd[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0)
        return fail(why, "socketpair: %s", strerror(errno));
    j->pid = fork();
    if (j->pid == 0) {
        child_begin(parent);
        close(fd[0]);
        run(fd[1], arg);
        _exit(0);
    }
    close(fd[1]);
    j->fd = fd[0];
    if (j->pid > 0) return 1;
    fail(why, "fork: %s", strerror(errno));
    close_fd(&j->fd);
    j->pid = 0;
    return 0;
}

static void job_end(struct job *j) {
    if (!j->pid) return;
    kill(j->pid, SIGKILL);
    while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR) continue;
    close(j->fd);
    j->pid = 0;
}

/* A job answers with structs. Read one. 0: the job ended without. */
static int job_read(int fd, void *message, size_t size) {
    return recv(fd, message, size, MSG_WAITALL) == (ssize_t)size;
}

static void job_write(int fd, const void *message, size_t size) {
    if (write(fd, message, size) != (ssize_t)size) _exit(1);    /* nobody waits for it any more */
}

struct lookup { int n; struct addr at[8]; char why[WHY_MAX]; };     /* what was found; n 0: WHY */

/* Look H up: a literal at once, a name by the resolver, for as long as that takes. IPv4 comes
 * first. */
static void lookup_now(const struct host *h, struct lookup *found) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    int error;
    found->n = ip_parse(h->name, &found->at[0]);
    found->at[0].port = h->port;
    if (found->n) return;
    error = getaddrinfo(h->name, NULL, &hints, &list);
    for (int v4 = 1; v4 >= 0; v4--) {
        for (struct addrinfo *i = list; i && found->n < (int)COUNT(found->at); i = i->ai_next) {
            struct sockaddr_storage ss = { 0 };
            struct addr a;
            memcpy(&ss, i->ai_addr, i->ai_addrlen < sizeof ss ? i->ai_addrlen : sizeof ss);
            a = addr_from_kernel(&ss);
            a.port = h->port;
            if (addr_is_v4(&a) == v4 && addr_usable(&a)) found->at[found->n++] = a;
        }
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
 * Decoding is pure; stun_start(), stun_send() and stun_read() touch the network (UDP). No files. */

enum { STUN_MAX = 1500, STUN_RTO_MS = 500, STUN_SENDS = 5 };
enum { STUN_DROP, STUN_ADDRESS, STUN_ERROR };

static const unsigned char stun_cookie[4] = { 0x21, 0x12, 0xa4, 0x42 };

struct cursor { const unsigned char *p; size_t left; int bad; }; /* bad: read past the end; stays */

/* The next N bytes, or NULL and c->bad. */
static const unsigned char *take(struct cursor *c, size_t n) {
    const unsigned char *p = c->p;
    if (c->bad || n > c->left) { c->bad = 1; return NULL; }
    c->p += n;
    c->left -= n;
    return p;
}

static unsigned take16(struct cursor *c) {
    const unsigned char *p = take(c, 2);
    return p ? (unsigned)(p[0] << 8 | p[1]) : 0;
}

/* The value of (XOR-)MAPPED-ADDRESS (RFC 8489, 14.1 and 14.2): a zero byte, the family, the port, 4
 * or 16 bytes of address, in network order. XOR: 16 bytes, the cookie and the id, or zeros. 1: *A
 * is set. */
static int stun_address(struct cursor v, const unsigned char *xor, struct addr *a, char *why) {
    unsigned family = take16(&v) & 0xff, port = take16(&v);
    size_t n = family == 1 ? 4 : family == 2 ? 16 : 0;
    const unsigned char *ip = take(&v, n);
    if (v.bad || !n || v.left) return fail(why, "its address is malformed");
    memcpy(a->ip, v4_prefix, 12);
    for (size_t i = 0; i < n; i++) a->ip[16 - n + i] = ip[i] ^ xor[i];
    a->port = port ^ (unsigned)(xor[0] << 8 | xor[1]);
    return addr_usable(a) || fail(why, "its address cannot be ours");
}

/* Decode the LEN bytes at M, an answer to our request ID (12 bytes; RFC 8489, 5, 6.3.3, 6.3.4 and
 * 14). STUN_ADDRESS: *A is set. STUN_ERROR: WHY has the server's code and reason. STUN_DROP: WHY
 * has what is wrong; the caller waits on, since it may be forged. Every attribute must lie inside
 * the message. */
static int stun_decode(const unsigned char *m, size_t len, const unsigned char *id, struct addr *a,
                       char *why) {
    static const unsigned char zero[16];
    unsigned char xor[16];
    struct cursor c = { m, len, 0 };
    int exact = 0, plain = 0, code = 0;
    unsigned type = take16(&c), body = take16(&c);
    const unsigned char *head = take(&c, 16);
    if (c.bad) return fail(why, "%zu bytes are no STUN header", len);
    memcpy(xor, stun_cookie, 4);
    memcpy(xor + 4, id, 12);
    if ((type != 0x0101 && type != 0x0111) || body != c.left || memcmp(head, xor, 16) != 0)
        return fail(why, "not an answer to our request");
    while (c.left) {
        unsigned kind = take16(&c), n = take16(&c);
        struct cursor v = { take(&c, n), n, 0 };
        take(&c, -n & 3);                                   /* padding to 4 bytes (RFC 8489, 14) */
        if (c.bad) return fail(why, "attribute 0x%04x runs past the end", kind);
        if (kind == 0x0020 && !exact && !(exact = stun_address(v, xor, a, why))) return STUN_DROP;
        if (kind == 0x0001 && !exact && !plain) plain = stun_address(v, zero, a, why);
        if (kind == 0x0009 && n >= 4 && !code) {                /* ERROR-CODE (RFC 8489, 14.8) */
            code = (v.p[2] & 7) * 100 + v.p[3];
            fail(why, "error %d %.*s", code, n > 132 ? 128 : (int)n - 4, (const char *)v.p + 4);
        }
    }
    if (type == 0x0111) return code ? STUN_ERROR : fail(why, "an error without a code");
    return exact || plain ? STUN_ADDRESS : fail(why, "no address in it");
}

/* One stream's question to one server. */
struct query {
    enum { QUERY_NEW, QUERY_WAITS, QUERY_ANSWERED, QUERY_FAILED } state;
    int fd, next, sends, slot;              /* UDP; its next address; sent; where poll() has it */
    unsigned char id[12];
    deadline resend;
    struct addr mapped;
    char why[WHY_MAX];
};

static void stun_failed(struct query *q, int error) {             /* gives this address up */
    fail(q->why, "%s", strerror(error));
    close_fd(&q->fd);
}

/* Send the request again, after 0, 500, 1500, 3500 and 7500 ms (RFC 8489, 6.2.1). It has no
 * attributes. */
static void stun_send(struct query *q) {
    unsigned char m[20] = { 0, 1, 0, 0 };                       /* Binding request (RFC 8489, 5) */
    memcpy(m + 4, stun_cookie, 4);
    memcpy(m + 8, q->id, 12);
    q->resend = after(q->sends + 1 < STUN_SENDS ? STUN_RTO_MS << q->sends : MS_MAX);
    q->sends++;
    if (send(q->fd, m, sizeof m, MSG_NOSIGNAL) < 0 && !would_block()) stun_failed(q, errno);
}

/* Ask the next of the server's addresses that can be asked, from UDP port PORT. */
static void stun_start(struct query *q, const struct lookup *server, unsigned port) {
    int error;
    if (server->n == 0) fail(q->why, "%s", server->why);
    for (; q->fd < 0 && q->next < server->n; q->next++) {
        q->fd = socket_open(SOCK_DGRAM);
        q->sends = 0;
        random_bytes(q->id, sizeof q->id);
        if (q->fd < 0 || !set_option(q->fd, SOL_SOCKET, SO_REUSEADDR, 1)
            || !socket_bind(q->fd, port)) stun_failed(q, errno);
        else if ((error = socket_connect(q->fd, &server->at[q->next])) != 0) stun_failed(q, error);
        else stun_send(q);
    }
    q->state = q->fd < 0 ? QUERY_FAILED : QUERY_WAITS;
}

/* Take a datagram. What is no good answer is dropped. An error of the socket (an ICMP message, a
 * local firewall) ends this address of the server, an error response ends the server. */
static void stun_read(struct query *q) {
    unsigned char m[STUN_MAX];
    ssize_t n = recv(q->fd, m, sizeof m, 0);
    int got;
    if (n < 0 && !would_block()) stun_failed(q, errno);
    if (n < 0) return;
    got = stun_decode(m, (size_t)n, q->id, &q->mapped, q->why);
    say(LOG_DEBUG, "%zd bytes from a STUN server: %s", n, got == STUN_ADDRESS ? "good" : q->why);
    if (got == STUN_DROP) return;
    q->state = got == STUN_ADDRESS ? QUERY_ANSWERED : QUERY_FAILED;
    close_fd(&q->fd);
}

/* ---- 5. HTTP and the instance metadata service (IMDS) -----------------------------------------
 * Decoding is pure; http_ask() touches the network (TCP). IMDS is asked in a job, in plain
 * sequence; see AWS, "Use the Instance Metadata Service to access instance metadata". No files. */

enum { HTTP_MAX = 16384, TOKEN_MAX = 2048, IMDS_MS = 2000, IMDS_TOKEN_MS = 1000 };

struct http { int status; size_t body, body_len; };           /* body: its offset in the message */

/* The value of header NAME among the LEN bytes of the head at M, into VALUE (64 bytes). 1: it is
 * there; what does not fit is cut, and no number any more. */
static int http_header(const char *m, size_t len, const char *name, char *value) {
    const char *line = m, *eol;
    size_t n = strlen(name), cut;
    while ((eol = memchr(line, '\n', (size_t)(m + len - line))) != NULL) {
        line = eol + 1;
        if ((size_t)(m + len - line) <= n || line[n] != ':' || strncasecmp(line, name, n)) continue;
        for (line += n + 1; line < m + len && (*line == ' ' || *line == '\t'); line++) continue;
        for (cut = 0; line < m + len && *line > ' ' && cut < 63; cut++) value[cut] = *line++;
        if (cut == 63) value[0] = '?';
        value[cut] = 0;
        return 1;
    }
    return 0;
}

/* Decode the LEN bytes at M, an HTTP/1.0 or 1.1 response (RFC 9112). ENDED: the server has closed.
 * 1: *H is set. 0: WHY; where WHY is empty, more is to come. Without Content-Length the body ends
 * with the connection. */
static int http_decode(const char *m, size_t len, int ended, struct http *h, char *why) {
    const char *line = m, *eol;
    char value[64] = "";
    unsigned long n;
    why[0] = 0;
    while ((eol = memchr(line, '\n', len - (size_t)(line - m))) != NULL) {
        if (eol == line || (eol == line + 1 && *line == '\r')) break;
        line = eol + 1;
    }
    if (!eol) return ended ? fail(why, "the answer is cut in its head") : 0;
    h->body = (size_t)(eol + 1 - m);
    h->body_len = len - h->body;
    if (h->body > 13) memcpy(value, m + 9, 3);
    if (h->body < 14 || memcmp(m, "HTTP/1.", 7) != 0 || m[8] != ' ' || !number(value, 599, &n)
        || n < 100) return fail(why, "it is no HTTP response");
    h->status = (int)n;
    if (!http_header(m, h->body, "Content-Length", value)) return ended;
    if (!number(value, HTTP_MAX, &n)) return fail(why, "Content-Length is \"%s\"", value);
    if (h->body_len < n)
        return ended ? fail(why, "the body is cut: %zu of %lu bytes", h->body_len, n) : 0;
    h->body_len = n;
    return 1;
}

/* Connect to the first of the addresses TO that lets us, until END. Returns a socket, or -1 and
 * WHY. */
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

/* Send REQUEST to TO and read the answer into M (HTTP_MAX bytes) until END. 1: *H is set, a NUL
 * ends the body. 0: WHY. */
static int http_ask(const struct lookup *to, const char *request, char *m, struct http *h,
                    deadline end, char *why) {
    size_t sent = 0, len = strlen(request), have = 0;
    int fd = http_connect(to, end, why), done = 0, over = fd < 0;
    ssize_t n;
    while (!done && !over) {
        int sends = sent < len;
        if (!wait_for_one(fd, sends ? POLLOUT : POLLIN, end) && ms_left(end)) continue;
        if (!ms_left(end)) { fail(why, "no whole answer in time"); break; }
        n = sends ? send(fd, request + sent, len - sent, MSG_NOSIGNAL)
                  : recv(fd, m + have, HTTP_MAX - 1 - have, 0);
        if (n < 0 && would_block()) continue;
        if (n < 0) { fail(why, "%s", strerror(errno)); break; }
        if (sends) { sent += (size_t)n; continue; }
        have += (size_t)n;
        done = http_decode(m, have, n == 0, h, why);
        over = why[0] != 0 || n == 0;
        if (!done && !over && have == HTTP_MAX - 1) over = !fail(why, "the answer is too long");
    }
    close_fd(&fd);
    if (done) m[h->body + h->body_len] = 0;
    return done;
}

/* One request to IMDS, HTTP/1.0. HEADERS: lines with their ends, or "". 1: *H is set. 0: WHY. */
static int imds_ask(const struct lookup *to, const char *method, const char *path,
                    const char *headers, char *m, struct http *h, deadline end, char *why) {
    char request[HTTP_MAX];
    snprintf(request, sizeof request, "%s %s%s HTTP/1.0\r\nHost: %s\r\n%s\r\n",
             method, set.imds.path, path, set.imds.authority, headers);
    return http_ask(to, request, m, h, end, why);
}

/* Fetch PATH from IMDS into M (HTTP_MAX bytes): with a session token (IMDSv2), or without (IMDSv1)
 * where no token is to be had. 1: *H is set. 0: WHY. */
static int imds_get(const char *path, char *m, struct http *h, deadline end, char *why) {
    static const char ttl[] = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n";
    struct lookup to = { 0 };
    char headers[TOKEN_MAX + 64] = "";
    deadline token_end = sooner(end, after(IMDS_TOKEN_MS));
    const char *token;
    lookup_now(&set.imds.at, &to);
    if (imds_ask(&to, "PUT", "/latest/api/token", ttl, m, h, token_end, why)) {
        int s = h->status;
        token = m + h->body;
        if (s == 200) {
            for (size_t i = 0; i < h->body_len; i++)
                if (token[i] <= ' ' || token[i] > '~') return fail(why, "its token is not ASCII");
            if (h->body_len == 0 || h->body_len > TOKEN_MAX)
                return fail(why, "its token has %zu bytes", h->body_len);
            sprintf(headers, "X-aws-ec2-metadata-token: %.*s\r\n", TOKEN_MAX, token);
        }
        fail(why, "PUT /latest/api/token: status %d", s);
        if (s != 200 && s != 401 && s != 403 && s != 404 && s != 405 && s < 500) return 0;
    }
    if (!*headers && set.imds_v1_off) {
        size_t n = strlen(why);
        return snprintf(why + n, WHY_MAX - n, ", and AWS_EC2_METADATA_V1_DISABLED is true") < 0;
    }
    return imds_ask(&to, "GET", path, headers, m, h, end, why);
}

struct imds_answer { int good; struct addr ip; char why[WHY_MAX]; };

/* Job: the public IPv4 address of this instance, as a struct imds_answer. ARG: the deadline. */
static void imds_job(int fd, const void *arg) {
    struct imds_answer a = { 0 };
    struct http h;
    char m[HTTP_MAX], *text;
    if (imds_get("/latest/meta-data/public-ipv4", m, &h, *(const deadline *)arg, a.why)) {
        text = m + h.body;
        for (char *end; h.body_len && *(end = text + h.body_len - 1) && strchr(" \t\r\n", *end);
             h.body_len--) *end = 0;
        if (h.status == 404) fail(a.why, "this instance has no public IPv4 address");
        else if (h.status != 200) fail(a.why, "GET public-ipv4: status %d", h.status);
        else if (strlen(text) != h.body_len || strchr(text, ':') || !ip_parse(text, &a.ip)
                 || !ip_usable(&a.ip)) fail(a.why, "\"%.64s\" is no public IPv4 address", text);
        else a.good = 1;
    }
    job_write(fd, &a, sizeof a);
}

/* ---- 6. discovery: the address that others see, for all streams at once -----------------------
 * STUN has a head start; then the fallback chain is asked too: PASH_PUBLIC_ADDR, PASH_PUBLIC_IP,
 * IMDS, the local address. Touches the network: listens on a port a stream, asks STUN and IMDS. */

enum { HEAD_START_MS = 750 };

struct server { struct job look; struct lookup found; };

struct discovery {
    struct stream *streams;
    int n, servers, both;                   /* both: wait for two answers, within the head start */
    struct server server[SERVERS_MAX];
    struct query *queries;                  /* of stream i to server k: [i * servers + k] */
    deadline head, end;                     /* of the head start; of STUN */
    int asked;                              /* IMDS was asked, or must not be */
    struct job imds;
    deadline imds_end;
    struct imds_answer meta;
};

/* Take a port for S: FIRST, or the next that is free; 0: any. TCP and UDP, each without sharing, so
 * that no two processes get the same; then sharing is allowed, to the sockets that connect from
 * it. */
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
                && set_option(s->udp, SOL_SOCKET, SO_REUSEADDR, 1)
                && set_option(s->listener, SOL_SOCKET, SO_REUSEPORT, 1)) return 1;
        }
        if (errno != EADDRINUSE) return fail(why, "port %u: %s", first, strerror(errno));
        close_fd(&s->listener);
        close_fd(&s->udp);
    }
    return fail(why, "no port is free");
}

/* The address that the kernel would send from towards TO: a UDP connect, which sends nothing. */
static int local_towards(const struct addr *to, struct addr *local) {
    struct sockaddr_storage ss;
    int fd = socket_open(SOCK_DGRAM), good = fd >= 0 && socket_connect(fd, to) == 0;
    if (good) memcpy(local->ip, socket_address(fd, &ss).ip, sizeof local->ip);
    close_fd(&fd);
    return good && ip_usable(local);
}

/* The local address: towards the outside (addresses for documentation, RFC 5737 and 3849, that
 * nobody has), else towards a STUN server, else loopback. Never the unspecified one. */
static void local_address(const struct discovery *d, struct addr *local) {
    struct addr to = { { 0 }, 9 };
    if (ip_parse("203.0.113.1", &to) && local_towards(&to, local)) return;
    if (ip_parse("2001:db8::1", &to) && local_towards(&to, local)) return;
    for (int k = 0; k < d->servers; k++)
        for (int i = 0; i < d->server[k].found.n; i++)
            if (local_towards(&d->server[k].found.at[i], local)) return;
    ip_parse("127.0.0.1", local);
}

static int use(struct stream *s, const char *source, const struct addr *ip, unsigned port) {
    s->source = source;
    s->external = *ip;
    s->external.port = port;
    return 1;
}

/* Why STUN has no address for stream number I: each server's reason. */
static void stun_reasons(const struct discovery *d, int i, char *why) {
    const struct query *q = d->queries + i * d->servers;
    size_t at = 0;
    if (!d->servers)
        fail(why, "skipped (PASH_%s)", set.no_holepunch ? "NO_HOLEPUNCH" : "STUN_TIMEOUT_MS=0");
    for (int k = 0; k < d->servers && at < WHY_MAX; k++, q++) {
        const struct host *h = &set.stun.at[k];
        char late[64];
        snprintf(late, sizeof late, "no answer%s within %d ms", q->state == QUERY_NEW ?
                 " from the resolver" : "", ms_left(d->end) ? HEAD_START_MS : set.stun_ms);
        at += (size_t)snprintf(why + at, WHY_MAX - at, "%s%s:%u: %s", k ? "; " : "", h->name,
                               h->port, q->state == QUERY_FAILED ? q->why : late);
    }
}

/* Decide on the external address of stream number I. 1: decided. 0: not yet. */
static int settle(struct discovery *d, int i) {
    struct stream *s = &d->streams[i];
    const struct query *q = d->queries + i * d->servers, *first = NULL, *second = NULL;
    int waits = 0, head_over = !ms_left(d->head), failed;
    if (s->source) return 1;
    for (int k = 0; k < d->servers; k++) {
        waits += q[k].state == QUERY_NEW || q[k].state == QUERY_WAITS;
        if (q[k].state == QUERY_ANSWERED && !first) first = &q[k];
        else if (q[k].state == QUERY_ANSWERED) second = &q[k];
    }
    failed = !waits || !ms_left(d->end);
    if (!head_over && !failed && (!first || (d->both && !second))) return 0;
    if (first && second && addr_is_v4(&first->mapped) == addr_is_v4(&second->mapped))
        s->mapping = addr_same(&first->mapped, &second->mapped) ? "endpoint-independent"
                                                                : "endpoint-dependent";
    if (first) return use(s, "stun", &first->mapped, first->mapped.port);
    stun_reasons(d, i, s->why);
    if (set.public_addr.port) return use(s, "PASH_PUBLIC_ADDR", &set.public_addr, s->local.port);
    if (ip_usable(&set.public_ip)) return use(s, "PASH_PUBLIC_IP", &set.public_ip, s->local.port);
    if (!d->asked) {
        d->asked = 1;
        d->imds_end = after(IMDS_MS);
        if (set.no_holepunch) d->meta.why[0] = 0;
        else if (set.imds_off) fail(d->meta.why, "AWS_EC2_METADATA_DISABLED is true");
        else job_start(&d->imds, imds_job, &d->imds_end, d->meta.why);
    }
    if (d->meta.good) return use(s, "imds", &d->meta.ip, s->local.port);
    return failed && !d->imds.pid && use(s, "local", &s->local, s->local.port);
}

/* Server number K is found, or cannot be: all streams go and ask it. */
static void server_known(struct discovery *d, int k) {
    for (int i = 0; i < d->n; i++)
        stun_start(&d->queries[i * d->servers + k], &d->server[k].found, d->streams[i].local.port);
}

/* Wait until something has come or is due, and take it. */
static void discovery_turn(struct discovery *d, struct pollfd *fds) {
    deadline next = ms_left(d->head) ? sooner(d->head, d->end) : d->end;
    int queries = d->n * d->servers, nfds = 0;          /* poll() takes no more than may be open */
    struct pollfd *meta, *look;
    for (int i = 0; i < queries; i++) {
        struct query *q = &d->queries[i];
        q->slot = nfds;
        if (q->state != QUERY_WAITS) continue;
        fds[nfds++] = (struct pollfd){ q->fd, POLLIN, 0 };
        next = sooner(next, q->resend);
    }
    meta = fds + nfds;
    look = meta + 1;
    *meta = (struct pollfd){ d->imds.pid ? d->imds.fd : -1, POLLIN, 0 };
    if (d->imds.pid) next = ms_left(d->end) ? sooner(next, d->imds_end) : d->imds_end;
    for (int k = 0; k < d->servers; k++)
        look[k] = (struct pollfd){ d->server[k].look.pid ? d->server[k].look.fd : -1, POLLIN, 0 };
    wait_for(fds, (size_t)(nfds + 1 + d->servers), next);

    for (int i = 0; i < queries; i++) {
        struct query *q = &d->queries[i];
        if (q->state != QUERY_WAITS) continue;
        if (fds[q->slot].revents) stun_read(q);
        if (q->state == QUERY_WAITS && q->fd >= 0 && !ms_left(q->resend)) stun_send(q);
        if (q->state == QUERY_WAITS && q->fd < 0)
            stun_start(q, &d->server[i % d->servers].found, d->streams[i / d->servers].local.port);
    }
    if (d->imds.pid && (meta->revents || !ms_left(d->imds_end))) {
        if (!meta->revents) fail(d->meta.why, "%s: no answer within 2 s", set.imds.authority);
        else if (!job_read(d->imds.fd, &d->meta, sizeof d->meta)) fail(d->meta.why, "its job died");
        job_end(&d->imds);
    }
    for (int k = 0; k < d->servers; k++) {
        struct server *v = &d->server[k];
        if (!look[k].revents) continue;
        if (!job_read(v->look.fd, &v->found, sizeof v->found)) fail(v->found.why, "its job died");
        job_end(&v->look);
        server_known(d, k);
    }
}

/* The phrases that users search for, kept word for word. The metadata line comes once a process. */
static void discovery_say(const struct stream *s, const struct imds_answer *meta, int *meta_said) {
    const char *local = SHOW(&s->local), *outer = SHOW(&s->external);
    set.who = s->key ? s : NULL;
    if (strcmp(s->source, "stun") == 0) {
        say(LOG_INFO, "STUN discovery succeeded - local_addr: %s external_addr: %s", local, outer);
        return;
    }
    say(LOG_INFO, "STUN discovery failed: %s", s->why);
    say(LOG_INFO, "Using fallback address resolution...");
    if (meta->good && !*meta_said)
        say(LOG_INFO, "AWS metadata service returned public IP: %s", SHOW(&meta->ip));
    else if (meta->why[0] && !*meta_said) say(LOG_INFO, "AWS metadata query failed: %s", meta->why);
    *meta_said = 1;
    say(LOG_INFO, "Fallback succeeded - local_addr: %s external_addr: %s", local, outer);
}

/* Take a port for each of the N streams and find the addresses to tell the peers; BOTH: and the
 * mapping, if it is to be had. Says how it went. 1: done. 0: WHY. */
static int discover(struct stream *s, int n, int both, char *why) {
    struct discovery d = { .streams = s, .n = n, .both = both };
    struct pollfd *fds;
    struct addr local = { { 0 }, 0 };
    int open, said = 0;
    d.servers = set.no_holepunch || !set.stun_ms ? 0 : set.stun.n;
    d.queries = calloc((size_t)(n * d.servers + 1), sizeof *d.queries);
    fds = calloc((size_t)(n * d.servers + 1 + SERVERS_MAX), sizeof *fds);
    if (!d.queries || !fds) return fail(why, "out of memory");
    for (int i = 0; i < n; i++)
        if (!port_take(&s[i], !set.public_addr.port ? 0 : i ? s[i - 1].local.port + 1
                              : set.public_addr.port, why)) return 0;
    for (int i = 0; i < n * d.servers; i++) d.queries[i].fd = -1;
    d.head = after(HEAD_START_MS);
    d.end = after(set.stun_ms);
    for (int k = 0; k < d.servers; k++) {
        struct server *v = &d.server[k];
        v->found.n = ip_parse(set.stun.at[k].name, &v->found.at[0]);
        v->found.at[0].port = set.stun.at[k].port;
        if (v->found.n || !job_start(&v->look, lookup_job, &set.stun.at[k], v->found.why))
            server_known(&d, k);
    }
    for (;;) {
        for (int i = open = 0; i < n; i++) open += !settle(&d, i);
        if (!open) break;
        if (!said && !ms_left(d.head))
            say(LOG_INFO, "waiting for STUN%s", d.imds.pid ? " and IMDS" : "");
        said = !ms_left(d.head);
        discovery_turn(&d, fds);
    }
    for (int k = 0; k < d.servers; k++) job_end(&d.server[k].look);
    job_end(&d.imds);
    for (int i = 0; i < n * d.servers; i++) close_fd(&d.queries[i].fd);
    local_address(&d, &local);
    for (int i = said = 0; i < n; i++) {
        close_fd(&s[i].udp);
        memcpy(s[i].local.ip, local.ip, sizeof local.ip);
        if (strcmp(s[i].source, "local") == 0) s[i].external = s[i].local;
        discovery_say(&s[i], &d.meta, &said);
    }
    set.who = NULL;
    free(d.queries);
    free(fds);
    return 1;
}

/* ---- 7. SHA-256 (FIPS 180-4) and HMAC (RFC 2104) ----------------------------------------------
 * Pure. The tests check them against the vectors of FIPS 180-4 and RFC 4231. */

enum { HASH = 32, HASH_BLOCK = 64 };        /* bytes */

struct sha256 { uint32_t h[8]; uint64_t len; unsigned char block[HASH_BLOCK]; };

static uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_block(struct sha256 *s) {  /* FIPS 180-4, 6.2.2 */
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
    for (int i = 0; i < 16; i++) w[i] = (uint32_t)get(s->block + 4 * i, 4);
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ a >> 3)
             + w[i - 7] + (rotr(b, 17) ^ rotr(b, 19) ^ b >> 10);
    }
    memcpy(v, s->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[0], b = v[1], c = v[2], e = v[4], f = v[5], g = v[6];
        uint32_t t1 = v[7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g))
                    + k[i] + w[i];
        uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) s->h[i] += v[i];
}

static void sha256_begin(struct sha256 *s) {
    static const uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,      /* 5.3.3 */
                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    memset(s, 0, sizeof *s);
    memcpy(s->h, h, sizeof h);
}

static void sha256_add(struct sha256 *s, const void *data, size_t n) {
    for (const unsigned char *p = data; n; n--) {
        s->block[s->len++ % HASH_BLOCK] = *p++;
        if (s->len % HASH_BLOCK == 0) sha256_block(s);
    }
}

static void sha256_end(struct sha256 *s, unsigned char *out) {    /* padding: 5.1.1 */
    unsigned char bits[8];
    put(bits, 8, s->len * 8);
    sha256_add(s, "\x80", 1);
    while (s->len % HASH_BLOCK != HASH_BLOCK - sizeof bits) sha256_add(s, "", 1);
    sha256_add(s, bits, sizeof bits);
    for (int i = 0; i < 8; i++) put(out + 4 * i, 4, s->h[i]);
}

static void sha256(const void *data, size_t n, unsigned char *out) {
    struct sha256 s;
    sha256_begin(&s);
    sha256_add(&s, data, n);
    sha256_end(&s, out);
}

/* HMAC-SHA-256 of DATA under KEY, into OUT (HASH bytes), which DATA may be. */
static void hmac(const void *key, size_t key_len, const void *data, size_t n, unsigned char *out) {
    unsigned char block[HASH_BLOCK] = { 0 };
    struct sha256 s;
    if (key_len > sizeof block) sha256(key, key_len, block);
    else memcpy(block, key, key_len);
    for (int outer = 0; outer < 2; outer++) {
        for (size_t i = 0; i < sizeof block; i++) block[i] ^= outer ? 0x36 ^ 0x5c : 0x36;
        sha256_begin(&s);
        sha256_add(&s, block, sizeof block);
        sha256_add(&s, outer ? out : data, outer ? HASH : n);
        sha256_end(&s, out);
    }
}

/* N bytes as lower-case hex, into TEXT (2 N + 1 bytes). */
static void hex(const unsigned char *p, size_t n, char *text) {
    for (size_t i = 0; i < n; i++) sprintf(text + 2 * i, "%02x", p[i]);
}

/* ---- 8. rendezvous: tell the peer my addresses and learn its ----------------------------------
 * It runs in a process of its own beside the stream's, so that a slow file system or network never
 * holds up connecting. Touches files below the directory of PASH_RENDEZVOUS. The JSON reader is
 * pure. */

enum { REGISTRATION_MAX = 4096, JSON_DEPTH = 32, NAME_LEN = 255 };
enum { FIRST_PAUSE_MS = 20, PAUSE_MS = 200, WITHDRAW_MS = 5000, WITHDRAW_HASTE_MS = 1000 };

struct json { const char *p, *end; };

static int json_peek(struct json *j) {      /* the next character behind white space; 0: the end */
    while (j->p < j->end && *j->p && strchr(" \t\r\n", *j->p)) j->p++;
    return j->p < j->end ? (unsigned char)*j->p : 0;
}

static int json_eat(struct json *j, int c) {  /* 1: C was next; j is behind it */
    if (json_peek(j) != c) return 0;
    j->p++;
    return 1;
}

/* The four hex digits of \u (RFC 8259, 7), at j->p. */
static int json_hex4(struct json *j, unsigned *v) {
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    *v = 0;
    for (int i = 0; i < 4; i++, j->p++) {
        const char *d = j->p < j->end && *j->p ? strchr(digits, *j->p) : NULL;
        if (!d) return 0;
        *v = *v << 4 | ((unsigned)(d - digits) & 15);
    }
    return 1;
}

/* What stands behind a backslash, as UTF-8 (RFC 3629, 3) into OUT. Returns its length, 1 to 4
 * bytes; 0: it is no escape, or a NUL, or half of a surrogate pair. */
static size_t json_escape(struct json *j, char *out) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *e = j->p < j->end && *j->p ? strchr(names, *j->p) : NULL;
    unsigned c, low;
    size_t n;
    if (e) { j->p++; out[0] = values[e - names]; return 1; }
    if (j->p == j->end || *j->p++ != 'u' || !json_hex4(j, &c) || !c || c >> 10 == 0x37) return 0;
    if (c >> 10 == 0x36) {
        if (j->end - j->p < 2 || memcmp(j->p, "\\u", 2) != 0) return 0;
        j->p += 2;
        if (!json_hex4(j, &low) || low >> 10 != 0x37) return 0;
        c = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
    }
    if (c < 0x80) { out[0] = (char)c; return 1; }
    n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00U >> n & 0xf0) | c);
    return n;
}

/* A string into OUT (MAX bytes), decoded, with a NUL; OUT NULL: of any length, and not kept. 1: j
 * is behind it. 0: there is none, or it does not fit. */
static int json_string(struct json *j, char *out, size_t max) {
    char bytes[4];
    size_t n = 0, len;
    if (!json_eat(j, '"')) return 0;
    while (j->p < j->end && *j->p != '"') {
        len = 1;
        bytes[0] = *j->p++;
        if ((unsigned char)bytes[0] < 0x20) return 0;
        if (bytes[0] == '\\' && (len = json_escape(j, bytes)) == 0) return 0;
        if (out && n + len >= max) return 0;
        if (out) memcpy(out + n, bytes, len);
        n += len;
    }
    if (out) out[n] = 0;
    return j->p < j->end && *j->p++ == '"';
}

/* Skip a value of any kind. 1: j is behind it. 0: there is none, or it is nested deeper than
 * DEPTH. */
static int json_skip(struct json *j, int depth) {
    int open = json_peek(j), close = open == '{' ? '}' : ']';
    const char *start = j->p;
    if (open == '"') return json_string(j, NULL, 0);
    if (open != '{' && open != '[') {
        while (j->p < j->end && *j->p && strchr("+-.0123456789truefalsnEu", *j->p)) j->p++;
        return j->p > start;
    }
    if (depth == 0) return 0;
    j->p++;
    if (json_eat(j, close)) return 1;
    do {
        if (open == '{' && !(json_string(j, NULL, 0) && json_eat(j, ':'))) return 0;
        if (!json_skip(j, depth - 1)) return 0;
    } while (json_eat(j, ','));
    return json_eat(j, close);
}

/* Find the string at PATH, names of members with '/' between, in the LEN bytes at TEXT; the first
 * where a name comes twice. 1: it is in OUT (MAX bytes, NUL included). 0: it is not there. */
static int json_find(const char *text, size_t len, const char *path, char *out, size_t max) {
    struct json j = { text, text + len };
    for (; *path; path += strcspn(path, "/"), path += *path == '/') {
        size_t n = strcspn(path, "/");
        int found = 0;
        if (!json_eat(&j, '{')) return 0;
        while (!found) {
            char name[64];
            struct json again = j;
            int fits = json_string(&again, name, sizeof name);
            if (!json_string(&j, NULL, 0) || !json_eat(&j, ':')) return 0;
            found = fits && strlen(name) == n && memcmp(name, path, n) == 0;
            if (!found && !(json_skip(&j, JSON_DEPTH) && json_eat(&j, ','))) return 0;
        }
    }
    return json_string(&j, out, max);
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
    char dir[PLACE_MAX + NAME_LEN + 2];     /* of the key */
    char mine[REGISTRATION_MAX + 1], theirs[REGISTRATION_MAX + 1];     /* texts; theirs "": none */
};

/* KEY as a name in a directory, into NAME (3 * KEY + 1 bytes): all but letters, digits, - _ and .
 * is percent-encoded, and a leading dot, so that no key leads out of the directory; if long, it is
 * hashed. */
static void key_to_name(const char *key, char *name) {
    unsigned char digest[HASH];
    size_t n = 0;
    for (const char *p = key; *p; p++) {
        int plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9')
            || *p == '-' || *p == '_' || (*p == '.' && p > key);
        n += (size_t)sprintf(name + n, plain ? "%c" : "%%%02X", (unsigned char)*p);
    }
    if (n <= NAME_LEN) return;
    sha256(key, strlen(key), digest);
    strcpy(name, "%-");
    hex(digest, sizeof digest, name + 2);
}

/* The directory PATH, made if need be: ours alone, and no link. 1: it is there, or was until just
 * now. */
static int dir_make(const char *path, char *why) {
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return fail(why, "mkdir %s: %s", path, strerror(errno));
    if (lstat(path, &st) < 0) return errno == ENOENT || fail(why, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return fail(why, "%s is not a directory", path);
    if (st.st_uid != geteuid()) return fail(why, "%s belongs to another user", path);
    return !(st.st_mode & 022) || fail(why, "%s can be written by others", path);
}

static void dir_file(const struct rdv *r, const char *what, unsigned node, char *path) {
    sprintf(path, "%s/%s_%u", r->dir, what, node);
}

/* Read the registration of NODE into TEXT; what cannot be read counts as absent, "". */
static void dir_read(const struct rdv *r, unsigned node, char *text) {
    char path[sizeof r->dir + 16];
    struct stat st;
    ssize_t n = -1;
    int fd;
    dir_file(r, "N", node, path);
    fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= REGISTRATION_MAX)
        n = read(fd, text, REGISTRATION_MAX);
    text[n < 0 ? 0 : n] = 0;
    close_fd(&fd);
}

/* Write my registration beside its place and rename it, so that nobody reads half of it. r->theirs
 * is what was there before. The peer removes the key's directory when it is empty: then once
 * more. */
static int dir_publish(struct rdv *r, char *why) {
    char path[sizeof r->dir + 16], beside[sizeof r->dir + 16];
    size_t len = strlen(r->mine);
    dir_read(r, r->s->peer, r->theirs);
    dir_file(r, "N", r->s->me, path);
    dir_file(r, ".N", r->s->me, beside);                    /* what a crash left of it goes, too */
    for (int tries = 0, fd, good; tries < 100; tries++) {
        if (!dir_make(set.rdv.name, why) || !dir_make(r->dir, why)) return 0;
        unlink(beside);
        fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
        if (fd < 0 && errno == ENOENT) continue;
        if (fd < 0) return fail(why, "%s: %s", beside, strerror(errno));
        good = write(fd, r->mine, len) == (ssize_t)len;
        if (close(fd) == 0 && good && rename(beside, path) == 0) return 1;
        fail(why, "%s: %s", path, strerror(errno));
        if (unlink(beside) == 0 || errno != ENOENT) return 0;
    }
    return fail(why, "%s is removed again and again", r->dir);
}

/* Remove my registration, if it is still mine, and the key's directory, if nothing else is in
 * it. */
static int dir_withdraw(struct rdv *r, char *why) {
    char path[sizeof r->dir + 16], text[REGISTRATION_MAX + 1];
    dir_file(r, "N", r->s->me, path);
    dir_read(r, r->s->me, text);
    if (strcmp(text, r->mine) == 0 && unlink(path) < 0 && errno != ENOENT)
        return fail(why, "%s: %s", path, strerror(errno));
    if (rmdir(r->dir) == 0 || errno == ENOENT || errno == ENOTEMPTY || errno == EEXIST) return 1;
    return fail(why, "rmdir %s: %s", r->dir, strerror(errno));
}

/* What the rendezvous process tells the stream's, whenever it changes. */
struct news {
    enum { NEWS_ABSENT, NEWS_PEER, NEWS_FAILED } what;
    int before;                             /* the peer's registration was there before mine */
    struct addr local, external;            /* the peer's; one of them may be none */
    char why[WHY_MAX];                      /* NEWS_FAILED */
};

static void news_send(int fd, const struct news *news) {
    send(fd, news, sizeof *news, MSG_NOSIGNAL);              /* nobody there? poll() will say so */
}

/* The rendezvous process of stream S: it registers, looks until the stream's process closes its end
 * of FD, or dies, and then withdraws. */
static void rdv_run(int fd, const struct stream *s) {
    struct rdv r = { .s = s };
    char name[3 * NAME_LEN + 1], last[sizeof r.theirs];
    struct news news = { .what = NEWS_FAILED, .before = 1 };
    int pause = FIRST_PAUSE_MS, told = 0, same;
    key_to_name(s->key, name);
    sprintf(r.dir, "%s/%s", set.rdv.name, name);
    sprintf(r.mine, "{\"local_addr\":\"%s\",\"external_addr\":\"%s\"}",
            SHOW(&s->local), SHOW(&s->external));
    if (!dir_publish(&r, news.why)) { news_send(fd, &news); return; }
    do {
        strcpy(last, r.theirs);
        dir_read(&r, s->peer, r.theirs);
        same = strcmp(last, r.theirs) == 0;
        news.before = news.before && same;
        if (!same || !told) {
            news.local = registration_get(r.theirs, strlen(r.theirs), "local_addr");
            news.external = registration_get(r.theirs, strlen(r.theirs), "external_addr");
            news.what = news.local.port || news.external.port ? NEWS_PEER : NEWS_ABSENT;
            news_send(fd, &news);
        }
        told = 1;
        pause = pause + pause / 10 < PAUSE_MS ? pause + pause / 10 : PAUSE_MS;
    } while (!wait_for_one(fd, POLLIN, after(pause)));
    if (!dir_withdraw(&r, news.why)) say(LOG_ERROR, "withdrawing the registration: %s", news.why);
}

/* ---- 9. connect: the hole punch and the handshake ---------------------------------------------
 * Listens on the stream's port and connects from it, until one connection is proven and chosen.
 * Touches the network (TCP); talks to the rendezvous process. */

enum { TARGETS_MAX = 3, UNPROVEN_MAX = 32, CONNS_MAX = TARGETS_MAX + UNPROVEN_MAX + 1 };
enum { HELLO = 36, HANDSHAKE_MS = 5000, GRACE_MS = 5000, BACKOFF_MS = 100, BACKOFF_MAX_MS = 5000 };
enum { BURST = 20, TENTH_MS = 100, RETRY_MS = 1000 };
enum step { STEP_CONNECT, STEP_HELLO, STEP_PROOF, STEP_GO, STEP_CHOSEN, STEP_FATAL, STEP_DEAD };

struct target {                             /* an address of the peer's, tried again and again */
    struct addr to;
    int busy;                             /* an attempt, or the connection it gave, is under way */
    deadline retry;
    int backoff;                            /* ms; after a failed handshake */
    int burst;                              /* attempts within the ... */
    long long tenth;                        /* ... tenth of a second of the wall clock */
};

struct conn {                               /* a connection on its way through the handshake */
    int fd, target;                         /* target -1: accepted, or the target is no more */
    enum step step;
    deadline end;
    struct addr with;
    size_t have;                            /* bytes of `in` */
    unsigned char in[HELLO], mine[HELLO], theirs[HELLO];
};

struct punch {
    struct stream *s;
    struct target targets[TARGETS_MAX];
    struct conn conns[CONNS_MAX];           /* oldest first */
    int ntargets, nconns, known, leftover;  /* known: the peer registered; leftover: before me */
    struct addr local, external;            /* of the peer */
    deadline began, limit, accepting;       /* began: when the peer became known */
    int timed_out, refused, other, unproven;            /* what became of the attempts */
    char other_why[64], unproven_why[WHY_MAX];          /* the last reason of each */
};

/* HELLO: "PASHLIB1" | role u8, 1 send, 2 recv | 3 zero bytes | me u32 | peer u32 | nonce 16
 * bytes. */
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

/* End C, by a reset: a TIME_WAIT would keep the same two ports from being joined again. */
static void conn_drop(struct conn *c) {
    struct linger none = { 1, 0 };
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close_fd(&c->fd);
    c->step = STEP_DEAD;
}

/* An attempt at T ended with ERROR; NOW: connect() itself said so. Usually it is repeated at once,
 * so that two SYNs cross in flight; after too many, at the next tenth of a second of the wall
 * clock, which is the same moment at the other end. */
static void target_failed(struct punch *p, struct target *t, int error, int now) {
    long long wall = clock_ms(CLOCK_REALTIME);
    int refused = error == ECONNREFUSED || error == ECONNRESET;
    t->busy = 0;
    if (error == ETIMEDOUT) p->timed_out++;
    else if (refused) p->refused++;
    else {
        p->other++;
        snprintf(p->other_why, sizeof p->other_why, "%s", strerror(error));
    }
    if (t->tenth != wall / TENTH_MS) t->burst = 0;
    t->tenth = wall / TENTH_MS;
    t->retry = after(++t->burst < BURST ? 0 : TENTH_MS - wall % TENTH_MS);
    if (now && !refused) t->retry = after(RETRY_MS);
}

/* The handshake on C failed: WHY. */
static void conn_failed(struct punch *p, struct conn *c, const char *why) {
    struct target *t = c->target < 0 ? NULL : &p->targets[c->target];
    say(LOG_DEBUG, "no handshake with %s: %s", SHOW(&c->with), why);
    snprintf(p->unproven_why, sizeof p->unproven_why, "%s", why);
    p->unproven++;
    conn_drop(c);
    if (!t) return;
    t->busy = 0;
    t->retry = after(t->backoff);
    t->backoff = t->backoff * 2 < BACKOFF_MAX_MS ? t->backoff * 2 : BACKOFF_MAX_MS;
}

/* Send N bytes: they are few, and the buffer of a new connection has room, or it is no good. */
static int conn_send(struct punch *p, struct conn *c, const void *m, size_t n) {
    if (send(c->fd, m, n, MSG_NOSIGNAL) == (ssize_t)n) return 1;
    conn_failed(p, c, strerror(errno));
    return 0;
}

/* C is connected: begin the handshake. */
static void conn_up(struct punch *p, struct conn *c) {
    set_option(c->fd, IPPROTO_TCP, TCP_NODELAY, 1);
    c->step = STEP_HELLO;
    c->end = after(HANDSHAKE_MS);
    hello_encode(p->s, c->mine);
    conn_send(p, c, c->mine, HELLO);
}

static struct conn *conn_add(struct punch *p, int fd, int target, const struct addr *with) {
    struct conn *c = &p->conns[p->nconns++];
    *c = (struct conn){ .fd = fd, .target = target, .with = *with, .end = after(MS_MAX) };
    return c;
}

/* C has all the bytes of its step: take them. */
static void conn_step(struct punch *p, struct conn *c) {
    unsigned char m[HASH];
    char why[WHY_MAX];
    c->have = 0;
    if (c->step == STEP_HELLO) {
        memcpy(c->theirs, c->in, HELLO);
        c->step = STEP_PROOF;
        proof(p->s->key, c->mine, c->theirs, m);
        if (hello_check(p->s, c->theirs, why)) conn_send(p, c, m, HASH);
        else conn_failed(p, c, why);
    } else if (c->step == STEP_PROOF) {
        proof(p->s->key, c->theirs, c->mine, m);
        if (!same_in_constant_time(m, c->in, HASH)) conn_failed(p, c, "it does not know the key");
        else if (c->mine[8] == c->theirs[8]) c->step = STEP_FATAL;
        else if (p->s->me > p->s->peer) c->step = STEP_GO;
        else if (conn_send(p, c, "G", 1)) c->step = STEP_CHOSEN;
        if (c->step == STEP_GO) c->end = after(MS_MAX);         /* the lower node alone decides */
    }
    else if (c->in[0] == 'G') c->step = STEP_CHOSEN;
    else conn_failed(p, c, "it sent no GO");
}

/* Something has come on C. */
static void conn_event(struct punch *p, struct conn *c) {
    int error = c->step == STEP_CONNECT ? socket_error(c->fd) : 0;
    if (error) {
        if (c->target >= 0) target_failed(p, &p->targets[c->target], error, 0);
        conn_drop(c);
    }
    else if (c->step == STEP_CONNECT) conn_up(p, c);
    while (c->step < STEP_CHOSEN) {                       /* what follows GO is not ours to read */
        size_t want = c->step == STEP_HELLO ? HELLO : c->step == STEP_PROOF ? HASH : 1;
        ssize_t n = recv(c->fd, c->in + c->have, want - c->have, 0);
        if (n < 0 && would_block()) return;
        if (n <= 0) { conn_failed(p, c, n ? strerror(errno) : "it closed the connection"); return; }
        c->have += (size_t)n;
        if (c->have == want) conn_step(p, c);
    }
}

/* Connect to target number I, from the stream's port. */
static void target_try(struct punch *p, int i) {
    struct target *t = &p->targets[i];
    int fd = socket_open(SOCK_STREAM), error = 0;
    if (fd < 0 || !set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)
        || !set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1)
        || !socket_bind(fd, p->s->local.port)) error = errno;
    else error = socket_connect(fd, &t->to);
    t->busy = !error || error == EINPROGRESS;
    if (t->busy) { conn_add(p, fd, i, &t->to); return; }        /* poll() says when it is up */
    close_fd(&fd);
    target_failed(p, t, error, 1);
}

/* Forget the connections that are dead. Of those that are no target's UNPROVEN_MAX stay; the oldest
 * go first, but those that have proven least before all others: a stranger's harms nobody
 * else's. */
static void conns_tidy(struct punch *p) {
    int live = 0, strange = 0;
    for (int i = 0; i < p->nconns; i++)
        strange += p->conns[i].target < 0 && p->conns[i].step != STEP_DEAD;
    for (int step = STEP_HELLO; step <= STEP_GO; step++) {
        for (int i = 0; i < p->nconns && strange > UNPROVEN_MAX; i++) {
            if (p->conns[i].target >= 0 || (int)p->conns[i].step != step) continue;
            conn_failed(p, &p->conns[i], "too many came after it");
            strange--;
        }
    }
    for (int i = 0; i < p->nconns; i++)
        if (p->conns[i].step != STEP_DEAD) p->conns[live++] = p->conns[i];
    p->nconns = live;
}

static void punch_accept(struct punch *p) {
    struct sockaddr_storage ss = { 0 };
    socklen_t len = sizeof ss;
    struct addr from;
    int fd = accept(p->s->listener, (struct sockaddr *)&ss, &len);
    if (fd < 0 && !would_block() && errno != ECONNABORTED) p->accepting = after(TENTH_MS);
    if (fd < 0) return;
    set_nonblocking(fd);
    from = addr_from_kernel(&ss);
    conn_up(p, conn_add(p, fd, -1, &from));
}

/* Add A to the targets unless it is unusable, or mine, or loopback without mine being so, or
 * there. */
static void target_add(struct punch *p, struct addr a) {
    const struct stream *s = p->s;
    int near = addr_is_loopback(&s->local) || addr_is_loopback(&s->external);
    if (!addr_usable(&a) || addr_same(&a, &s->local) || addr_same(&a, &s->external)) return;
    if (addr_is_loopback(&a) && (!near || a.port == s->local.port)) return;
    for (int i = 0; i < p->ntargets; i++) if (addr_same(&a, &p->targets[i].to)) return;
    p->targets[p->ntargets++] = (struct target){ .to = a, .backoff = BACKOFF_MS };
}

/* The rendezvous has news of the peer. 1: taken. 0: WHY, there is no hope. */
static int punch_news(struct punch *p, int rdv, char *why) {
    struct news news;
    struct addr mixed;
    if (!job_read(rdv, &news, sizeof news)) return fail(why, "the rendezvous process died");
    if (news.what == NEWS_FAILED) return fail(why, "rendezvous %s: %s", set.rdv.text, news.why);
    if (news.what == NEWS_ABSENT) {
        if (!p->known) say(LOG_INFO, "waiting for node %u at %s", p->s->peer, set.rdv.text);
        if (p->leftover)
            p->limit = later(after(GRACE_MS), (deadline){ p->began.at + set.connect_ms });
        return 1;
    }
    for (int i = 0; i < p->nconns; i++) {                 /* what is connected may yet be proven */
        p->conns[i].target = -1;
        if (p->conns[i].step == STEP_CONNECT) conn_drop(&p->conns[i]);
    }
    p->local = news.local;
    mixed = p->external = news.external;
    mixed.port = news.local.port;
    p->ntargets = 0;
    target_add(p, news.external);
    target_add(p, news.local);
    target_add(p, mixed);
    p->known = 1;
    p->leftover = news.before;
    p->began = after(0);
    p->limit = after(news.before ? set.peer_ms : set.connect_ms);
    say(LOG_INFO, "connecting from %s to %s", SHOW(&p->s->external),
        SHOW(news.external.port ? &news.external : &news.local));
    return 1;
}

/* Say in WHY that nothing came of it, and of what. */
static int punch_failed(struct punch *p, char *why) {
    const char *e = p->external.port ? SHOW(&p->external) : "none", *sep = ": ";
    const char *l = p->local.port ? SHOW(&p->local) : "none";
    double seconds = (double)((after(50).at - p->began.at) / 100) / 10;
    size_t at;
    if (!p->known) return fail(why, "node %u did not register at %s within %g s", p->s->peer,
                               set.rdv.text, seconds);
    for (int i = 0; i < p->nconns; i++) p->timed_out += p->conns[i].step == STEP_CONNECT;
    at = (size_t)snprintf(why, WHY_MAX, "no connection to node %u (external %s, local %s) from %s"
                          " within %g s", p->s->peer, e, l, SHOW(&p->s->external), seconds);
    const struct { int n; const char *what, *reason; } tried[] = {
        { p->timed_out, p->timed_out == 1 ? "attempt timed out" : "attempts timed out", "" },
        { p->refused, "refused", "" },
        { p->other, "failed: ", p->other_why },
        { p->unproven, "without handshake: ", p->unproven_why } };
    for (size_t i = 0; i < COUNT(tried) && at < WHY_MAX; i++) {
        if (!tried[i].n) continue;
        at += (size_t)snprintf(why + at, WHY_MAX - at, "%s%d %s%s", sep, tried[i].n, tried[i].what,
                               tried[i].reason);
        sep = ", ";
    }
    if (*sep == ':' && at < WHY_MAX) snprintf(why + at, WHY_MAX - at, ": it has no usable address");
    return 0;
}

/* Wait for what comes next until LIMIT, and take it. 1: go on. 0: WHY. */
static int punch_turn(struct punch *p, int rdv, deadline limit, char *why) {
    struct pollfd fds[2 + CONNS_MAX] = { { rdv, POLLIN, 0 } };
    int n = p->nconns;
    deadline next = limit;
    for (int i = 0; i < p->ntargets; i++)
        if (!p->targets[i].busy && ms_left(p->limit)) next = sooner(next, p->targets[i].retry);
    for (int i = 0; i < n; i++) {
        struct conn *c = &p->conns[i];
        fds[2 + i] = (struct pollfd){ c->fd, c->step == STEP_CONNECT ? POLLOUT : POLLIN, 0 };
        next = sooner(next, c->end);
    }
    if (ms_left(p->accepting)) next = sooner(next, p->accepting);      /* no descriptor was free */
    fds[1] = (struct pollfd){ ms_left(p->accepting) ? -1 : p->s->listener, POLLIN, 0 };
    wait_for(fds, (size_t)(2 + n), next);
    for (int i = 0; i < n; i++) {
        struct conn *c = &p->conns[i];
        if (fds[2 + i].revents) conn_event(p, c);
        else if (!ms_left(c->end)) conn_failed(p, c, "it did not complete the handshake in time");
    }
    if (fds[1].revents) punch_accept(p);
    return fds[0].revents ? punch_news(p, rdv, why) : 1;
}

/* Join stream S with its peer; RDV leads to the rendezvous process. Returns the connection, which
 * does not block, or -1 and WHY. */
static int punch(struct stream *s, int rdv, char *why) {
    struct punch p = { .s = s, .began = after(0), .limit = after(set.peer_ms) };
    int chosen = -1, good = 1;
    set_nonblocking(s->listener);
    while (good && chosen < 0) {
        deadline limit = p.limit;
        conns_tidy(&p);
        for (int i = 0; i < p.nconns; i++)             /* until the lower node has given up, too */
            if (p.conns[i].step == STEP_GO) limit.at = p.limit.at + GRACE_MS;
        for (int i = 0; i < p.ntargets; i++)
            while (ms_left(p.limit) && !p.targets[i].busy && !ms_left(p.targets[i].retry))
                target_try(&p, i);
        good = ms_left(limit) ? punch_turn(&p, rdv, limit, why) : punch_failed(&p, why);
        for (int i = 0; i < p.nconns && good && chosen < 0; i++) {
            struct conn *c = &p.conns[i];
            if (c->step == STEP_FATAL)
                good = fail(why, "both ends %s", s->sends ? "send" : "receive");
            if (c->step != STEP_CHOSEN) continue;
            say(LOG_INFO, "connected to node %u at %s", s->peer, SHOW(&c->with));
            chosen = c->fd;
            c->fd = -1;
        }
    }
    for (int i = 0; i < p.nconns; i++) conn_drop(&p.conns[i]);
    return chosen;
}

/* ---- 10. transfer: frames between a descriptor and the connection -----------------------------
 * Sender: u32 length, 1 to 1,048,576, and as many bytes, again and again; at the end a length of 0
 * and u64 total. Receiver: every 15 s u64 2^64-2 while it lives; at the end u64 total, or 2^64-1
 * where its reader went away. Big-endian. Touches PATH, standard input or output, and the
 * connection. */

enum { FRAME_MAX = 1 << 20, ALIVE_MS = 15000, QUIET_MS = 60000, FINISH_MS = 10000 };
#define SAID_ALIVE (UINT64_MAX - 1)
#define SAID_GONE UINT64_MAX

/* A descriptor in a message over a socket pair, beside an error number. */
struct parcel {
    int error;
    struct iovec iov;
    struct msghdr m;
    union { struct cmsghdr *align; char space[CMSG_SPACE(sizeof (int))]; } control;
};

static struct msghdr *parcel(struct parcel *p, int error) {
    memset(p, 0, sizeof *p);
    p->error = error;
    p->iov = (struct iovec){ &p->error, sizeof p->error };
    p->m.msg_iov = &p->iov;
    p->m.msg_iovlen = 1;
    p->m.msg_control = &p->control;
    p->m.msg_controllen = sizeof p->control;
    *CMSG_FIRSTHDR(&p->m) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                                              .cmsg_len = CMSG_LEN(sizeof (int)) };
    return &p->m;
}

/* Job: open the path of stream ARG, for a FIFO until its other end comes, and pass it on. */
static void path_job(int sock, const void *arg) {
    const struct stream *s = arg;
    int fd = open(s->path, (s->sends ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC) | O_NOCTTY, 0666);
    struct parcel p;
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(parcel(&p, fd < 0 ? errno : 0))), &fd, sizeof fd);
    if (fd < 0) p.m.msg_controllen = 0;
    sendmsg(sock, &p.m, 0);
}

/* The descriptor that the job has for us, made non-blocking; -1: WHY. */
static int path_opened(const struct stream *s, struct job *j, char *why) {
    struct parcel p;
    int fd = -1, whole = recvmsg(j->fd, parcel(&p, EIO), 0) == sizeof p.error;
    if (whole && !p.error && CMSG_FIRSTHDR(&p.m))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&p.m)), sizeof fd);
    if (fd < 0) fail(why, "opening %s: %s", s->path, strerror(p.error));
    else set_nonblocking(fd);
    job_end(j);
    return fd;
}

typedef unsigned long long bytes;           /* a uint64_t that printf knows by a short name */

static int lost(char *why, bytes n) {
    return fail(why, "connection lost after %llu bytes: output is incomplete", n);
}

struct heard { unsigned char in[8]; size_t have; bytes said; deadline quiet; };

/* Take what the receiver says, without waiting. 1: its answer is in h->said. 0: none yet. -1: it is
 * gone. */
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

/* The frame on its way: HAVE bytes in BUF, of which the socket has taken DONE. */
struct frame { unsigned char *buf; size_t have, done; int last; bytes given; }; /* given: in all */

/* Fill it from IN; at the end of the input, with the end. 1: done, or nothing was there. 0:
 * errno. */
static int frame_fill(struct frame *f, int in) {
    ssize_t n = read(in, f->buf + 4, PASHLIB_BUFFER);
    if (n < 0) return would_block();
    f->last = n == 0;
    put(f->buf, 4, (uint64_t)n);
    put(f->buf + (f->last ? 4 : 4 + PASHLIB_BUFFER), 8, f->given);
    f->have = 4 + (f->last ? 8 : (size_t)n);
    f->done = 0;
    return 1;
}

/* Give the socket what it takes. 1: done. 0: it does not work any more. */
static int frame_send(struct frame *f, int sock) {
    ssize_t n = send(sock, f->buf + f->done, f->have - f->done, MSG_NOSIGNAL);
    size_t before = f->done > 4 ? f->done : 4;
    if (n < 0) return would_block();
    f->done += (size_t)n;
    if (!f->last && f->done > before) f->given += f->done - before;
    return 1;
}

/* Carry IN, or what OPENING opens, to the peer over SOCK. The answer is looked for while this is
 * idle, while it writes, and after a write that failed. 1: delivered, or the reader needs no more.
 * 0: WHY. */
static int send_frames(const struct stream *s, int in, struct job *opening, int sock,
                       struct frame *f, char *why) {
    struct heard h = { .quiet = after(QUIET_MS) };
    int heard = 0;
    while (!heard) {
        int full = f->done < f->have;
        struct pollfd p[2] = { { sock, POLLIN, 0 }, { in < 0 ? opening->fd : in, POLLIN, 0 } };
        if (full) p[0].events |= POLLOUT;
        if (full || f->last) p[1].fd = -1;
        if (!wait_for(p, 2, h.quiet) && !ms_left(h.quiet)) return lost(why, f->given);
        if (p[0].revents & ~POLLOUT) heard = hear(&h, sock);
        if (!heard && p[1].revents) {
            if (in < 0) {
                in = path_opened(s, opening, why);
                if (in < 0) return 0;
                continue;
            }
            if (!frame_fill(f, in)) return fail(why, "reading %s: %s", s->path, strerror(errno));
        }
        if (!heard && f->done < f->have && !frame_send(f, sock))
            heard = hear(&h, sock) > 0 ? 1 : -1;
    }
    if (heard < 0) return lost(why, f->given);
    if (h.said == SAID_GONE) say(LOG_INFO, "node %u needs no more: its reader went away", s->peer);
    else if (!f->last || f->done < f->have || h.said != f->given)
        return fail(why, "node %u has %llu bytes of %llu: output is incomplete", s->peer, h.said,
                    f->given);
    say(LOG_INFO, "sent %llu bytes", f->given);
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
    if (tell(sock, said) && shutdown(sock, SHUT_WR) == 0) {
        while (ms_left(end) && (n = recv(sock, rest, sizeof rest, 0)) != 0) {
            if (n < 0 && !would_block()) break;
            if (n < 0) wait_for_one(sock, POLLIN, end);
        }
    }
    if (n != 0) say(LOG_INFO, "the sender has not confirmed that it knows of the end");
}

struct frames {                             /* the reader of frames */
    unsigned char head[12];                 /* u32 length; behind a length of 0 u64 total */
    size_t have, left;                      /* bytes of head; what is still to come of the frame */
    int ended;
};

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

/* The output: HAVE bytes for it in BUF, of which DONE are written; WRITTEN in all. */
struct sink { int fd, watch; size_t limit; unsigned char *buf; size_t have, done; bytes written; };

/* FD is the output now. A receiver that slept in a write could not say that it lives: a description
 * of our own, where the system gives one, does not block; else what is written at a time is what
 * poll() promises room for. (Regular files do not sleep; and they may be opened for append.) */
static void sink_open(struct sink *o, int fd) {
    struct stat st = { 0 };
    int own = -1;
    o->fd = fd;
    fstat(fd, &st);
    o->watch = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode);
    if (fd == 1 && !S_ISREG(st.st_mode))
        own = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY);
    if (own >= 0) dup2(own, fd);
    close_fd(&own);
    o->limit = S_ISREG(st.st_mode) || (fcntl(fd, F_GETFL) & O_NONBLOCK) ? PASHLIB_BUFFER : PIPE_BUF;
}

/* Write what it takes. 1: done, or there was no room. 0: errno. */
static int sink_write(struct sink *o) {
    size_t left = o->have - o->done;
    ssize_t n = write(o->fd, o->buf + o->done, left < o->limit ? left : o->limit);
    if (n < 0) return would_block();
    o->done += (size_t)n;
    o->written += (bytes)n;
    return 1;
}

/* Carry what comes over SOCK to O, or to what OPENING opens. 1: all is written. -1: the reader of
 * the output went away. 0: WHY. */
static int recv_frames(const struct stream *s, struct sink *o, struct job *opening, int sock,
                       char *why) {
    struct frames f = { .left = 0 };
    deadline alive = after(ALIVE_MS);
    while (!f.ended) {
        int full = o->done < o->have, opens = o->fd < 0;
        int wants = opens ? POLLIN : full ? POLLOUT : 0;
        struct pollfd p[2] = { { full ? -1 : sock, opens ? POLLRDHUP : POLLIN, 0 },
                               { opens ? opening->fd : o->fd, (short)wants, 0 } };
        ssize_t n;
        if (!wants && !o->watch) p[1].fd = -1;
        wait_for(p, 2, alive);
        if (!ms_left(alive)) {
            if (!tell(sock, SAID_ALIVE)) return lost(why, o->written);
            alive = after(ALIVE_MS);
        }
        if (opens) {
            if (!p[1].revents && p[0].revents) return lost(why, o->written);
            if (!p[1].revents) continue;
            sink_open(o, path_opened(s, opening, why));
            if (o->fd < 0) return 0;
        } else if (full && p[1].revents) {
            if (sink_write(o)) continue;
            return errno == EPIPE ? -1 : fail(why, "writing %s: %s", s->path, strerror(errno));
        }
        else if (p[1].revents) return -1;
        else if (p[0].revents) {
            n = frames_read(&f, sock, o->buf, PASHLIB_BUFFER);
            if (n < 0 && errno == EPROTO) return fail(why, "a frame of %zu bytes is none", f.left);
            if (n < 0) return lost(why, o->written);
            o->done = 0;
            o->have = (size_t)n;
        }
    }
    if (get(f.head + 4, 8) == o->written) return 1;
    return fail(why, "received %llu bytes of %llu: output is incomplete", o->written,
                (bytes)get(f.head + 4, 8));
}

/* Carry stream S over SOCK. FD: its standard input or output, or -1: its path is to be opened. 1:
 * all is done. 0: WHY. */
static int transfer(const struct stream *s, int fd, int sock, char *why) {
    unsigned char *buf = malloc(PASHLIB_BUFFER + 12);   /* of a frame: its head, the end's total */
    struct frame f = { .buf = buf };
    struct sink o = { .buf = buf, .fd = -1 };
    struct job opening = { 0, -1 };
    int good;
    if (!buf) return fail(why, "out of memory");
    if (fd < 0 && !job_start(&opening, path_job, s, why)) return 0;
#ifdef TCP_USER_TIMEOUT
    if (!s->sends) set_option(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, QUIET_MS);
#endif
    if (fd >= 0 && !s->sends) sink_open(&o, fd);
    good = s->sends ? send_frames(s, fd, &opening, sock, &f, why)
                    : recv_frames(s, &o, &opening, sock, why);
    job_end(&opening);
    if (good > 0 && !s->sends && close(o.fd) < 0 && errno != EINTR)
        good = fail(why, "closing %s: %s", s->path, strerror(errno));
    if (s->sends || !good) return good;
    finish(sock, good < 0 ? SAID_GONE : o.written);
    if (good < 0) say(LOG_INFO, "the reader of %s went away", s->path);
    say(LOG_INFO, "received %llu bytes", o.written);
    return 1;
}

/* ---- 11. command line: parse it, a child for every stream, gather the results -----------------
 * Touches standard output (addr, --help, --version) and, in the parent alone, signals. */

enum { EXIT_USAGE = 2, STREAM_WORDS = 5 };

/* Say what is wrong with the command line; the exit status. */
#define usage(...) (say(LOG_ERROR, __VA_ARGS__), EXIT_USAGE)

/* Standard output is written: returns the exit status. */
static int printed(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    say(LOG_ERROR, "standard output: %s", strerror(errno));
    return 1;
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
        printf("  %-29s %s%s%s%s\n", t->name, t->what, t->unset ? " [" : "",
               t->unset ? t->unset : "", t->unset ? "]" : "");
    printf("\nRendezvous: dynamodb:rdv where AWS_REGION or AWS_DEFAULT_REGION is set, else\n"
           "dir:${TMPDIR:-/tmp}/pashlib-UID. The data is not encrypted; README says more.\n");
    return printed();
}

/* Fill S from its words, which stay where they are. 0: done. 2: said what is wrong. */
static int stream_parse(struct stream *s, char *const *word) {
    static const char *const standard[2][2] = { { "/dev/stdout", "/dev/fd/1" },
                                                { "/dev/stdin", "/dev/fd/0" } };
    unsigned long node[2];
    *s = (struct stream){ .sends = strcmp(word[0], "send") == 0, .key = word[1], .path = word[4],
                          .listener = -1, .udp = -1 };
    if (!s->sends && strcmp(word[0], "recv") != 0)
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
    for (size_t i = 0; i < COUNT(standard[0]); i++)           /* in a child they are other files */
        if (strcmp(s->path, standard[s->sends][i]) == 0) s->path = "-";
    return *s->path ? 0 : usage("%s %s: PATH is empty", word[0], s->key);
}

/* Fill S from TEXT, (send|recv)*KEY*ME*PEER*PATH, cut at its first four stars. */
static int stream_split(struct stream *s, char *text) {
    char *word[STREAM_WORDS] = { text }, *star = text;
    int stars = 0;
    for (const char *c = text; *c; c++) stars += *c == '*';
    if (stars < STREAM_WORDS - 1) return usage("\"%s\" is no (send|recv)*KEY*ME*PEER*PATH", text);
    for (int i = 1; i < STREAM_WORDS; i++) {
        star = strchr(star, '*');
        *star++ = 0;
        word[i] = star;
    }
    return stream_parse(s, word);
}

/* Streams that cannot be carried together. */
static int streams_check(const struct stream *s, int n) {
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) {
            if (s[i].me == s[k].me && strcmp(s[i].key, s[k].key) == 0)
                return usage("KEY \"%s\" and node %u come twice", s[i].key, s[i].me);
            if (s[i].sends == s[k].sends && !strcmp(s[i].path, "-") && !strcmp(s[k].path, "-"))
                return usage("two streams share standard %s", s[i].sends ? "input" : "output");
        }
    }
    return 0;
}

/* Open descriptors 0, 1 and 2 on /dev/null where they are closed, so that no socket takes their
 * number; but 0 not for reading and 1 not for writing, so that whoever wants to do that fails. */
static void standard_open(void) {
    for (int fd = 0; fd < 3; fd++) {
        int flags = fd == 1 ? O_RDONLY : O_WRONLY;
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", flags) != fd) _exit(1);
    }
}

/* Let go of standard input and output, all but KEEP, and of the listeners of all streams, all but
 * ONE's: held here, they would hide from others that they are closed. */
static void let_go(struct stream *s, int n, const struct stream *one, int keep) {
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < n; i++) if (&s[i] != one) close_fd(&s[i].listener);
    for (int fd = 0; fd < 2; fd++) if (fd != keep && dup2(null, fd) < 0) die("/dev/null");
    close_fd(&null);
}

/* What the two processes of a stream are given: all streams, their own, the way to the rendezvous
 * process, and the signal mask that we were started with. */
struct start { struct stream *all; int n; struct stream *s; int rdv; sigset_t mask; };

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
    sock = punch(s, start->rdv, why);
    close(start->rdv);                                          /* the registration is withdrawn */
    good = sock >= 0;
    if (good && fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == (fd ? O_RDONLY : O_WRONLY))
        good = fail(why, "opening -: %s", strerror(EBADF));
    if (good) good = transfer(s, fd, sock, why);
    if (!good) say(LOG_ERROR, "%s", why);
    _exit(!good);
}

/* Start both. 1: done. 0: said why not. */
static int stream_start(struct start *start) {
    struct job rdv = { 0, -1 }, stream = { 0, -1 };
    char why[WHY_MAX];
    int good = job_start(&rdv, rdv_job, start, why);
    start->rdv = rdv.fd;
    good = good && job_start(&stream, stream_job, start, why);
    if (!good) say(LOG_ERROR, "%s", why);
    start->s->rdv = rdv.pid;
    start->s->child = stream.pid;
    close_fd(&rdv.fd);
    close_fd(&stream.fd);
    return good;
}

static void nothing(int sig) { (void)sig; }

/* The signals that we wait for: of our children, of the alarm, and those that end us, unless they
 * were ignored at the start; SIGPIPE is not left ignored. The first two are caught lest the system
 * drop them. */
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

/* Children have ended. Returns 1 if one failed. */
static int reap(struct stream *s, int n) {
    int how, failed = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &how, WNOHANG)) > 0) {
        for (int i = 0; i < n; i++) {
            if (pid == s[i].rdv) s[i].rdv = 0;
            if (pid != s[i].child) continue;
            s[i].child = 0;
            s[i].rdv_end = after(WITHDRAW_MS).at;
            failed |= !WIFEXITED(how) || WEXITSTATUS(how) != 0;
            set.who = &s[i];
            if (WIFSIGNALED(how)) say(LOG_ERROR, "its process ended by signal %d", WTERMSIG(how));
            set.who = NULL;
        }
    }
    return failed;
}

/* End the rendezvous processes that outlast their streams for too long. Returns how many streams
 * are left, and sets the alarm for the next that would. */
static int streams_left(struct stream *s, int n) {
    struct itimerval timer = { { 0, 0 }, { 0, 0 } };
    deadline next = after(MS_MAX);
    int left = 0;
    for (int i = 0; i < n; i++) {
        left += s[i].child || s[i].rdv;
        if (s[i].child || !s[i].rdv) continue;
        next = sooner(next, (deadline){ s[i].rdv_end });
        if (ms_left((deadline){ s[i].rdv_end })) continue;
        set.who = &s[i];
        say(LOG_ERROR, "withdrawing the registration: not done in time");
        set.who = NULL;
        kill(s[i].rdv, SIGKILL);
        s[i].rdv_end = after(MS_MAX).at;
    }
    timer.it_value.tv_sec = ms_left(next) / 1000;
    timer.it_value.tv_usec = ms_left(next) % 1000 * 1000 + 1;
    setitimer(ITIMER_REAL, &timer, NULL);
    return left;
}

/* Carry the N streams, each in a child of its own. Returns the exit status, or ends by the signal
 * it got. The parent's one wait is here: for its children, whose waits have deadlines, signals, and
 * an alarm. */
static int carry(struct stream *s, int n, sigset_t *wanted) {
    struct start start = { .all = s, .n = n };
    char why[WHY_MAX];
    int status = 0, sig, got = 0;
    if (!discover(s, n, 0, why)) { say(LOG_ERROR, "%s", why); return 1; }
    sigprocmask(SIG_BLOCK, wanted, &start.mask);
    for (int i = 0; i < n; i++) {
        set.who = start.s = &s[i];
        s[i].rdv_end = after(WITHDRAW_MS).at;
        if (!stream_start(&start)) status = 1;
    }
    set.who = NULL;
    let_go(s, n, NULL, -1);
    while (streams_left(s, n)) {
        sigwait(wanted, &sig);
        if (reap(s, n)) status = 1;
        if (sig == SIGCHLD || sig == SIGALRM || got) continue;
        got = sig;
        for (int i = 0; i < n; i++) {
            if (s[i].child) kill(s[i].child, SIGKILL);  /* its rendezvous process then withdraws */
        }
        for (int i = 0; i < n; i++) {
            if (s[i].child) waitpid(s[i].child, NULL, 0); /* so that nothing is written after us */
            s[i].child = 0;
            s[i].rdv_end = after(WITHDRAW_HASTE_MS).at;
        }
    }
    if (!got) return status;
    signal(got, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, wanted, NULL);
    raise(got);
    return 1;
}

static int print_addresses(void) {
    struct stream s = { .listener = -1, .udp = -1 };
    char why[WHY_MAX];
    if (!discover(&s, 1, 1, why)) { say(LOG_ERROR, "%s", why); return 1; }
    printf("local_addr=%s\nexternal_addr=%s\n", SHOW(&s.local), SHOW(&s.external));
    printf("source=%s\n", s.source);
    if (s.mapping) printf("mapping=%s\n", s.mapping);
    return printed();
}

int main(int argc, char **argv) {
    const char *first = argc > 1 ? argv[1] : "";
    int words = strcmp(first, "send") == 0 || strcmp(first, "recv") == 0;
    int n = words ? 1 : argc - 1, status = 0;
    char dash[] = "-", *word[STREAM_WORDS] = { [STREAM_WORDS - 1] = dash };
    struct stream *s;
    struct rlimit files;
    sigset_t wanted;
    standard_open();
    signals_begin(&wanted);
    signal(SIGPIPE, SIG_IGN);                              /* what cannot be printed is an error */
    if (strcmp(first, "--help") == 0) return print_help();
    if (strcmp(first, "--version") == 0) return printf("pashlib %s\n", VERSION) < 0 || printed();
    if (!settings_read()) return EXIT_USAGE;
    if (n < 1) return usage("no stream is named; see pashlib --help");
    if (strcmp(first, "addr") == 0)
        return argc > 2 ? usage("addr stands alone") : print_addresses();
    if (words && (argc < 5 || argc > 6)) return usage("%s takes KEY ME PEER [PATH]", first);
    s = calloc((size_t)n, sizeof *s);
    if (!s) die("memory");
    if (words) memcpy(word, argv + 1, (size_t)(argc - 1) * sizeof *word);
    if (words) status = stream_parse(s, word);
    for (int i = 0; i < n && !words && !status; i++) status = stream_split(&s[i], argv[1 + i]);
    if (!status) status = streams_check(s, n);
    if (!status && set.rdv.kind != RDV_DIR)
        status = usage("rendezvous %s is not supported yet", set.rdv.text);
    if (!status && getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_DFL);
    if (!status) status = carry(s, n, &wanted);
    free(s);
    return status;
}
