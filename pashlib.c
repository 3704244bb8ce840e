/* SPDX-License-Identifier: MIT */
/* pashlib: join the two ends of a shell pipeline across machines, through NATs and firewalls.
 * Build: cc -O2 -o pashlib pashlib.c. README has the contract.
 *
 * Read this file from top to bottom: its parts stand in the order in which data flows. The banner
 * of each part says what it does and what it touches. A part never calls one that stands below it.
 *
 *   1 texts, addresses        5 HTTP, JSON, IMDS          9 connect
 *   2 settings, log           6 discovery                10 transfer
 *   3 clock, sockets, jobs    7 SHA-256, HMAC, SigV4     11 command line
 *   4 STUN                    8 rendezvous
 *
 * Results. Every function keeps to one convention:
 *   - An int that answers a question, or says whether something was done, is 1 for yes and 0 for
 *     no. Where the function takes WHY, an array of WHY_MAX bytes, WHY has the reason after a 0.
 *   - Where more than two things can happen, the result is an enum that names them. Its first name
 *     means failure, and FAIL() gives it.
 *   - An errnum is an error number of errno.h, or 0 where nothing failed.
 *   - Any other result (a size, a count, milliseconds, an exit status) is what the name or the
 *     comment of the function says, or goes through pointers.
 * errno is read only right after the system call that set it. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64                /* Files may be large where a long has 32 bits. */
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
#define MSG_NOSIGNAL 0                   /* Every process that sends must ignore SIGPIPE instead. */
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0                       /* Without it, only a write shows that a peer has gone. */
#endif
#ifndef PASHLIB_BUFFER
#define PASHLIB_BUFFER 131072          /* Bytes carried at a time; the tests also build it small. */
#endif
#define COUNT(array) ((int)(sizeof (array) / sizeof *(array)))
#define FORMAT(array, ...) snprintf(array, sizeof (array), __VA_ARGS__)
#define TIMES(i, n) for (int i = 0; i < (n); i++)
#define FOR_EACH(type, p, array, n) for (type *p = (array); p < (array) + (n); p++)
#define PRINTF(n) __attribute__((format(printf, n, n + 1)))   /* n: where the format stands */

typedef unsigned char byte;
typedef const char *Str;                    /* a text that is only read */
typedef int errnum;                         /* an error number of errno.h; 0: nothing failed */

/* ---- 1. texts and addresses -------------------------------------------------------------------
 * Pure functions: reasons, texts that grow, numbers, addresses. An IPv4 address is held as the IPv6
 * address ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), so that one dual-stack socket serves both. */

/* The sizes of texts include their NUL. */
#define WHY_MAX 512
#define HOST_MAX 254
#define ADDR_TEXT 56
typedef char Why[WHY_MAX];                 /* the reason of a failure */
#define NAME_CHARS "-_.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define HEX_DIGITS "0123456789abcdefABCDEF"

/* NOTE() writes a reason into WHY. FAIL() notes the reason of a failure and gives 0, so that a
 * check takes one line. */
#define NOTE(why, ...) snprintf(why, WHY_MAX, __VA_ARGS__)
#define FAIL(why, ...) (NOTE(why, __VA_ARGS__), 0)

/* A text that grows within SIZE bytes; add() cuts what does not fit. LEN does not count the NUL. */
typedef struct { char *at; size_t size, len; } Text;
#define TEXT(array) { array, sizeof (array), 0 }

PRINTF(2) static void add(Text *t, Str fmt, ...)
{
    size_t room = t->size - t->len;
    va_list args;
    va_start(args, fmt);
    size_t n = (size_t)vsnprintf(t->at + t->len, room, fmt, args);
    va_end(args);
    t->len += n < room ? n : room - 1;
}

static int equal(Str a, Str b)
{
    return strcmp(a, b) == 0;
}

static int begins_with(Str s, Str start)
{
    return strncmp(s, start, strlen(start)) == 0;
}

/* 1: the whole of S is a decimal number, digits only, of at most MAX, and *N is set. */
static int number(Str s, unsigned long max, unsigned long *n)
{
    if (!*s || s[strspn(s, "0123456789")])
        return 0;
    *n = strtoul(s, NULL, 10);                                  /* too large: ULONG_MAX */
    return *n <= max;
}

/* 1: all of TEXT is printable ASCII without blanks. */
static int printable(Str text)
{
    for (; *text; text++)
        if (*text <= ' ' || *text > '~')
            return 0;
    return 1;
}

/* Write and read numbers of N bytes, big-endian, as every protocol here has them. */
static void put(byte *p, int n, uint64_t v)
{
    for (int i = n - 1; i >= 0; i--) {
        p[i] = v & 0xff;
        v >>= 8;
    }
}

static uint64_t get(const byte *p, int n)
{
    uint64_t v = 0;
    TIMES(i, n)
        v = v << 8 | p[i];
    return v;
}

typedef struct sockaddr_storage KernelAddr;     /* an address as the kernel has it */
typedef struct { byte ip[16]; unsigned port; } Addr;       /* port in host order; all zero: none */
static const byte v4_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

/* Split S, which is HOST, HOST:PORT, [IPv6], [IPv6]:PORT or a bare IPv6 address, into HOST
 * (HOST_MAX bytes) and *PORT, which stays as it is where S names none. 0: S is none of these. */
static int host_port(Str s, char *host, unsigned *port)
{
    Str colon = strchr(s, ':');
    Str end = s + strlen(s), rest = end;               /* end: of the host; rest: what follows it */
    unsigned long n;
    if (*s == '[') {
        s++;
        end = strchr(s, ']');
        if (!end || !colon || colon > end)
            return 0;
        rest = end + 1;
    } else if (colon && colon == strrchr(s, ':')) {
        end = colon;
        rest = colon;
    }
    if (end == s || end - s >= HOST_MAX)
        return 0;
    snprintf(host, HOST_MAX, "%.*s", (int)(end - s), s);
    if (!*rest) return 1;
    if (*rest != ':' || !number(rest + 1, 65535, &n) || n == 0)
        return 0;
    *port = (unsigned)n;
    return 1;
}

/* 1: S is an IPv4 or IPv6 literal without brackets, and a->ip is set. */
static int ip_parse(Str s, Addr *a)
{
    if (inet_pton(AF_INET6, s, a->ip) == 1)
        return 1;
    memcpy(a->ip, v4_prefix, 12);
    return inet_pton(AF_INET, s, a->ip + 12) == 1;
}

/* 1: S is IP:PORT, with brackets around an IPv6 address, and *A is set. */
static int addr_parse(Str s, Addr *a)
{
    char host[HOST_MAX];
    a->port = 0;
    return host_port(s, host, &a->port) && a->port && ip_parse(host, a);
}

static int addr_is_v4(const Addr *a)
{
    return memcmp(a->ip, v4_prefix, 12) == 0;
}

static int ip_same(const Addr *a, const Addr *b)
{
    return memcmp(a->ip, b->ip, 16) == 0;
}

static int addr_same(const Addr *a, const Addr *b)
{
    return a->port == b->port && ip_same(a, b);
}

static int addr_is_loopback(const Addr *a)
{
    if (addr_is_v4(a))
        return a->ip[12] == 127;
    return memcmp(a->ip, &in6addr_loopback, 16) == 0;
}

/* 1: the IP can be one host's: not unspecified, multicast or the limited broadcast address. */
static int ip_usable(const Addr *a)
{
    static const byte zeros[16], ones[4] = { 0xff, 0xff, 0xff, 0xff };
    const byte *v4 = a->ip + 12;
    if (!addr_is_v4(a))
        return memcmp(a->ip, zeros, 16) && a->ip[0] != 0xff;
    if (memcmp(v4, zeros, 4) == 0 || memcmp(v4, ones, 4) == 0)
        return 0;
    return (v4[0] & 0xf0) != 0xe0;
}

static int addr_usable(const Addr *a)
{
    return a->port && ip_usable(a);
}

/* Print IP:PORT, or the IP alone where the port is 0, into TEXT (ADDR_TEXT bytes); return TEXT. */
static Str addr_text(const Addr *a, char *text)
{
    char ip[INET6_ADDRSTRLEN] = "?";
    int v4 = addr_is_v4(a);
    if (v4)
        inet_ntop(AF_INET, a->ip + 12, ip, sizeof ip);
    else
        inet_ntop(AF_INET6, a->ip, ip, sizeof ip);
    if (!a->port)
        strcpy(text, ip);
    else
        snprintf(text, ADDR_TEXT, v4 ? "%s:%u" : "[%s]:%u", ip, a->port);
    return text;
}
#define SOCKADDR(kernel) ((struct sockaddr *)(kernel))
#define SHOW(a) addr_text(a, (char[ADDR_TEXT]){ 0 })      /* The text lives until the block ends. */

/* Write A into OUT as the kernel takes it for a socket of FAMILY. Returns its size in bytes; 0: A
 * is not in that family. The bytes are copied: the compiler may move a store through a pointer of
 * another type (C99, 6.5). */
static socklen_t addr_to_kernel(const Addr *a, int family, KernelAddr *out)
{
    struct sockaddr_in in4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)a->port) };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = in4.sin_port };
    memcpy(&in4.sin_addr, a->ip + 12, 4);
    memcpy(&in6.sin6_addr, a->ip, 16);
    if (family != AF_INET) {
        memcpy(out, &in6, sizeof in6);
        return sizeof in6;
    }
    memcpy(out, &in4, sizeof in4);
    return addr_is_v4(a) ? sizeof in4 : 0;
}

static Addr addr_from_kernel(const KernelAddr *from)
{
    const struct sockaddr_in *in4 = (const void *)from;
    const struct sockaddr_in6 *in6 = (const void *)from;
    Addr a;
    if (from->ss_family == AF_INET) {
        memcpy(a.ip, v4_prefix, 12);
        memcpy(a.ip + 12, &in4->sin_addr, 4);
    } else
        memcpy(a.ip, &in6->sin6_addr, 16);
    a.port = ntohs(from->ss_family == AF_INET ? in4->sin_port : in6->sin6_port);
    return a;
}

/* ---- 2. settings and log ----------------------------------------------------------------------
 * Reads the environment, once, into `settings`, and writes log lines to standard error. `settings`
 * and `log_state` are the only variables at file scope. */

#define LOG_LINE_MAX 4096                   /* bytes that poll() promises room for */
#define LOG_ERROR 0
#define LOG_INFO 1
#define LOG_DEBUG 2
#define SERVERS_MAX 8
#define PLACE_MAX 1024                      /* bytes, NUL included; so are those below */
#define SECRET_MAX 3072                     /* of a key id, a secret, a token */
#define MS_MAX 86400000                     /* a day */
typedef struct { char name[HOST_MAX]; unsigned port; int tcp; } Host;
typedef struct { int n, n_tcp; Host list[SERVERS_MAX]; } Servers;  /* n_tcp: how many use TCP */

/* authority: HOST[:PORT] as it was written; path: without a slash at its end */
typedef struct {
    enum { URL_UNSET, URL_HTTP, URL_HTTPS } scheme;
    Host host;
    char authority[HOST_MAX + 16], path[256];
} Url;

/* The credentials for DynamoDB. If ID is empty, there are none, and WHY has the reason. */
typedef struct {
    char id[SECRET_MAX], secret[SECRET_MAX], token[SECRET_MAX];
    char until[32];                         /* YYYY-MM-DDThh:mm:ssZ; empty: they never expire */
    Why why;
} Creds;

/* name: of the directory or the table; text: for messages */
typedef struct {
    enum { PLACE_UNSET, PLACE_DIR, PLACE_DYNAMODB } kind;
    char name[PLACE_MAX], text[PLACE_MAX + 80];
} Place;

static struct {
    int no_holepunch, stun_ms, peer_ms, connect_ms, log_level, imds_off, imds_v1_off;
    Addr public_addr, public_ip;            /* all zero: not set */
    Servers stun;
    Place rendezvous;
    Url imds, dynamodb, any_service;
    Str region, default_region;             /* NULL: not set */
    Creds creds;                            /* its strings empty: not set */
} settings;

/* role, key: of the stream that log lines are about; NULL: the process. stuck: the last line found
 * no room. */
static struct { Str role, key; int stuck; } log_state;

/* Write SIZE bytes by one write(), or by another if a signal came first. ENOSPC: not all of them
 * found room. */
static errnum write_once(int fd, const void *p, size_t size)
{
    ssize_t n;
    do n = write(fd, p, size);
    while (n < 0 && errno == EINTR);
    if (n < 0) return errno;
    return n == (ssize_t)size ? 0 : ENOSPC;
}

/* Write a line to standard error. It waits up to a second for room, or not at all if the last line
 * was lost; without room, the line is lost: logging must not stop the work. Nor may a reader that
 * has gone end us: SIGPIPE is blocked meanwhile and then taken back. */
static void log_write(Str line, size_t len)
{
    struct pollfd room = { 2, POLLOUT, 0 };
    sigset_t sigpipe, old_mask, pending;
    int ready, sig;
    do ready = poll(&room, 1, log_state.stuck ? 0 : 1000);
    while (ready < 0 && errno == EINTR);
    log_state.stuck = ready < 1;
    if (log_state.stuck) return;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    sigprocmask(SIG_BLOCK, &sigpipe, &old_mask);
    if (write_once(2, line, len) == EPIPE) {
        sigpending(&pending);
        if (sigismember(&pending, SIGPIPE))
            sigwait(&sigpipe, &sig);
    }
    sigprocmask(SIG_SETMASK, &old_mask, NULL);
}

/* Add TEXT to LINE with its control characters as \xNN: C0, DEL, and C1, which UTF-8 encodes as
 * 0xc2 and 0x80 to 0x9f. Keys, paths and what servers answer come from outside. */
static void add_escaped(Text *line, Str text)
{
    int in_c1 = 0;
    for (const byte *c = (const byte *)text; *c; c++) {
        int begins_c1 = *c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0;
        int control = *c < 0x20 || *c == 0x7f || begins_c1 || in_c1;
        add(line, control ? "\\x%02x" : "%c", *c);
        in_c1 = begins_c1;
    }
}

/* Log a line, if LEVEL is asked for. Returns 0, so that COMPLAIN() is as good as FAIL(). */
PRINTF(2) static int log_line(int level, Str fmt, ...)
{
    char text[2048], line[LOG_LINE_MAX];
    Text l = { line, sizeof line - 1, 0 };
    va_list args;
    if (level > settings.log_level) return 0;
    add(&l, "pashlib: ");
    if (log_state.key) {
        add(&l, "%s ", log_state.role);
        add_escaped(&l, log_state.key);
        add(&l, ": ");
    }
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    add_escaped(&l, text);
    line[l.len] = '\n';
    log_write(line, l.len + 1);
    return 0;
}
#define DEBUG(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define SAY(...) log_line(LOG_INFO, __VA_ARGS__)
#define COMPLAIN(...) log_line(LOG_ERROR, __VA_ARGS__)

/* Parse V, the value of a setting, not empty. 1: *AT is set. 0: WHY says what is wanted. */
static int parse_flag(void *at, Str v, Why why)
{
    (void)why;
    *(int *)at = !equal(v, "0") && !equal(v, "false");
    return 1;
}

static int parse_true(void *at, Str v, Why why)       /* only "true" counts, as in the AWS SDKs */
{
    (void)why;
    *(int *)at = strcasecmp(v, "true") == 0;
    return 1;
}

static int parse_ms(void *at, Str v, Why why)
{
    unsigned long n;
    if (!number(v, MS_MAX, &n))
        return FAIL(why, "want milliseconds, 0 to %d", MS_MAX);
    *(int *)at = (int)n;
    return 1;
}

static int parse_level(void *at, Str v, Why why)
{
    static const Str names[] = { [LOG_ERROR] = "error", [LOG_INFO] = "info",
                                 [LOG_DEBUG] = "debug" };
    TIMES(i, 3) {
        if (!equal(v, names[i]))
            continue;
        *(int *)at = i;
        return 1;
    }
    return FAIL(why, "want error, info or debug");
}

static int parse_public_addr(void *at, Str v, Why why)
{
    if (addr_parse(v, at) && ip_usable(at))
        return 1;
    return FAIL(why, "want IP:PORT of one host, as 203.0.113.7:5000 or [2001:db8::7]:5000");
}

static int parse_public_ip(void *at, Str v, Why why)
{
    if (ip_parse(v, at) && ip_usable(at))
        return 1;
    return FAIL(why, "want the IP of one host, as 203.0.113.7 or 2001:db8::7");
}

/* V is HOST[:PORT]. HOST is a literal address, or a name whose last label is not a number. */
static int parse_host(Host *h, Str v, Why why)
{
    Addr a;
    unsigned long n;
    if (!host_port(v, h->name, &h->port))
        return FAIL(why, "\"%s\" is no HOST or HOST:PORT", v);
    if (ip_parse(h->name, &a)) {
        if (ip_usable(&a)) return 1;
        return FAIL(why, "%s is not the address of one host", h->name);
    }
    Str dot = strrchr(h->name, '.');
    Str last_label = dot ? dot + 1 : h->name;
    if (number(last_label, ULONG_MAX, &n)
        || h->name[strspn(h->name, NAME_CHARS)])
        return FAIL(why, "\"%s\" is no host name", h->name);
    return 1;
}

/* V is a list of [udp:|tcp:]HOST[:PORT]. The port is 3478 (RFC 8489, 18.6) where none is named. */
static int parse_servers(void *at, Str v, Why why)
{
    Servers *servers = at;
    char item[HOST_MAX + 16];
    for (Str rest = v; rest; ) {
        size_t len = strcspn(rest, ",");
        if (len == 0 || len >= sizeof item)
            return FAIL(why, "want [udp:|tcp:]HOST[:PORT],...");
        if (servers->n == SERVERS_MAX)
            return FAIL(why, "want at most %d servers", SERVERS_MAX);
        Host *h = &servers->list[servers->n];
        FORMAT(item, "%.*s", (int)len, rest);
        h->tcp = begins_with(item, "tcp:");
        h->port = 3478;
        size_t scheme = h->tcp || begins_with(item, "udp:") ? 4 : 0;
        if (!parse_host(h, item + scheme, why))
            return 0;
        servers->n++;
        servers->n_tcp += h->tcp;
        rest = rest[len] ? rest + len + 1 : NULL;
    }
    return 1;
}

/* V is dir:PATH or dynamodb:TABLE. Slashes at the end of PATH are dropped: with them, lstat() would
 * follow a link. */
static int parse_place(void *at, Str v, Why why)
{
    Place *p = at;
    size_t len = strlen(v);
    if (len >= PLACE_MAX)
        return FAIL(why, "want at most %d bytes", PLACE_MAX - 1);
    strcpy(p->text, v);
    if (begins_with(v, "dir:")) {
        while (len > 5 && v[len - 1] == '/')
            len--;
        p->text[len] = 0;
        strcpy(p->name, p->text + 4);
        p->kind = PLACE_DIR;
        if (!p->name[0])
            return FAIL(why, "want a PATH behind the colon");
        return 1;
    }
    if (!begins_with(v, "dynamodb:"))
        return FAIL(why, "want dir:PATH or dynamodb:TABLE");
    strcpy(p->name, v + 9);
    p->kind = PLACE_DYNAMODB;
    len = strspn(p->name, NAME_CHARS);
    if (len < 3 || len > 255 || p->name[len])
        return FAIL(why, "want a TABLE of 3 to 255 letters, digits, - _ and .");
    return 1;
}

static int parse_word(void *at, Str v, Why why)
{
    *(Str *)at = v;
    if (!printable(v))
        return FAIL(why, "want printable ASCII without blanks");
    return 1;
}

static int parse_secret(void *at, Str v, Why why)
{
    if (strlen(v) >= SECRET_MAX)
        return FAIL(why, "want at most %d bytes", SECRET_MAX - 1);
    strcpy(at, v);
    return parse_word(&v, v, why);          /* V is checked; its place is the copy's */
}

/* V is http://HOST[:PORT][/PATH], or the same with https://. IMDS has no https://; for the others,
 * it is refused only where it would be used. */
static int parse_url(void *at, Str v, Why why)
{
    Url *u = at;
    int https = strncasecmp(v, "https://", 8) == 0;
    if ((https && u == &settings.imds)
        || (!https && strncasecmp(v, "http://", 7) != 0))
        return FAIL(why, "want http://HOST[:PORT][/PATH]");
    v += https ? 8 : 7;
    size_t host_len = strcspn(v, "/"), path_len = strlen(v + host_len);
    while (path_len && v[host_len + path_len - 1] == '/')
        path_len--;
    if (host_len >= sizeof u->authority || path_len >= sizeof u->path)
        return FAIL(why, "it is too long");
    FORMAT(u->authority, "%.*s", (int)host_len, v);
    FORMAT(u->path, "%.*s", (int)path_len, v + host_len);
    if (!printable(u->path))
        return FAIL(why, "its path is not printable ASCII");
    u->scheme = https ? URL_HTTPS : URL_HTTP;
    u->host.port = 80;
    return parse_host(&u->host, u->authority, why);
}

typedef struct {
    Str name, unset;               /* unset: the value where the variable is not set, or NULL */
    int (*parse)(void *at, Str v, Why why);
    void *at;
    Str what;
} Setting;

/* All settings. settings_read() parses by this table, and --help prints it. The tests compare
 * README with it. */
static const Setting setting_table[] = {
#define ROW(name, dflt, type, member, what) { name, dflt, parse_##type, &settings.member, what }
    ROW("PASH_NO_HOLEPUNCH", NULL, flag, no_holepunch, "1: ask neither STUN nor IMDS"),
    ROW("PASH_PUBLIC_ADDR", NULL, public_addr, public_addr, "IP:PORT, fallback; first local port"),
    ROW("PASH_PUBLIC_IP", NULL, public_ip, public_ip, "IP, fallback external address"),
    ROW("PASH_STUN_TIMEOUT_MS", "8000", ms, stun_ms, "longest that STUN may take; 0: none"),
    ROW("PASH_STUN_SERVER", "stun.l.google.com:19302", servers, stun, "[tcp:]HOST[:PORT],..."),
    ROW("PASH_RENDEZVOUS", NULL, place, rendezvous, "dir:PATH or dynamodb:TABLE; default below"),
    ROW("PASH_PEER_TIMEOUT_MS", "300000", ms, peer_ms, "longest wait for the peer"),
    ROW("PASH_CONNECT_TIMEOUT_MS", "30000", ms, connect_ms, "longest that connecting may take"),
    ROW("PASH_LOG", "info", level, log_level, "error, info or debug"),
    ROW("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254", url, imds, "IMDS"),
    ROW("AWS_EC2_METADATA_DISABLED", NULL, true, imds_off, "true: do not ask IMDS"),
    ROW("AWS_EC2_METADATA_V1_DISABLED", NULL, true, imds_v1_off, "true: IMDSv2 or nothing"),
    ROW("AWS_REGION", NULL, word, region, "region of the DynamoDB table"),
    ROW("AWS_DEFAULT_REGION", NULL, word, default_region, "the same, where AWS_REGION is not set"),
    ROW("AWS_ACCESS_KEY_ID", NULL, secret, creds.id, "credentials; else the instance role's"),
    ROW("AWS_SECRET_ACCESS_KEY", NULL, secret, creds.secret, "the secret that belongs to it"),
    ROW("AWS_SESSION_TOKEN", NULL, secret, creds.token, "the token, where it is temporary"),
    ROW("AWS_ENDPOINT_URL_DYNAMODB", NULL, url, dynamodb, "http://HOST[:PORT] of DynamoDB"),
    ROW("AWS_ENDPOINT_URL", NULL, url, any_service, "the same, for want of the former"),
};

/* Read the environment into `settings`. Every value is checked; an empty one counts as not set. 0:
 * some are wrong, and each was named in the log. */
static int settings_read(void)
{
    char place[PLACE_MAX + 64];
    Str tmp = getenv("TMPDIR");
    Why why;
    int good = 1;
    FOR_EACH(const Setting, t, setting_table, COUNT(setting_table)) {
        Str v = getenv(t->name);
        if (!v || !*v)
            v = t->unset;
        if (!v || t->parse(t->at, v, why))
            continue;
        if (strstr(t->name, "SECRET") || strstr(t->name, "TOKEN"))
            v = "(not shown)";
        COMPLAIN("%s is \"%s\": %s", t->name, v, why);
        good = 0;
    }
    if (!settings.region)
        settings.region = settings.default_region;
    if (settings.dynamodb.scheme == URL_UNSET)
        settings.dynamodb = settings.any_service;
    if (settings.rendezvous.kind != PLACE_UNSET)
        return good;
    if (!tmp || !*tmp)
        tmp = "/tmp";
    FORMAT(place, "dir:%s/pashlib-%lu", tmp, (unsigned long)geteuid());
    if (parse_place(&settings.rendezvous, settings.region ? "dynamodb:rdv" : place, why))
        return good;
    return COMPLAIN("TMPDIR is \"%s\": %s", tmp, why);
}

/* ---- 3. clock, sockets, jobs ------------------------------------------------------------------
 * Deadlines, poll(), sockets, and jobs: child processes for what would block, so that a deadline
 * can end it. Touches clocks, random numbers, sockets, the resolver, processes and signals. */

/* A moment of CLOCK_MONOTONIC. It is a struct, so that no duration can be passed for it. */
typedef struct { long long ms; } Deadline;

static long long clock_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static Deadline after(long long ms)
{
    return (Deadline){ clock_ms(CLOCK_MONOTONIC) + ms };
}

/* Give a day from now. Who uses it wakes up then, and waits again. */
static Deadline never(void)
{
    return after(MS_MAX);
}

static Deadline sooner(Deadline a, Deadline b)
{
    return a.ms < b.ms ? a : b;
}

static int ms_left(Deadline d)
{
    long long left = d.ms - clock_ms(CLOCK_MONOTONIC);
    return left < 0 ? 0 : (int)left;
}

static int over(Deadline d)
{
    return ms_left(d) == 0;
}

/* Say that WHAT failed with ERROR, and end the process, which cannot go on without it. */
static void die(Str what, errnum error)
{
    COMPLAIN("%s: %s", what, strerror(error));
    _exit(1);
}

static int is_transient(errnum e)
{
    return e == EAGAIN || e == EINTR;
}

/* Returns N objects of SIZE bytes, all zero, which the caller frees. Dies without memory. */
static void *allocate(int n, size_t size)
{
    void *p = calloc((size_t)n, size);
    if (!p) die("memory", errno);
    return p;
}

/* Wait until END for one of N descriptors; poll() skips those that are -1. Returns how many are
 * ready, as their revents tell; 0: END or a signal came first. */
static int wait_for(struct pollfd *fds, int n, Deadline end)
{
    int ready = poll(fds, (nfds_t)n, ms_left(end));
    if (ready >= 0) return ready;
    if (!is_transient(errno))
        die("poll", errno);
    TIMES(i, n)
        fds[i].revents = 0;
    return 0;
}

static struct pollfd watch(int fd, short events)
{
    return (struct pollfd){ fd, events, 0 };
}

static int wait_for_one(int fd, short events, Deadline end)
{
    struct pollfd one = watch(fd, events);
    return wait_for(&one, 1, end);
}

static void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void random_bytes(byte *p, size_t n)                     /* n: at most 256 */
{
    if (getentropy(p, n) < 0)
        die("no random numbers from the kernel", errno);
}

/* At debug, log a socket call: FMT has its arguments, ERROR its outcome. Returns ERROR. */
PRINTF(2) static errnum traced(errnum error, Str fmt, ...)
{
    char call[WHY_MAX];
    va_list args;
    if (settings.log_level < LOG_DEBUG) return error;
    va_start(args, fmt);
    vsnprintf(call, sizeof call, fmt, args);
    va_end(args);
    DEBUG("%s: %s", call, error ? strerror(error) : "done");
    return error;
}

/* Returns what errno says of a system call that gave RESULT, negative if it failed. */
static errnum error_of(long long result)
{
    return result < 0 ? errno : 0;
}

/* The outcome of a call that moves bytes. N: how many; ERROR: why it failed or moved nothing. */
typedef struct {
    enum { MOVED_FAILED, MOVED_END, MOVED_NOTHING, MOVED_SOME } what;
    size_t n;
    errnum error;
} Moved;

/* Judge N, which CALL on FD has just returned, and its errno. */
static Moved judge_moved(Str call, int fd, ssize_t n)
{
    errnum error = error_of(n);
    traced(error, "%s(%d) = %zd", call, fd, n);
    if (n > 0)
        return (Moved){ MOVED_SOME, (size_t)n, 0 };
    if (n == 0)
        return (Moved){ MOVED_END, 0, 0 };
    return (Moved){ is_transient(error) ? MOVED_NOTHING : MOVED_FAILED, 0, error };
}

static Moved socket_recv(int fd, void *p, size_t size)
{
    return judge_moved("recv", fd, recv(fd, p, size, 0));
}

static Moved socket_send(int fd, const void *p, size_t size, int flags)
{
    return judge_moved("send", fd, send(fd, p, size, MSG_NOSIGNAL | flags));
}

/* Send a message so small that the kernel's buffer always has room for it. ENOBUFS: it was cut. */
static errnum send_message(int fd, const void *p, size_t size)
{
    Moved out = socket_send(fd, p, size, 0);
    if (out.error) return out.error;
    return out.n == size ? 0 : ENOBUFS;
}

static errnum set_option(int fd, int level, int option, int value)
{
    errnum error = error_of(setsockopt(fd, level, option, &value, sizeof value));
    return traced(error, "setsockopt(%d, %d, %d, %d)", fd, level, option, value);
}

/* Make *FD a non-blocking socket for IPv6 and IPv4, or for IPv4 alone where the host has no IPv6.
 * After an error, *FD is -1. */
static errnum socket_open(int type, int *fd)
{
    *fd = socket(AF_INET6, type, 0);
    if (*fd >= 0 && set_option(*fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) != 0)
        close_fd(fd);
    if (*fd < 0)
        *fd = socket(AF_INET, type, 0);
    errnum error = error_of(*fd);
    if (!error) set_nonblocking(*fd);
    return traced(error, "socket(%s) = %d", type == SOCK_STREAM ? "TCP" : "UDP", *fd);
}

/* Make close() reset a TCP connection: after an orderly close, its two ports could not be joined
 * again for a minute (TIME_WAIT). */
static void reset_at_close(int fd)
{
    struct linger at_once = { 1, 0 };
    int failed = setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    traced(error_of(failed), "setsockopt(%d, SO_LINGER)", fd);
}

static void reset_fd(int *fd)
{
    if (*fd >= 0)
        reset_at_close(*fd);
    close_fd(fd);
}

/* Returns the address of FD, and sets *KERNEL to it. Before bind(): unspecified, with port 0. */
static Addr socket_address(int fd, KernelAddr *kernel)
{
    socklen_t len = sizeof *kernel;
    *kernel = (KernelAddr){ 0 };
    errnum error = error_of(getsockname(fd, SOCKADDR(kernel), &len));
    Addr a = addr_from_kernel(kernel);
    traced(error, "getsockname(%d) = %s", fd, SHOW(&a));
    return a;
}

/* Bind FD to PORT on all addresses; PORT 0 takes a free one. A socket that is not bound has the
 * unspecified address of its family, which is the one to bind. */
static errnum socket_bind(int fd, unsigned port)
{
    KernelAddr any;
    Addr a = socket_address(fd, &any);
    a.port = port;
    socklen_t len = addr_to_kernel(&a, any.ss_family, &any);
    errnum error = error_of(bind(fd, SOCKADDR(&any), len));
    return traced(error, "bind(%d, port %u)", fd, port);
}

/* Make *FD a socket on PORT, which it shares with other sockets of this process. After an error,
 * *FD is -1. */
static errnum socket_open_on(unsigned port, int type, int *fd)
{
    errnum error = socket_open(type, fd);
    if (!error)
        error = set_option(*fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (!error)
        error = set_option(*fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (!error)
        error = socket_bind(*fd, port);
    if (error) close_fd(fd);
    return error;
}

/* Connect without waiting. EINPROGRESS: poll() will tell. */
static errnum socket_connect(int fd, const Addr *to)
{
    KernelAddr kernel;
    errnum error = EAFNOSUPPORT;
    socket_address(fd, &kernel);
    socklen_t len = addr_to_kernel(to, kernel.ss_family, &kernel);
    if (len)
        error = error_of(connect(fd, SOCKADDR(&kernel), len));
    return traced(error, "connect(%d, %s)", fd, SHOW(to));
}

/* Returns the outcome of a connect() that was in progress; 0: FD is connected. */
static errnum socket_error(int fd)
{
    errnum error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    return traced(error, "getsockopt(%d, SO_ERROR)", fd);
}

/* Say to the peer that nothing more comes. */
static errnum socket_shutdown(int fd)
{
    return traced(error_of(shutdown(fd, SHUT_WR)), "shutdown(%d)", fd);
}

/* A job: a child process, and a stream socket that leads to it. PID 0: it does not run. */
typedef struct { pid_t pid; int fd; } Job;
typedef void Run(int fd, const void *arg);

/* Start a child that calls RUN(its end of a socket pair, ARG). On Linux, the child ends with its
 * parent. In the child, to write where nobody reads is an error, EPIPE, and no signal. */
static int job_start(Job *j, Run *run, const void *arg, Why why)
{
    int pair[2];                            /* ours, the child's */
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        return FAIL(why, "socketpair: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0) {
        NOTE(why, "fork: %s", strerror(errno));
        close(pair[0]);
        close(pair[1]);
        return 0;
    }
    if (child == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        if (getppid() != parent)
            _exit(1);                                          /* the parent ended before prctl() */
        signal(SIGPIPE, SIG_IGN);
        close(pair[0]);
        run(pair[1], arg);
        _exit(0);
    }
    close(pair[1]);
    *j = (Job){ child, pair[0] };
    return 1;
}

static void job_end(Job *j)
{
    if (!j->pid) return;
    kill(j->pid, SIGKILL);
    while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    close_fd(&j->fd);
    j->pid = 0;
}

/* Read a job's answer, a struct of SIZE bytes. 0: the job ended without one. */
static int job_read(int fd, void *p, size_t size)
{
    ssize_t n;
    do n = recv(fd, p, size, MSG_WAITALL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)size;
}

#define LOOKUP_MAX 8
typedef struct { int n; Addr list[LOOKUP_MAX]; Why why; } Lookup;   /* n 0: none, see WHY */

/* Look H up: a literal at once, a name by the resolver, which may take any time. IPv4 addresses
 * come first. */
static void lookup_now(const Host *h, Lookup *found)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    found->list[0].port = h->port;
    if (ip_parse(h->name, &found->list[0])) {
        found->n = 1;
        return;
    }
    int error = getaddrinfo(h->name, NULL, &hints, &list);
    NOTE(found->why, "name look-up of %s: %s", h->name,
         error ? gai_strerror(error) : "no address");
    for (int v4 = 1; v4 >= 0; v4--)
        for (struct addrinfo *i = list; i && found->n < LOOKUP_MAX; i = i->ai_next) {
            Addr *a = &found->list[found->n];
            *a = addr_from_kernel((void *)i->ai_addr);
            a->port = h->port;
            found->n += addr_is_v4(a) == v4 && addr_usable(a);
        }
    if (list)
        freeaddrinfo(list);
}

static void lookup_job(int fd, const void *arg)
{
    Lookup found = { 0 };
    lookup_now(arg, &found);
    write_once(fd, &found, sizeof found);
}

/* ---- 4. STUN (RFC 8489): ask a server from which address it sees us ---------------------------
 * Decoding is pure; stun_start(), stun_send() and stun_event() touch the network (UDP, TCP). */

#define STUN_HEADER 20                      /* bytes */
#define STUN_ID 12                          /* bytes */
#define STUN_MAX 2048                       /* bytes of a message */
#define STUN_SENDS 5                        /* transmissions of a request by UDP */
#define STUN_RTO_MS 500                     /* from the first to the second */
#define STUN_COOKIE 0x2112a442
#define STUN_RESPONSE 0x0101                /* message types */
#define STUN_ERROR_RESPONSE 0x0111
#define MAPPED_ADDRESS 0x0001               /* kinds of attributes */
#define ERROR_CODE 0x0009
#define XOR_MAPPED_ADDRESS 0x0020
typedef enum { STUN_DROP, STUN_ADDRESS, STUN_ERROR } Stun;

/* An attribute (RFC 8489, 14): kind u16, size u16, the value, padding to 4 bytes. */
typedef struct { unsigned kind; size_t size; const byte *value; } Attribute;

/* Take the attribute at *AT of the LEN bytes at M, and move *AT on. a->value points into M. */
static int stun_attribute(const byte *m, size_t len, size_t *at, Attribute *a, Why why)
{
    if (len - *at < 4)
        return FAIL(why, "an attribute is cut in its header");
    a->kind = (unsigned)get(m + *at, 2);
    a->size = (size_t)get(m + *at + 2, 2);
    a->value = m + *at + 4;
    *at += 4 + (a->size + 3) / 4 * 4;
    if (*at > len)
        return FAIL(why, "attribute 0x%04x runs past the end", a->kind);
    return 1;
}

/* Decode (XOR-)MAPPED-ADDRESS (RFC 8489, 14.1 and 14.2): a zero byte, the family, the port, and 4
 * or 16 bytes of address. XOR has 16 bytes: the cookie and the id, or zeros. */
static int stun_address(const Attribute *v, const byte *xor, Addr *a, Why why)
{
    int v4 = v->size == 8 && v->value[1] == 1;
    int v6 = v->size == 20 && v->value[1] == 2;
    if (!v4 && !v6)
        return FAIL(why, "its address is malformed");
    int n = v4 ? 4 : 16;
    memcpy(a->ip, v4_prefix, 12);
    TIMES(i, n)
        a->ip[16 - n + i] = v->value[4 + i] ^ xor[i];
    a->port = (unsigned)get(v->value + 2, 2);
    a->port ^= (unsigned)get(xor, 2);
    if (!addr_usable(a))
        return FAIL(why, "its address cannot be ours");
    return 1;
}

/* Decode ERROR-CODE (RFC 8489, 14.8): two bytes, class, number, reason phrase. 1: WHY has the
 * number and the phrase. 0: it is too short, and WHY stays as it is. */
static int stun_error_code(const Attribute *v, Why why)
{
    if (v->size < 4) return 0;
    int phrase = v->size > 132 ? 128 : (int)v->size - 4;
    int code = (v->value[2] & 7) * 100 + v->value[3];
    NOTE(why, "error %d %.*s", code, phrase, v->value + 4);
    return 1;
}

/* Decode the LEN bytes at M, an answer to our request ID (STUN_ID bytes; RFC 8489, 5, 6.3.3, 6.3.4,
 * 14). STUN_ADDRESS: *A is set. STUN_ERROR: WHY has the server's code and reason. STUN_DROP: the
 * caller waits on, since a bad answer may be forged. */
static Stun stun_decode(const byte *m, size_t len, const byte *id, Addr *a, Why why)
{
    byte xor[16], zero[16] = { 0 };
    size_t at = STUN_HEADER;
    Attribute v;
    int has_exact = 0, has_plain = 0, has_code = 0;
    Why code = "an error without a code";
    put(xor, 4, STUN_COOKIE);
    memcpy(xor + 4, id, STUN_ID);
    if (len < STUN_HEADER)
        return FAIL(why, "%zu bytes are no STUN header", len);
    uint64_t type = get(m, 2);
    int type_is_good = type == STUN_RESPONSE || type == STUN_ERROR_RESPONSE;
    if (!type_is_good || get(m + 2, 2) != len - STUN_HEADER
        || memcmp(m + 4, xor, sizeof xor) != 0)
        return FAIL(why, "not an answer to our request");
    while (at < len) {
        if (!stun_attribute(m, len, &at, &v, why))
            return STUN_DROP;
        if (v.kind == XOR_MAPPED_ADDRESS && !has_exact) {
            has_exact = stun_address(&v, xor, a, why);
            if (!has_exact) return STUN_DROP;
        }
        if (v.kind == MAPPED_ADDRESS && !has_exact && !has_plain)
            has_plain = stun_address(&v, zero, a, why);
        if (v.kind == ERROR_CODE && !has_code)
            has_code = stun_error_code(&v, code);
    }
    if (type == STUN_ERROR_RESPONSE) {
        NOTE(why, "%s", code);
        return has_code ? STUN_ERROR : STUN_DROP;
    }
    if (!has_exact && !has_plain)
        return FAIL(why, "no address in it");
    return STUN_ADDRESS;
}

/* A server. JOB looks its name up; FOUND is what it found. */
typedef struct { const Host *host; Job job; Lookup found; } Server;

/* A question to one server for one stream. Its addresses are asked one after the other. */
typedef struct {
    Server *server;
    unsigned port;                          /* of the stream, from which it asks */
    enum {
        QUERY_BEGINS,                       /* the server's next address is to be asked */
        QUERY_CONNECTS,                     /* by TCP: poll() tells when it can be asked */
        QUERY_ASKED, QUERY_ANSWERED, QUERY_FAILED
    } state;
    int fd, next, sent;                /* next: index into the server's addresses; sent: requests */
    byte id[STUN_ID], in[STUN_MAX];
    size_t have;                            /* bytes of an answer in IN */
    Deadline resend;
    Addr asked, mapped;                     /* the server's address; ours, as it sees it */
    Why why;
} Query;

/* Give up this address of the server because of WHY; the next one is then asked. */
static void stun_address_failed(Query *q, Str why)
{
    NOTE(q->why, "%s", why);
    reset_fd(&q->fd);
    q->state = QUERY_BEGINS;
}

/* Send the request: by UDP after 0, 500, 1500, 3500 and 7500 ms (RFC 8489, 6.2.1), by TCP once
 * (6.2.2). A Binding request is a header without attributes (RFC 8489, 5). */
static void stun_send(Query *q)
{
    byte m[STUN_HEADER] = { 0, 1, 0, 0 };
    put(m + 4, 4, STUN_COOKIE);
    memcpy(m + 8, q->id, STUN_ID);
    q->sent++;
    q->state = QUERY_ASKED;
    q->resend = never();
    if (!q->server->host->tcp && q->sent < STUN_SENDS)
        q->resend = after(STUN_RTO_MS << (q->sent - 1));
    Moved out = socket_send(q->fd, m, sizeof m, 0);
    if (out.what == MOVED_FAILED)
        stun_address_failed(q, strerror(out.error));
}

/* Ask the next of the server's addresses. */
static void stun_start(Query *q)
{
    const Lookup *found = &q->server->found;
    int tcp = q->server->host->tcp;
    if (found->n == 0)
        NOTE(q->why, "%s", found->why);
    if (q->next == found->n) {
        q->state = QUERY_FAILED;
        return;
    }
    q->asked = found->list[q->next];
    q->next++;
    q->sent = 0;
    q->have = 0;
    random_bytes(q->id, sizeof q->id);
    errnum error = socket_open_on(q->port, tcp ? SOCK_STREAM : SOCK_DGRAM, &q->fd);
    if (!error)
        error = socket_connect(q->fd, &q->asked);
    q->state = QUERY_CONNECTS;
    if (error && error != EINPROGRESS)
        stun_address_failed(q, strerror(error));
    else if (!tcp) stun_send(q);
    else reset_at_close(q->fd);             /* however we end, the port may ask again at once */
}

/* Returns the size of the message that comes: by UDP the maximum, by TCP as its header says. */
static size_t stun_size(const Query *q)
{
    if (!q->server->host->tcp)
        return STUN_MAX;
    if (q->have < STUN_HEADER)
        return STUN_HEADER;
    return STUN_HEADER + (size_t)get(q->in + 2, 2);
}

/* Take what poll() reports for Q: a datagram, or what has come by TCP. An error of the socket (an
 * ICMP message, a local firewall, a reset) ends this address of the server, and so does a message
 * that cannot be framed; an error response ends the server. Any other bad answer is dropped, and
 * the wait goes on. */
static void stun_event(Query *q)
{
    int tcp = q->server->host->tcp;
    if (q->state == QUERY_CONNECTS) {
        errnum error = socket_error(q->fd);
        if (error)
            stun_address_failed(q, strerror(error));
        else
            stun_send(q);
        return;
    }
    size_t want = stun_size(q) - q->have;
    Moved in = socket_recv(q->fd, q->in + q->have, want);
    if (in.what == MOVED_NOTHING) return;
    q->have += in.n;
    Str failed = NULL;
    if (in.what == MOVED_FAILED)
        failed = strerror(in.error);
    if (in.what == MOVED_END && tcp)
        failed = "it closed the connection";
    if (stun_size(q) > STUN_MAX)
        failed = "its answer is too long";
    if (failed) {
        stun_address_failed(q, failed);
        return;
    }
    if (tcp && q->have < stun_size(q)) return;
    Stun got = stun_decode(q->in, q->have, q->id, &q->mapped,
                           q->why);
    q->have = 0;
    if (got == STUN_ADDRESS) q->state = QUERY_ANSWERED;
    if (got == STUN_ERROR) q->state = QUERY_FAILED;
}

/* ---- 5. HTTP, JSON, and the instance metadata service (IMDS) ----------------------------------
 * Decoding is pure; http_ask() touches the network (TCP), imds_get() also the resolver. Jobs ask
 * IMDS one step after the other; see AWS, "Use the Instance Metadata Service to access instance
 * metadata". */

#define HTTP_MAX (1 << 20)                  /* bytes of a response */
#define IMDS_MAX 16384                      /* bytes of a response of IMDS */
#define IMDS_S 2                            /* seconds; longest that a question to IMDS may take */
#define IMDS_MS (1000 * IMDS_S)
#define IMDS_TOKEN_MS 1000                  /* longest that its token may take */
typedef enum { HTTP_BAD, HTTP_MORE, HTTP_DONE } Http;           /* what a message is so far */

/* A response in the MAX bytes at M. */
typedef struct { char *m; size_t max; int status; char *body; size_t size; } Response;

/* Measure the LEN bytes at BODY, a body in chunks (RFC 9112, 7.1); JOIN: also move the chunks
 * together. HTTP_DONE: the body has *SIZE bytes. HTTP_MORE: its end has not come. */
static Http http_chunks(char *body, size_t len, int join, size_t *size, Why why)
{
    char *p = body, *end = body + len;
    unsigned long n = 1;
    *size = 0;
    while (n) {
        char *eol = memchr(p, '\n', (size_t)(end - p));
        if (!eol) return HTTP_MORE;
        size_t digits = strspn(p, HEX_DIGITS);
        if (digits < 1 || digits > 6 || !memchr("; \t\r\n", p[digits], 5))      /* 0x is no size */
            return FAIL(why, "a chunk without a size");
        n = strtoul(p, NULL, 16);
        p = eol + 1;
        if ((size_t)(end - p) < n + 2)
            return HTTP_MORE;                                 /* 2: the line end behind the chunk */
        if (n && memcmp(p + n, "\r\n", 2) != 0)
            return FAIL(why, "a chunk without its line end");
        if (join)
            memmove(body + *size, p, n);
        *size += n;
        p += n + 2;
    }
    return HTTP_DONE;
}

/* Returns the value of the header NAME, which includes its colon, or NULL. The value runs to its
 * CR. HEAD is a whole head, up to the empty line. */
static Str http_header(Str head, Str name)
{
    size_t len = strlen(name);
    for (Str line = head; *line != '\r'; line = strchr(line, '\n') + 1)
        if (strncasecmp(line, name, len) == 0)
            return line + len + strspn(line + len, " \t");
    return NULL;
}

/* Decode an HTTP/1.x response (RFC 9112), the LEN bytes at r->m and a NUL. ENDED: the server has
 * closed, which ends a body without a length. HTTP_DONE: the rest of *R is set. */
static Http http_decode(Response *r, size_t len, int ended, Why why)
{
    char *m = r->m, *end = strstr(m, "\r\n\r\n"), code[4] = "";
    unsigned long n;
    if (!end)
        return ended ? FAIL(why, "the answer is cut in its head") : HTTP_MORE;
    if (end - m >= 12)
        memcpy(code, m + 9, 3);
    if (!begins_with(m, "HTTP/1.") || m[8] != ' '
        || !number(code, 599, &n) || n < 100)
        return FAIL(why, "it is no HTTP response");
    r->status = (int)n;
    r->body = end + 4;
    size_t have = len - (size_t)(r->body - m);
    r->size = have;
    if (http_header(m, "Transfer-Encoding:")) {
        Http got = http_chunks(r->body, have, 0, &r->size, why);
        if (got == HTTP_DONE)
            return http_chunks(r->body, have, 1, &r->size, why);
        if (got == HTTP_MORE && ended)
            return FAIL(why, "the body is cut in its chunks");
        return got;
    }
    Str length = http_header(m, "Content-Length:");
    if (!length) return ended ? HTTP_DONE : HTTP_MORE;
    size_t digits = strspn(length, "0123456789");
    n = digits ? strtoul(length, NULL, 10) : ULONG_MAX;    /* strtoul() would skip the line's end */
    if (!memchr(" \t\r\n", length[digits], 4) || n > HTTP_MAX) {
        return FAIL(why, "Content-Length is \"%.*s\"",
                    (int)strcspn(length, " \t\r\n"), length);
    }
    r->size = n;
    if (have >= n) return HTTP_DONE;
    return ended ? FAIL(why, "the body is cut: %zu of %lu bytes", have, n) : HTTP_MORE;
}

/* Connect *FD, which the caller closes, to the first of the addresses TO that accepts, until
 * END. */
static int http_connect(const Lookup *to, Deadline end, int *fd, Why why)
{
    if (!to->n)
        NOTE(why, "%s", to->why);
    TIMES(i, to->n) {
        Deadline share = after(ms_left(end) / (to->n - i));     /* for the others some time, too */
        errnum error = socket_open(SOCK_STREAM, fd);
        if (!error)
            error = socket_connect(*fd, &to->list[i]);
        if (error == EINPROGRESS)
            error = wait_for_one(*fd, POLLOUT, share) ? socket_error(*fd) : ETIMEDOUT;
        if (!error) return 1;
        close_fd(fd);
        NOTE(why, "%s: %s", SHOW(&to->list[i]), strerror(error));
    }
    return 0;
}

static int http_send(int fd, Str request, Deadline end, Why why)
{
    while (*request && !over(end)) {
        wait_for_one(fd, POLLOUT, end);
        Moved out = socket_send(fd, request, strlen(request), 0);
        if (out.what == MOVED_FAILED)
            return FAIL(why, "%s", strerror(out.error));
        request += out.n;
    }
    if (*request)
        return FAIL(why, "the request could not be sent in time");
    return 1;
}

/* Receive a response into *R, with a NUL behind its body. */
static int http_receive(int fd, Response *r, Deadline end, Why why)
{
    size_t have = 0;
    Http got = HTTP_MORE;
    while (got == HTTP_MORE) {
        if (over(end))
            return FAIL(why, "no whole answer in time");
        if (have == r->max - 1)
            return FAIL(why, "the answer is too long");
        wait_for_one(fd, POLLIN, end);
        Moved in = socket_recv(fd, r->m + have, r->max - 1 - have);
        if (in.what == MOVED_NOTHING) continue;
        if (in.what == MOVED_FAILED)
            return FAIL(why, "%s", strerror(in.error));
        have += in.n;
        r->m[have] = 0;
        got = http_decode(r, have, in.what == MOVED_END, why);
    }
    if (got == HTTP_BAD) return 0;
    r->body[r->size] = 0;
    return 1;
}

/* Send REQUEST to TO and receive the answer into *R. If not ASKED_DONE, WHY has the reason. */
typedef enum { ASKED_NOT_CONNECTED, ASKED_NO_ANSWER, ASKED_DONE } Asked;
static Asked http_ask(const Lookup *to, Str request, Response *r, Deadline end, Why why)
{
    int fd;
    if (!http_connect(to, end, &fd, why))
        return ASKED_NOT_CONNECTED;
    int done = http_send(fd, request, end, why) && http_receive(fd, r, end, why);
    close_fd(&fd);
    return done ? ASKED_DONE : ASKED_NO_ANSWER;
}

/* A JSON text (RFC 8259) that is being read. */
typedef struct { Str at, end; } Json;

static int json_next(Json *j)               /* the next character; 0: the end */
{
    return j->at < j->end ? (byte)*j->at++ : 0;
}

static int json_peek(Json *j)               /* the next one behind white space, not taken */
{
    while (j->at < j->end && memchr(" \t\r\n", *j->at, 4))
        j->at++;
    return j->at < j->end ? (byte)*j->at : 0;
}

static int json_eat(Json *j, int c)         /* take C, if it is the next one behind white space */
{
    return json_peek(j) == c && json_next(j);
}

/* Take what follows a backslash. Returns the character that it stands for, '?' for one that is not
 * ASCII (nothing that is read here needs one), or 0: it is no escape. */
static int json_escape(Json *j)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char digits[5] = "";
    int name = json_next(j);
    if (name == 'u') {
        TIMES(i, 4)
            digits[i] = (char)json_next(j);
        if (strspn(digits, HEX_DIGITS) != 4)
            return 0;
        long c = strtol(digits, NULL, 16);
        return c < 0x80 ? (int)c : '?';
    }
    Str found = memchr(names, name, sizeof names - 1);
    return found ? values[found - names] : 0;
}

/* Take a string, and write as much of it as fits into OUT (MAX bytes). It ends in a NUL only if all
 * of it fits. Returns how many bytes it needs, NUL included; 0: it is no string. */
static size_t json_string(Json *j, char *out, size_t max)
{
    size_t n = 0;
    int c;
    if (!json_eat(j, '"'))
        return 0;
    while ((c = json_next(j)) != '"') {
        if (c < 0x20) return 0;
        if (c == '\\')
            c = json_escape(j);
        if (c == 0) return 0;
        if (n + 1 < max)
            out[n] = (char)c;
        n++;
    }
    if (n < max)
        out[n] = 0;
    return n + 1;
}

/* Skip a value of any kind, up to the comma or bracket that follows it. Between brackets, only
 * strings are checked: they must end. */
static int json_skip(Json *j)
{
    int depth = 0, c;
    while ((c = json_peek(j))) {
        if (depth == 0 && strchr(",}]", c))
            return 1;
        if (strchr("{[", c))
            depth++;
        if (strchr("}]", c))
            depth--;
        if (c != '"') j->at++;
        else if (!json_string(j, NULL, 0))
            return 0;
    }
    return 0;
}

/* Go to the value of the first member that is called NAME (LEN bytes, 63 at most). */
static int json_member(Json *j, Str name, size_t len)
{
    char found[64];
    if (!json_eat(j, '{'))
        return 0;
    do {
        size_t size = json_string(j, found, sizeof found);
        if (!size || !json_eat(j, ':'))
            return 0;
        if (size == len + 1 && memcmp(found, name, len) == 0)
            return 1;
        if (!json_skip(j)) return 0;
    } while (json_eat(j, ','));
    return 0;
}

/* Find the string at PATH in the LEN bytes at TEXT. PATH: names of members (63 bytes at most) with
 * '/' between. 1: it is in OUT (MAX bytes with a NUL). 0: there is none, or it is longer. */
static int json_find(Str text, size_t len, Str path, char *out, size_t max)
{
    Json j = { text, text + len };
    while (*path) {
        size_t n = strcspn(path, "/");
        if (!json_member(&j, path, n))
            return 0;
        path += n;
        if (*path) path++;
    }
    size_t size = json_string(&j, out, max);
    return size > 0 && size <= max;
}

#define FIND(r, path, array) json_find((r)->body, (r)->size, path, array, sizeof (array))

/* Ask IMDS for a token. IMDS_V2: it is the body of *R. IMDS_V1: WHY says why there is none, and
 * IMDSv1 may be asked. */
typedef enum { IMDS_NEITHER, IMDS_V1, IMDS_V2 } Imds;
static Imds imds_token(const Lookup *to, Response *r, Deadline end, Why why)
{
    char request[sizeof settings.imds + 256];
    FORMAT(request, "PUT %s/latest/api/token HTTP/1.0\r\nHost: %s\r\n"
             "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
             settings.imds.path, settings.imds.authority);
    end = sooner(end, after(IMDS_TOKEN_MS));
    if (http_ask(to, request, r, end, why) != ASKED_DONE)
        return IMDS_V1;
    int s = r->status;
    if (s != 200) {
        NOTE(why, "PUT /latest/api/token: status %d", s);
        return s == 401 || s == 403 || s == 404 || s == 405 || s >= 500 ? IMDS_V1 : IMDS_NEITHER;
    }
    if (r->size && strlen(r->body) == r->size && printable(r->body))
        return IMDS_V2;
    return FAIL(why, "its token is empty, or not ASCII");
}

/* GET PATH from IMDS, by IMDSv2, or by v1 if there is no token. 1: the body of *R is what stands
 * there. ABSENT: what it means if nothing does (status 404). */
static int imds_get(Str path, Str absent, Response *r, Deadline end, Why why)
{
    char request[IMDS_MAX + sizeof settings.imds + 256];        /* room for a token out of *R */
    Why refusal;
    Text t = TEXT(request);
    Lookup to = { 0 };
    lookup_now(&settings.imds.host, &to);
    Imds version = imds_token(&to, r, end, refusal);
    if (version == IMDS_NEITHER)
        return FAIL(why, "%s", refusal);
    if (version == IMDS_V1 && settings.imds_v1_off)
        return FAIL(why, "%.400s, and AWS_EC2_METADATA_V1_DISABLED is true", refusal);
    add(&t, "GET %s%s HTTP/1.0\r\n", settings.imds.path, path);
    add(&t, "Host: %s\r\n", settings.imds.authority);
    if (version == IMDS_V2)
        add(&t, "X-aws-ec2-metadata-token: %s\r\n", r->body);
    add(&t, "\r\n");
    if (http_ask(&to, request, r, end, why) != ASKED_DONE)
        return 0;
    if (r->status == 404)
        return FAIL(why, "%s", absent);
    if (r->status != 200)
        return FAIL(why, "GET %s: status %d", path, r->status);
    return 1;
}

/* Ask IMDS for the public IPv4 address of this instance. */
static int imds_public_ip(Addr *a, Deadline end, Why why)
{
    char m[IMDS_MAX];
    Response r = { m, sizeof m, 0, NULL, 0 };
    if (!imds_get("/latest/meta-data/public-ipv4", "this instance has no public IPv4 address",
                  &r, end, why))
        return 0;
    size_t len = strcspn(r.body, " \t\r\n");
    int alone = len + strspn(r.body + len, " \t\r\n") == r.size;
    r.body[len] = 0;
    if (alone && !strchr(r.body, ':')
        && ip_parse(r.body, a) && ip_usable(a))
        return 1;
    return FAIL(why, "\"%.64s\" is no public IPv4 address", r.body);
}

/* Job: answer with what imds_public_ip() finds, as a Lookup. ARG: the deadline. */
static void imds_job(int fd, const void *arg)
{
    Lookup found = { 0 };
    const Deadline *end = arg;
    found.n = imds_public_ip(&found.list[0], *end, found.why);
    write_once(fd, &found, sizeof found);
}

/* Fetch the credentials of the instance's role from IMDS. */
static int creds_fetch(Creds *c, Why why)
{
    static const char base[] = "/latest/meta-data/iam/security-credentials/";
    static const char no_role[] = "this instance has no role";
    char m[IMDS_MAX], path[sizeof base + 128], code[64] = "none";
    Response r = { m, sizeof m, 0, NULL, 0 };
    if (settings.imds_off)
        return FAIL(why, "AWS_EC2_METADATA_DISABLED is true");
    /* Each question has its own time, since each may wait for a token. */
    if (!imds_get(base, no_role, &r, after(IMDS_MS), why))
        return 0;
    int role = (int)strcspn(r.body, " \t\r\n?#");
    if (role == 0)
        return FAIL(why, "%s", no_role);
    FORMAT(path, "%s%.*s", base, role, r.body);
    if (!imds_get(path, no_role, &r, after(IMDS_MS), why))
        return 0;
    FIND(&r, "Code", code);
    if (!equal(code, "Success"))
        return FAIL(why, "GET %s: its Code is %s", path, code);
    if (FIND(&r, "AccessKeyId", c->id)
        && FIND(&r, "SecretAccessKey", c->secret)
        && FIND(&r, "Token", c->token)
        && FIND(&r, "Expiration", c->until)
        && printable(c->id) && printable(c->token)) return 1;
    return FAIL(why, "GET %s: a member is missing or malformed", path);
}

/* Job: answer with the credentials of the instance's role, as a Creds. */
static void creds_job(int fd, const void *unused)
{
    Creds c = { .id = "" };
    (void)unused;
    if (!creds_fetch(&c, c.why))
        c.id[0] = 0;
    write_once(fd, &c, sizeof c);
}

/* ---- 6. discovery: the address that others see, for all streams at once -----------------------
 * STUN has a head start; then the fallback chain is asked too: PASH_PUBLIC_ADDR, PASH_PUBLIC_IP,
 * IMDS, the local address. Touches the network: listens on one port for each stream, and asks STUN.
 * Jobs ask the resolver and IMDS. */

#define HEAD_START_MS 750                   /* of STUN before the fallback chain */
#define CREDS_S (2 * IMDS_S + 1)            /* longest that the role's credentials may take */
#define CREDS_MS (1000 * CREDS_S)
#define TICK_MS 20                          /* longest wait of a turn */
/* Each descriptor has its place in an array of pollfds: jobs of servers, two others, queries. */
#define AT_IMDS SERVERS_MAX
#define AT_CREDS (SERVERS_MAX + 1)
#define AT_QUERIES (SERVERS_MAX + 2)

typedef enum { SOURCE_UNKNOWN, SOURCE_STUN, SOURCE_PUBLIC_ADDR, SOURCE_PUBLIC_IP, SOURCE_IMDS,
               SOURCE_LOCAL } Source;
typedef enum { MAPPING_UNKNOWN, MAPPING_INDEPENDENT, MAPPING_DEPENDENT } Mapping;

typedef struct {
    int sends;                              /* 1: from PATH to the peer; 0: from the peer to PATH */
    Str role, key, path;          /* role: "send" or "recv" */
    unsigned me, peer;                      /* node numbers */
    int streams;                            /* how many this process carries */
    int listener, udp;                      /* on the stream's port; -1: none */
    int stun;                               /* TCP to the server that gave the address; -1: none */
    Addr local, external;                   /* what the peer is told */
    Query *queries;                         /* one to each server */
    Source source;                          /* of the external address */
    Mapping mapping;                        /* how the NAT maps */
    Job child, rdv;                         /* its processes */
    Deadline rdv_end;                       /* of RDV, once CHILD has ended */
} Stream;

typedef struct {
    Stream *streams;
    int n;
    Server servers[SERVERS_MAX];
    int n_servers, n_queries;               /* n_servers of them are asked */
    Query *queries;                         /* of the first stream, of the second ... */
    struct pollfd *fds;
    Job imds_job, creds_job;                /* creds_job fills settings.creds */
    Lookup imds;                            /* what imds_job found */
    int imds_asked;
    Deadline head, end, imds_end, creds_end;         /* of the head start, of STUN, of the jobs */
} Discovery;

/* Log lines are about S from now on; NULL: about the process. */
static void log_stream(const Stream *s)
{
    log_state.role = s ? s->role : NULL;
    log_state.key = s ? s->key : NULL;
}

/* Take PORT (0: any that is free) for S, with TCP and UDP. Both are bound unshared, so that no two
 * processes get the same port; after that, sockets that connect from it may share it. SO_REUSEADDR
 * lets us past what closed connections leave, never past another listener. After an error, both
 * sockets may be open. */
static errnum port_try(Stream *s, unsigned port)
{
    KernelAddr kernel;
    errnum error = socket_open(SOCK_STREAM, &s->listener);
    if (!error)
        error = set_option(s->listener, SOL_SOCKET, SO_REUSEADDR, 1);
    if (!error)
        error = socket_bind(s->listener, port);
    if (!error)
        error = traced(error_of(listen(s->listener, 128)), "listen(%d)", s->listener);
    if (!error)
        error = socket_open(SOCK_DGRAM, &s->udp);
    if (error) return error;
    s->local.port = socket_address(s->listener, &kernel).port;
    error = socket_bind(s->udp, s->local.port);
    if (!error)
        error = set_option(s->udp, SOL_SOCKET, SO_REUSEPORT, 1);
    if (!error)
        error = set_option(s->listener, SOL_SOCKET, SO_REUSEPORT, 1);
    return error;
}

/* Take a port for S: FIRST, or the next one that is free; FIRST 0: any that is free. */
static int port_take(Stream *s, unsigned first, Why why)
{
    unsigned port = first;
    TIMES(tries, 65536 - (int)first) {
        errnum error = port_try(s, port);
        if (!error) return 1;
        if (error != EADDRINUSE)
            return FAIL(why, "port %u: %s", port, strerror(error));
        close_fd(&s->listener);
        close_fd(&s->udp);
        if (first) port++;
    }
    if (!first)
        return FAIL(why, "no port is free");
    return FAIL(why, "no port is free from %u (PASH_PUBLIC_ADDR) on", settings.public_addr.port);
}

/* Set local->ip to the address that the kernel sends from to TO. A UDP connect() sends nothing. */
static int local_towards(const Addr *to, Addr *local)
{
    KernelAddr kernel;
    Addr from = { { 0 }, 0 };
    int fd;
    errnum error = socket_open(SOCK_DGRAM, &fd);
    if (!error)
        error = socket_connect(fd, to);
    if (!error)
        from = socket_address(fd, &kernel);
    close_fd(&fd);
    if (error || !ip_usable(&from))
        return 0;
    memcpy(local->ip, from.ip, sizeof from.ip);
    return 1;
}

/* Set local->ip to our address towards the outside (addresses for documentation, RFC 5737 and
 * 3849), else towards a STUN server, else to loopback. It is never the unspecified one. */
static void local_address(const Discovery *d, Addr *local)
{
    Addr to = { { 0 }, 9 };
    if (ip_parse("203.0.113.1", &to) && local_towards(&to, local))
        return;
    if (ip_parse("2001:db8::1", &to) && local_towards(&to, local))
        return;
    FOR_EACH(const Query, q, d->queries, d->n_queries)
        if (q->next > 0 && local_towards(&q->asked, local))     /* it was asked */
            return;
    ip_parse("127.0.0.1", local);
}

/* Tell how the NAT maps stream S. It takes two answers by the same protocol, from different servers
 * and with addresses of one family (RFC 5780, 4.3). */
static Mapping mapping_of(const Discovery *d, const Stream *s)
{
    Mapping found = MAPPING_UNKNOWN;
    FOR_EACH(const Query, a, s->queries, d->n_servers)
        FOR_EACH(const Query, b, s->queries, d->n_servers) {
            int both = a->state == QUERY_ANSWERED && b->state == QUERY_ANSWERED;
            int alike = addr_is_v4(&a->mapped) == addr_is_v4(&b->mapped)
                     && a->server->host->tcp == b->server->host->tcp;
            if (!both || !alike || addr_same(&a->asked, &b->asked))
                continue;
            if (!addr_same(&a->mapped, &b->mapped))
                return MAPPING_DEPENDENT;
            if (!ip_same(&a->asked, &b->asked))
                found = MAPPING_INDEPENDENT;
        }
    return found;
}

static void set_external(Stream *s, Source source, const Addr *ip, unsigned port)
{
    s->source = source;
    s->external = *ip;
    s->external.port = port;
}

/* Decide on the external address of S by the fallback chain, if the chain has one; when it is
 * IMDS's turn, start to ask it. STUN_OVER: STUN can give no address any more. */
static void decide_by_fallback(Discovery *d, Stream *s, int stun_over)
{
    unsigned port = s->local.port;
    if (settings.public_addr.port)
        set_external(s, SOURCE_PUBLIC_ADDR, &settings.public_addr, port);
    else if (ip_usable(&settings.public_ip))
        set_external(s, SOURCE_PUBLIC_IP, &settings.public_ip, port);
    else {
        if (!d->imds_asked && !settings.no_holepunch) {
            d->imds_asked = 1;
            d->imds_end = after(IMDS_MS);
            if (settings.imds_off)
                NOTE(d->imds.why, "AWS_EC2_METADATA_DISABLED is true");
            else
                job_start(&d->imds_job, imds_job, &d->imds_end, d->imds.why);
        }
        if (d->imds.n)
            set_external(s, SOURCE_IMDS, &d->imds.list[0], port);
        else if (stun_over && !d->imds_job.pid)
            set_external(s, SOURCE_LOCAL, &s->local, port);
    }
}

/* Returns the first of S's queries over TCP (TCP 1) or UDP (0) that has an answer, else NULL.
 * *OPEN is set to 1 if there is one that may still get an answer. */
static Query *answer_by(const Discovery *d, const Stream *s, int tcp, int *open)
{
    Query *answered = NULL;
    FOR_EACH(Query, q, s->queries, d->n_servers) {
        if (q->server->host->tcp != tcp)
            continue;
        if (q->state == QUERY_ANSWERED && !answered)
            answered = q;
        if (q->state != QUERY_ANSWERED && q->state != QUERY_FAILED)
            *open = 1;
    }
    return answered;
}

/* Decide on the external address of S, if the time has come. TCP's answer counts before UDP's,
 * since it is exact. Its connection stays open until the stream's own is made: otherwise the
 * mapping could go. */
static void discovery_decide(Discovery *d, Stream *s)
{
    int udp_open = 0, tcp_open = 0;
    Query *by_udp = answer_by(d, s, 0, &udp_open);
    Query *by_tcp = answer_by(d, s, 1, &tcp_open);
    int stun_over = over(d->end) || (!udp_open && !tcp_open);
    if (by_tcp) {
        set_external(s, SOURCE_STUN, &by_tcp->mapped, by_tcp->mapped.port);
        s->stun = by_tcp->fd;
        by_tcp->fd = -1;
    } else if (by_udp && (!tcp_open || stun_over || over(d->head)))
        set_external(s, SOURCE_STUN, &by_udp->mapped, by_udp->mapped.port);
    else if (stun_over || over(d->head))
        decide_by_fallback(d, s, stun_over);
}

static struct pollfd watch_job(const Job *j)
{
    return watch(j->pid ? j->fd : -1, POLLIN);
}

/* If poll() reports in F that job J has answered or died, take its answer, a struct of SIZE bytes,
 * into P. */
static void discovery_take(Job *j, const struct pollfd *f, void *p, size_t size, Why why)
{
    if (!f->revents) return;
    if (!job_read(j->fd, p, size))
        NOTE(why, "its job died");
    job_end(j);
}

/* End job J, which asks IMDS, when its time of S seconds is over. */
static void discovery_limit(Job *j, Deadline end, int s, Why why)
{
    if (!j->pid || !over(end))
        return;
    NOTE(why, "%s: no answer within %d s", settings.imds.authority, s);
    job_end(j);
}

/* Send what is due for Q. Returns what Q waits for. */
static struct pollfd query_turn(Query *q)
{
    if (q->server->job.pid)
        return watch(-1, 0);                                    /* its name is being looked up */
    if (q->state == QUERY_BEGINS)
        stun_start(q);
    else if (q->state == QUERY_ASKED && over(q->resend))
        stun_send(q);
    if (q->state == QUERY_CONNECTS)
        return watch(q->fd, POLLOUT);
    return watch(q->state == QUERY_ASKED ? q->fd : -1, POLLIN);
}

/* Send what is due, wait for a tick at most, so that no deadline is missed; take what has come. */
static void discovery_turn(Discovery *d)
{
    struct pollfd *f = d->fds;
    TIMES(k, SERVERS_MAX)
        f[k] = watch_job(&d->servers[k].job);
    f[AT_IMDS] = watch_job(&d->imds_job);
    f[AT_CREDS] = watch_job(&d->creds_job);
    TIMES(i, d->n_queries)
        f[AT_QUERIES + i] = query_turn(&d->queries[i]);
    wait_for(f, AT_QUERIES + d->n_queries, after(TICK_MS));
    TIMES(k, d->n_servers) {
        Server *server = &d->servers[k];
        Lookup *found = &server->found;
        discovery_take(&server->job, &f[k], found, sizeof *found, found->why);
    }
    discovery_take(&d->imds_job, &f[AT_IMDS], &d->imds, sizeof d->imds,
                   d->imds.why);
    discovery_take(&d->creds_job, &f[AT_CREDS], &settings.creds,
                   sizeof settings.creds, settings.creds.why);
    TIMES(i, d->n_queries)
        if (f[AT_QUERIES + i].revents)
            stun_event(&d->queries[i]);
    discovery_limit(&d->imds_job, d->imds_end, IMDS_S, d->imds.why);
    discovery_limit(&d->creds_job, d->creds_end, CREDS_S, settings.creds.why);
}

/* Write into WHY why STUN gave no address to S: the outcome of each server. */
static void stun_reasons(const Discovery *d, const Stream *s, Why why)
{
    Text t = { why, WHY_MAX, 0 };
    int waited = over(d->end) ? settings.stun_ms : HEAD_START_MS;
    if (!d->n_servers)
        add(&t, "skipped (PASH_%s)", settings.no_holepunch ? "NO_HOLEPUNCH" : "STUN_TIMEOUT_MS=0");
    FOR_EACH(const Query, q, s->queries, d->n_servers) {
        const Host *h = q->server->host;
        Str from = q->server->job.pid ? " from the resolver" : "";
        add(&t, t.len ? "; " : "");
        add(&t, "%s%s:%u: ", h->tcp ? "tcp:" : "", h->name, h->port);
        if (q->state == QUERY_FAILED)
            add(&t, "%s", q->why);
        else
            add(&t, "no answer%s within %d ms", from, waited);
    }
}

/* Log the outcome for S. Users search for these phrases, so they stay word for word. The line about
 * the metadata service comes once per process: d->imds is cleared. */
static void discovery_say(Discovery *d, const Stream *s)
{
    Str local = SHOW(&s->local), outer = SHOW(&s->external);
    Why why;
    if (s->source == SOURCE_STUN) {
        SAY("STUN discovery succeeded - local_addr: %s external_addr: %s", local, outer);
        if (settings.stun.n_tcp && s->stun < 0)
            SAY("no tcp: server answered in time: TCP may have another address");
        return;
    }
    stun_reasons(d, s, why);
    SAY("STUN discovery failed: %s", why);
    SAY("Using fallback address resolution...");
    if (d->imds.n)
        SAY("AWS metadata service returned public IP: %s", SHOW(&d->imds.list[0]));
    else if (d->imds.why[0])
        SAY("AWS metadata query failed: %s", d->imds.why);
    d->imds = (Lookup){ 0 };
    SAY("Fallback succeeded - local_addr: %s external_addr: %s", local, outer);
}

/* Begin to look up the servers and to fetch the role's credentials (ROLE), and take a port for each
 * stream. */
static int discovery_begin(Discovery *d, int role, Why why)
{
    unsigned next = settings.public_addr.port;
    Query *q = d->queries;
    TIMES(k, d->n_servers) {
        Server *server = &d->servers[k];
        server->host = &settings.stun.list[k];
        if (ip_parse(server->host->name, &server->found.list[0]))
            lookup_now(server->host, &server->found);
        else
            job_start(&server->job, lookup_job, server->host, server->found.why);
    }
    if (role)
        job_start(&d->creds_job, creds_job, NULL, settings.creds.why);
    FOR_EACH(Stream, s, d->streams, d->n) {
        s->queries = q;
        if (!port_take(s, next, why))
            return 0;
        if (next)
            next = s->local.port + 1;
        for (int k = 0; k < d->n_servers; k++, q++)
            *q = (Query){ .server = &d->servers[k], .fd = -1,
                          .port = s->local.port };
    }
    return 1;
}

/* Decide for each stream whose time has come. 1: something is still waited for: an address, the
 * credentials, or, if MAPPING is set, a second answer to the first stream within the head start. */
static int discovery_goes_on(Discovery *d, int mapping)
{
    int waits = d->creds_job.pid != 0;
    FOR_EACH(Stream, s, d->streams, d->n) {
        if (s->source == SOURCE_UNKNOWN)
            discovery_decide(d, s);
        if (s->source == SOURCE_UNKNOWN) waits = 1;
    }
    if (!mapping || d->n_servers < 2 || over(d->head))
        return waits;
    return waits || mapping_of(d, d->streams) == MAPPING_UNKNOWN;
}

/* The addresses are known: complete the streams, say how it went, let go of what is not needed. */
static void discovery_end(Discovery *d)
{
    Addr local;
    local_address(d, &local);
    FOR_EACH(Stream, s, d->streams, d->n) {
        log_stream(s);
        close_fd(&s->udp);
        memcpy(s->local.ip, local.ip, sizeof local.ip);
        if (s->source == SOURCE_LOCAL)
            s->external = s->local;
        s->mapping = mapping_of(d, s);
        discovery_say(d, s);
    }
    log_stream(NULL);
    TIMES(k, d->n_servers)
        job_end(&d->servers[k].job);
    job_end(&d->imds_job);
    FOR_EACH(Query, q, d->queries, d->n_queries)
        reset_fd(&q->fd);
    free(d->queries);
    free(d->fds);
}

/* Take a port for each of the N streams, and find the addresses to tell the peers. MAPPING: wait
 * for a second answer, too. ROLE: fetch the credentials of the instance's role. The outcome is
 * logged, a failure as well. */
static int discover(Stream *s, int n, int mapping, int role)
{
    Why why;
    Discovery d = { .streams = s, .n = n,
                    .head = after(HEAD_START_MS),
                    .end = after(settings.stun_ms),
                    .creds_end = after(CREDS_MS) };
    int said = 0;
    if (!settings.no_holepunch && settings.stun_ms)
        d.n_servers = settings.stun.n;
    d.n_queries = n * d.n_servers;
    d.queries = allocate(d.n_queries + 1, sizeof *d.queries);   /* 1: none may give NULL */
    d.fds = allocate(d.n_queries + AT_QUERIES, sizeof *d.fds);
    if (!discovery_begin(&d, role, why))
        return COMPLAIN("%s", why);
    while (discovery_goes_on(&d, mapping)) {
        if (over(d.head) && !said) {
            said = 1;
            SAY("waiting for %s", d.n_servers ? "STUN or IMDS" : "IMDS");
        }
        discovery_turn(&d);
    }
    discovery_end(&d);
    return 1;
}

/* ---- 7. SHA-256 (FIPS 180-4), HMAC (RFC 2104), Signature Version 4 ----------------------------
 * Pure functions. The tests check them against the vectors of FIPS 180-4, RFC 4231 and AWS. */

#define HASH 32                             /* bytes */
#define HASH_BLOCK 64                       /* bytes */
#define HASH_TEXT (2 * HASH + 1)            /* bytes, as hex digits with a NUL */
#define SIGNATURE_MAX (SECRET_MAX + 512)     /* bytes of a header Authorization */

static uint32_t rotr(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* Take in a block (FIPS 180-4, 6.2.2). */
static void sha256_block(uint32_t *h, const byte *block)
{
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
    TIMES(i, 16)
        w[i] = (uint32_t)get(block + 4 * i, 4);
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        uint32_t sigma0 = rotr(a, 7) ^ rotr(a, 18) ^ a >> 3;
        uint32_t sigma1 = rotr(b, 17) ^ rotr(b, 19) ^ b >> 10;
        w[i] = w[i - 16] + sigma0 + w[i - 7] + sigma1;
    }
    memcpy(v, h, sizeof v);
    TIMES(i, 64) {
        uint32_t a = v[0], b = v[1], c = v[2];
        uint32_t e = v[4], f = v[5], g = v[6];
        uint32_t sum0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22);
        uint32_t sum1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
        uint32_t choice = (e & f) ^ (~e & g);
        uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
        uint32_t t1 = v[7] + sum1 + choice + k[i] + w[i];
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + sum0 + majority;
    }
    TIMES(i, 8)
        h[i] += v[i];
}

/* Write the hash of a block FIRST (NULL: none) and N bytes at DATA into OUT (HASH bytes), which may
 * be DATA. After the data come 0x80, zeros, and the number of all bits (5.1.1). */
static void sha256(const byte *first, const void *data, size_t n, byte *out)
{
    uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,                   /* 5.3.3 */
                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    const byte *p = data;
    byte block[HASH_BLOCK] = { 0 };
    uint64_t bits = 8 * (uint64_t)n;
    if (first) {
        sha256_block(h, first);
        bits += 8 * HASH_BLOCK;
    }
    for (; n >= HASH_BLOCK; n -= HASH_BLOCK) {
        sha256_block(h, p);
        p += HASH_BLOCK;
    }
    memcpy(block, p, n);
    block[n] = 0x80;
    if (n + 1 + 8 > HASH_BLOCK) {
        sha256_block(h, block);
        memset(block, 0, sizeof block);
    }
    put(block + HASH_BLOCK - 8, 8, bits);
    sha256_block(h, block);
    TIMES(i, 8)
        put(out + 4 * i, 4, h[i]);
}

/* Write HMAC-SHA-256 of the N bytes at DATA under KEY into OUT (HASH bytes), which may be DATA. */
static void hmac(const void *key, size_t key_len, const void *data, size_t n, byte *out)
{
    byte inner[HASH_BLOCK] = { 0 }, outer[HASH_BLOCK];
    if (key_len > HASH_BLOCK)
        sha256(NULL, key, key_len, inner);
    else memcpy(inner, key, key_len);
    TIMES(i, HASH_BLOCK) {
        outer[i] = inner[i] ^ 0x5c;
        inner[i] ^= 0x36;
    }
    sha256(inner, data, n, out);
    sha256(outer, out, HASH, out);
}

/* Write the N bytes at P in hex digits into TEXT (2 n + 1 bytes). */
static void hex(const byte *p, int n, char *text)
{
    TIMES(i, n)
        sprintf(text + 2 * i, "%02x", p[i]);
}

/* Write the hash of TEXT in hex digits into OUT (HASH_TEXT bytes). */
static void hash_text(Str text, char *out)
{
    byte hash[HASH];
    sha256(NULL, text, strlen(text), hash);
    hex(hash, HASH, out);
}

/* Sign CANONICAL, a canonical request with the headers SIGNED_HEADERS, at DATE (YYYYMMDDThhmmssZ).
 * OUT (SIGNATURE_MAX bytes) gets the value of its header Authorization. See AWS, "Create a signed
 * AWS API request". */
static void sigv4(const Creds *c, Str date, Str region, Str service,
                  Str canonical, Str signed_headers, char *out)
{
    char scope[160], text[320], key[SECRET_MAX + 4];
    char digest[HASH_TEXT], signature[HASH_TEXT];
    const Str chain[] = { region, service, "aws4_request", text };
    byte k[HASH];
    hash_text(canonical, digest);
    FORMAT(scope, "%.8s/%.64s/%s/aws4_request", date, region, service);
    FORMAT(text, "AWS4-HMAC-SHA256\n%s\n%s\n%s", date, scope, digest);
    FORMAT(key, "AWS4%s", c->secret);
    hmac(key, strlen(key), date, 8, k);
    TIMES(i, 4)
        hmac(k, HASH, chain[i], strlen(chain[i]), k);
    hex(k, HASH, signature);
    snprintf(out, SIGNATURE_MAX, "AWS4-HMAC-SHA256 Credential=%s/%s, "
             "SignedHeaders=%s, Signature=%s", c->id, scope, signed_headers, signature);
}

/* ---- 8. rendezvous: tell the peer my addresses and learn its ----------------------------------
 * Each stream has a process that registers, looks and withdraws, so that a slow file system or
 * network never holds up connecting. There are two kinds: a directory (touches the files below it)
 * and DynamoDB (touches the resolver, the wall clock and the network: TCP to DynamoDB, and to IMDS
 * for credentials). */

#define REGISTRATION_MAX 4096               /* bytes */
#define NAME_LEN 255                        /* bytes of KEY, or of a name of a file */
#define DIR_MAX (PLACE_MAX + 3 * 256)       /* bytes of a path */
#define REQUEST_MS 5000                     /* longest that registering may take */
#define LOOK_MS 2500                        /* longest that a look may take */
#define RETRY_MS 250                        /* pause before what has failed is tried again */
#define RENEW_MS 30000                      /* the same, where the old credentials are still good */
#define WITHDRAW_MS 5000                    /* longest that withdrawing may take */
#define WITHDRAW_HASTE_MS 1000              /* the same, after a signal */

/* The outcome of a request. FAILED: it failed for good. AGAIN: it failed, but may work later. After
 * both, WHY has the reason. */
typedef enum { REQUEST_FAILED, REQUEST_AGAIN, REQUEST_DONE } Request;

typedef struct {
    const Stream *s;
    char mine[REGISTRATION_MAX + 1], theirs[REGISTRATION_MAX + 1];     /* texts; theirs "": none */
    char dir[DIR_MAX];                      /* the key's; it holds these files: */
    char file[DIR_MAX + 16], new_file[DIR_MAX + 16], peer_file[DIR_MAX + 16];
    Lookup at;                              /* of DynamoDB; n 0: to be looked up (again) */
    int reached;                            /* 1: it has let us connect */
    int expired;                            /* it has refused the role's credentials as expired */
    Deadline renew;                         /* if that failed, they are not fetched again before */
    char answer[HTTP_MAX];
} Rdv;

/* Returns the address that member NAME of a registration holds, all zero if it cannot be used. */
static Addr registration_get(Str text, size_t len, Str name)
{
    Addr a = { { 0 }, 0 };
    char literal[ADDR_TEXT + 8];
    if (json_find(text, len, name, literal, sizeof literal) && addr_parse(literal, &a)
        && addr_usable(&a)) return a;
    return (Addr){ { 0 }, 0 };
}

/* -- the directory -- */

/* Write KEY as a file name into NAME (3 * NAME_LEN + 1 bytes). Letters, digits, - _ and . stay; the
 * rest is percent-encoded, and so is a leading dot: no key leads out. A long name is hashed. */
static void key_to_name(Str key, char *name)
{
    Text t = { name, 3 * NAME_LEN + 1, 0 };
    for (Str p = key; *p; p++) {
        int plain = strchr(NAME_CHARS, *p) && (*p != '.' || p > key);
        add(&t, plain ? "%c" : "%%%02X", (byte)*p);
    }
    if (t.len <= NAME_LEN) return;
    strcpy(name, "%-");
    hash_text(key, name + 2);
}

/* Make the directory PATH, if need be. 1: it is there, or was a moment ago. It must be ours, no
 * link, and not writable by others. */
static int dir_make(Str path, Why why)
{
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return FAIL(why, "mkdir %.300s: %s", path, strerror(errno));
    errnum error = error_of(lstat(path, &st));
    if (error == ENOENT) return 1;
    if (error)
        return FAIL(why, "%.300s: %s", path, strerror(error));
    if (!S_ISDIR(st.st_mode))
        return FAIL(why, "%.300s is not a directory", path);
    if (st.st_uid != geteuid())
        return FAIL(why, "%.300s belongs to another user", path);
    if (st.st_mode & 022)
        return FAIL(why, "%.300s can be written by others", path);
    return 1;
}

/* Read the registration in the file PATH into TEXT (REGISTRATION_MAX + 1 bytes). A file that cannot
 * be read counts as absent: TEXT is "". */
static void dir_read(Str path, char *text)
{
    struct stat st;
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)
        && st.st_size <= REGISTRATION_MAX)
        n = read(fd, text, REGISTRATION_MAX);
    text[n > 0 ? n : 0] = 0;
    close_fd(&fd);
}

/* Write my registration beside its place and rename it, so that nobody reads half of it. The peer
 * may remove the key's directory while it is empty; then try once more. */
static int dir_register(Rdv *r, Why why)
{
    TIMES(tries, 100) {
        if (!dir_make(settings.rendezvous.name, why) || !dir_make(r->dir, why))
            return 0;
        unlink(r->new_file);                                    /* what a crash left */
        int fd = open(r->new_file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
        if (fd < 0 && errno == ENOENT) continue;
        if (fd < 0)
            return FAIL(why, "%.300s: %s", r->new_file, strerror(errno));
        errnum error = write_once(fd, r->mine, strlen(r->mine));
        if (close(fd) < 0 && !error)
            error = errno;
        if (!error && rename(r->new_file, r->file) < 0)
            error = errno;
        if (!error) return 1;
        NOTE(why, "%.300s: %s", r->file, strerror(error));
        int dir_is_gone = unlink(r->new_file) < 0 && errno == ENOENT;
        if (!dir_is_gone) return 0;
    }
    return FAIL(why, "%.300s is removed again and again", r->dir);
}

/* Remove my registration, if it is still mine, and then the key's directory, if it is empty. */
static int dir_withdraw(Rdv *r, Why why)
{
    char text[REGISTRATION_MAX + 1];
    dir_read(r->file, text);
    if (equal(text, r->mine) && unlink(r->file) < 0 && errno != ENOENT)
        return FAIL(why, "%.300s: %s", r->file, strerror(errno));
    rmdir(r->dir);                          /* where that fails, an empty directory may stay */
    return 1;
}

/* -- DynamoDB -- */

/* Write TEXT as the inside of a JSON string into OUT (6 bytes per byte, and a NUL). Returns OUT. */
static Str json_quote(Str text, char *out)
{
    size_t n = 0;
    out[0] = 0;
    for (const byte *c = (const byte *)text; *c; c++) {
        int plain = *c >= 0x20 && *c != '"' && *c != '\\';
        n += (size_t)sprintf(out + n, plain ? "%c" : "\\u%04x", *c);
    }
    return out;
}

/* Write the time that is SECONDS from now, in UTC, as FORMAT has it, into TEXT (32 bytes). */
static void time_text(time_t seconds, Str format, char *text)
{
    time_t t = time(NULL) + seconds;
    strftime(text, 32, format, gmtime(&t));
}

/* Fetch the role's credentials anew if they end within a minute, or have expired. If that fails,
 * keep the old ones and try again: soon if they have expired, else in RENEW_MS. */
static void creds_renew(Rdv *r)
{
    Creds *c = &settings.creds, fresh = { .id = "" };
    char soon[32];
    Why why;
    time_text(60, "%Y-%m-%dT%H:%M:%SZ", soon);
    int ends = c->until[0] && strcmp(c->until, soon) <= 0;
    if ((!ends && !r->expired) || !over(r->renew))
        return;
    if (!creds_fetch(&fresh, why)) {
        r->renew = after(r->expired ? RETRY_MS : RENEW_MS);
        return;
    }
    *c = fresh;
    r->expired = 0;
}

/* Add to OUT an HTTP request that asks DynamoDB to do OP; BODY is its JSON. The headers are signed
 * in the order of their names; see AWS, "DynamoDB low-level API". */
static void dynamo_request(Text *out, Str op, Str body)
{
    const Creds *c = &settings.creds;
    char date[32], digest[HASH_TEXT], target[64], names[128];
    char signature[SIGNATURE_MAX], canonical[SECRET_MAX + 1024];
    Str host = settings.dynamodb.authority;
    Str path = settings.dynamodb.path[0] ? settings.dynamodb.path : "/";
    const Str headers[][2] = { { "content-type", "application/x-amz-json-1.0" },
                                       { "host", host },
                                       { "x-amz-date", date },
                                       { "x-amz-security-token", c->token },
                                       { "x-amz-target", target } };
    Text canon = TEXT(canonical), list = TEXT(names);
    time_text(0, "%Y%m%dT%H%M%SZ", date);
    hash_text(body, digest);
    FORMAT(target, "DynamoDB_20120810.%s", op);
    add(out, "POST %s HTTP/1.1\r\nconnection: close\r\n", path);
    add(&canon, "POST\n%s\n\n", path);
    TIMES(i, COUNT(headers)) {
        Str name = headers[i][0], value = headers[i][1];
        if (!*value) continue;                                  /* only the token may be empty */
        add(out, "%s: %s\r\n", name, value);
        add(&canon, "%s:%s\n", name, value);
        add(&list, i ? ";%s" : "%s", name);
    }
    add(&canon, "\n%s\n%s", names, digest);
    sigv4(c, date, settings.region, "dynamodb", canonical, names, signature);
    add(out, "authorization: %s\r\n", signature);
    add(out, "content-length: %zu\r\n\r\n%s", strlen(body), body);
}

/* Judge an answer that is not 200, by its status and the type of its error. DONE: a condition was
 * not met. Expired credentials are marked for renewal. */
static Request dynamo_error(Rdv *r, Str op, const Response *a, Why why)
{
    static const Str passes[] = { "ProvisionedThroughputExceededException",
                                          "ThrottlingException", "RequestLimitExceeded" };
    char type[256] = "", text[WHY_MAX / 2] = "";
    FIND(a, "__type", type);
    if (!FIND(a, "message", text))
        FIND(a, "Message", text);
    Str hash = strchr(type, '#'), name = hash ? hash + 1 : type;
    NOTE(why, *name ? "%s: status %d %.100s: %s" : "%s: status %d", op, a->status, name, text);
    if (equal(name, "ConditionalCheckFailedException")) {
        r->theirs[0] = 0;
        return REQUEST_DONE;
    }
    if (a->status >= 500) return REQUEST_AGAIN;
    TIMES(i, COUNT(passes))
        if (equal(name, passes[i]))
            return REQUEST_AGAIN;
    if (!equal(name, "ExpiredTokenException") || !settings.creds.until[0])
        return REQUEST_FAILED;
    r->expired = 1;                                             /* the next request renews them */
    return REQUEST_AGAIN;
}

/* Ask DynamoDB to do OP with the item of the key; MORE: further members of the request. DONE:
 * r->theirs has the peer's text, or "" if there is none or a condition is not met. */
static Request dynamo_ask(Rdv *r, Str op, Str more, int ms, Why why)
{
    char key[6 * NAME_LEN + 1], body[8192], request[16384], path[64];
    Text t = TEXT(request);
    Response a = { r->answer, HTTP_MAX, 0, NULL, 0 };
    creds_renew(r);
    if (!settings.creds.id[0])
        return FAIL(why, "no credentials: AWS_ACCESS_KEY_ID is not set; instance role: %.300s",
                    settings.creds.why);
    FORMAT(body, "{\"TableName\":\"%s\",\"Key\":{\"key\":{\"S\":\"%s\"}},%s}",
           settings.rendezvous.name, json_quote(r->s->key, key), more);
    dynamo_request(&t, op, body);
    if (!r->at.n)
        lookup_now(&settings.dynamodb.host, &r->at);
    Asked got = http_ask(&r->at, request, &a, after(ms), why);
    if (got != ASKED_NOT_CONNECTED) r->reached = 1;
    if (got != ASKED_DONE) {
        r->at.n = 0;
        return r->reached ? REQUEST_AGAIN : REQUEST_FAILED;
    }
    FORMAT(path, "%s/N_%u/S", equal(op, "GetItem") ? "Item" : "Attributes", r->s->peer);
    if (a.status != 200)
        return dynamo_error(r, op, &a, why);
    if (!FIND(&a, path, r->theirs))
        r->theirs[0] = 0;
    return REQUEST_DONE;
}

/* Ask for UpdateItem with EXPRESSION, in which #me is my attribute and :mine is my text. */
static Request dynamo_update(Rdv *r, Str expression, int ms, Why why)
{
    char more[2048], mine[1024];
    FORMAT(more, "%s,\"ExpressionAttributeNames\":{\"#me\":\"N_%u\"},"
           "\"ExpressionAttributeValues\":{\":mine\":{\"S\":\"%s\"}},"
           "\"ReturnValues\":\"ALL_NEW\"", expression, r->s->me, json_quote(r->mine, mine));
    return dynamo_ask(r, "UpdateItem", more, ms, why);
}

/* Remove my attribute, if it is still mine, and the item, if the peer's is not in it either. */
static Request dynamo_withdraw(Rdv *r, Deadline end, Why why)
{
    char more[512];
    Request got = dynamo_update(r, "\"UpdateExpression\":\"REMOVE #me\","
                                "\"ConditionExpression\":\"#me = :mine\"", ms_left(end), why);
    /* A condition that was not met does not stop us: the answer to an earlier try may be lost. */
    if (got != REQUEST_DONE || r->theirs[0])
        return got;
    FORMAT(more, "\"ConditionExpression\":\"attribute_not_exists(#me) AND "
           "attribute_not_exists(#peer)\",\"ExpressionAttributeNames\":"
           "{\"#me\":\"N_%u\",\"#peer\":\"N_%u\"}", r->s->me, r->s->peer);
    return dynamo_ask(r, "DeleteItem", more, ms_left(end), why);
}

/* -- the process -- */

/* Register, or, once REGISTERED, look. A look takes LOOK_MS, and what it takes to look up DynamoDB
 * and to renew credentials: withdrawing after a signal may then be cut short. */
static Request rdv_turn(Rdv *r, int registered, Why why)
{
    if (settings.rendezvous.kind == PLACE_DIR) {
        dir_read(r->peer_file, r->theirs);
        if (!registered && !dir_register(r, why))
            return REQUEST_FAILED;
        return REQUEST_DONE;
    }
    if (registered)
        return dynamo_ask(r, "GetItem", "\"ConsistentRead\":true", LOOK_MS, why);
    return dynamo_update(r, "\"UpdateExpression\":\"SET #me = :mine\"", REQUEST_MS, why);
}

/* What the rendezvous process tells the stream's process, whenever it changes. */
typedef struct {
    enum { NEWS_FAILED, NEWS_ABSENT, NEWS_PEER } what;
    int was_there;                          /* the peer's registration was there before mine */
    Addr local, external;                   /* the peer's; one of them may be none */
    Why why;                      /* of NEWS_FAILED */
} News;

/* Tell FD the peer's registration. If nobody reads it, poll() will say so. */
static void rdv_tell(const Rdv *r, int fd, News *news)
{
    size_t len = strlen(r->theirs);
    news->local = registration_get(r->theirs, len, "local_addr");
    news->external = registration_get(r->theirs, len, "external_addr");
    news->what = news->local.port || news->external.port ? NEWS_PEER : NEWS_ABSENT;
    socket_send(fd, news, sizeof *news, 0);
}

/* Register, and look until the stream's process ends or closes FD, or a request fails for good. 1:
 * there may be something to withdraw. */
static int rdv_meet(Rdv *r, int fd)
{
    int is_dir = settings.rendezvous.kind == PLACE_DIR;
    int pause_ms = is_dir ? 20 : 50, longest_ms = is_dir ? 200 : 1000;
    int registered = 0, reached = 0;        /* reached: a request may have had an effect */
    char last[sizeof r->theirs];
    Why trouble = "";
    News news = { .why = "" };
    for (;;) {
        strcpy(last, r->theirs);
        Request got = rdv_turn(r, registered, news.why);
        if (got == REQUEST_FAILED) break;
        reached = 1;
        if (got == REQUEST_AGAIN && !equal(trouble, news.why)) {
            strcpy(trouble, news.why);
            SAY("%s: %s: trying again", settings.rendezvous.text, trouble);
        }
        int is_news = !registered || !equal(last, r->theirs);
        if (got == REQUEST_DONE && is_news) {
            news.was_there = !registered;
            registered = 1;
            rdv_tell(r, fd, &news);
        }
        if (wait_for_one(fd, POLLIN, after(pause_ms)))
            return 1;
        pause_ms += pause_ms / 2;
        if (pause_ms > longest_ms)
            pause_ms = longest_ms;
    }
    news.what = NEWS_FAILED;
    socket_send(fd, &news, sizeof news, 0);
    return reached;
}

/* Run the rendezvous process of S: meet the peer, then withdraw. */
static void rdv_run(int fd, const Stream *s)
{
    Rdv *r = allocate(1, sizeof *r);
    char name[3 * NAME_LEN + 1];
    Why why;
    r->s = s;
    key_to_name(s->key, name);
    sprintf(r->dir, "%s/%s", settings.rendezvous.name, name);
    sprintf(r->file, "%s/N_%u", r->dir, s->me);
    sprintf(r->new_file, "%s/.N_%u", r->dir, s->me);
    sprintf(r->peer_file, "%s/N_%u", r->dir, s->peer);
    sprintf(r->mine, "{\"local_addr\":\"%s\",\"external_addr\":\"%s\"}", SHOW(&s->local),
            SHOW(&s->external));
    if (!rdv_meet(r, fd)) return;
    Deadline end = after(WITHDRAW_MS);
    Request got;
    for (;;) {
        if (settings.rendezvous.kind == PLACE_DYNAMODB)
            got = dynamo_withdraw(r, end, why);
        else
            got = dir_withdraw(r, why) ? REQUEST_DONE : REQUEST_FAILED;
        if (got != REQUEST_AGAIN || over(end))
            break;
        wait_for(NULL, 0, sooner(end, after(RETRY_MS)));
    }
    if (got != REQUEST_DONE)
        COMPLAIN("withdrawing the registration: %s", why);
}

/* ---- 9. connect: the hole punch and the handshake ---------------------------------------------
 * Touches the network: accepts on the stream's port, and connects from it, until one connection is
 * chosen. Reads from the rendezvous process, the wall clock, and random numbers. */

#define HELLO 36                            /* bytes */
#define CONNS_MAX 35                        /* 3 targets, 32 others */
#define HANDSHAKE_MS 5000                   /* longest that HELLO and proof may take */
#define GRACE_MS 5000                       /* after the deadline, for the lower node to decide */
#define BACKOFF_MS 100                      /* first pause after a failed handshake */
#define BACKOFF_MAX_MS 5000                 /* longest such pause */
#define BURST 20                            /* attempts at a target in each tenth of a second */
#define TENTH_MS 100                        /* ms in such a tenth */
#define RECONNECT_MS 1000                   /* pause where connect() itself fails */
/* Each descriptor has its place in an array of pollfds. */
#define AT_RDV 0
#define AT_LISTENER 1
#define AT_STUN 2
#define AT_CONNS 3
/* The outcome of an attempt to connect. */
typedef enum { TRIED_TIMED_OUT, TRIED_REFUSED, TRIED_OTHER, TRIED_UNPROVEN, OUTCOMES } Outcome;

/* A connection that is on its way. It was accepted, or is made to a target: an address of the peer,
 * to which we connect again and again. Each later state has proven more. */
typedef struct {
    enum {
        CONN_FREE,
        CONN_PAUSES,                        /* a target's: the next attempt is due at END */
        CONN_CONNECTS, CONN_HELLO, CONN_PROOF, CONN_GO          /* what it awaits, until END */
    } state;
    int fd, is_target;
    Addr with;
    Deadline end;
    int backoff_ms;                         /* a target's pause after a failed handshake */
    int burst;                              /* a target's attempts within TENTH */
    long long tenth;                        /* tenths of a second of the wall clock */
    size_t have;                            /* bytes of IN: the peer's HELLO, its proof, GO */
    byte mine[HELLO], in[HELLO + HASH + 1];
} Conn;

#define FOR_CONNS(c, p) FOR_EACH(Conn, c, (p)->conns, CONNS_MAX)

typedef struct {
    enum { PUNCH_FAILED, PUNCH_GOES_ON, PUNCH_CONNECTED } state;
    Stream *s;
    int rdv, chosen;                        /* descriptors */
    char *why;                              /* of PUNCH_FAILED */
    Conn conns[CONNS_MAX];
    News peer;                              /* the peer's last registration; else NEWS_ABSENT */
    Deadline began, limit;                  /* began: when the peer became known */
    struct { int n; Why why; } tried[OUTCOMES];               /* why: of the last */
} Punch;

/* Write HELLO into M (HELLO bytes): "PASHLIB1" | role u8, 1 send, 2 recv | 3 zero bytes | me u32 |
 * peer u32 | nonce of 16 bytes. */
static void hello_encode(const Stream *s, byte *m)
{
    memcpy(m, "PASHLIB1", 8);
    put(m + 8, 4, s->sends ? 1U << 24 : 2U << 24);
    put(m + 12, 4, s->me);
    put(m + 16, 4, s->peer);
    random_bytes(m + 20, 16);
}

/* 1: M (HELLO bytes) can be from the peer of S. */
static int hello_check(const Stream *s, const byte *m, Why why)
{
    uint64_t role = get(m + 8, 4);
    unsigned me = (unsigned)get(m + 12, 4);
    unsigned peer = (unsigned)get(m + 16, 4);
    if (memcmp(m, "PASHLIB1", 8) != 0)
        return FAIL(why, "it does not speak this protocol");
    if (role != 1U << 24 && role != 2U << 24)
        return FAIL(why, "its HELLO is malformed");
    if (me == s->peer && peer == s->me)
        return 1;
    return FAIL(why, "it is node %u and wants node %u", me, peer);
}

/* Write HMAC-SHA256(KEY, "pashlib proof" | OWN | OTHER) into OUT (HASH bytes). OWN is the HELLO of
 * the end that proves, OTHER that of the other end. */
static void proof(Str key, const byte *own, const byte *other, byte *out)
{
    byte text[13 + 2 * HELLO];
    memcpy(text, "pashlib proof", 13);
    memcpy(text + 13, own, HELLO);
    memcpy(text + 13 + HELLO, other, HELLO);
    hmac(key, strlen(key), text, sizeof text, out);
}

/* 1: the two hashes are the same. The time that this takes does not tell where they differ. */
static int same_in_constant_time(const byte *a, const byte *b)
{
    byte differ = 0;
    TIMES(i, HASH)
        differ |= a[i] ^ b[i];
    return differ == 0;
}

/* 1: C is connected, and the handshake goes on. */
static int conn_is_up(const Conn *c)
{
    return c->state == CONN_HELLO || c->state == CONN_PROOF || c->state == CONN_GO;
}

/* Give up C, and count it as WHAT, because of WHY. If C is a target's, the next attempt is due in
 * PAUSE_MS; the reset lets its two ports be joined again at once. */
static void conn_drop(Punch *p, Conn *c, Outcome what, Str why, long long pause_ms)
{
    p->tried[what].n++;
    FORMAT(p->tried[what].why, "%s", why);
    reset_fd(&c->fd);
    c->state = c->is_target ? CONN_PAUSES : CONN_FREE;
    c->end = after(pause_ms);
}

/* Give up C, whose handshake failed. A target's pauses grow. */
static void conn_failed(Punch *p, Conn *c, Str why)
{
    DEBUG("no handshake with %s: %s", SHOW(&c->with), why);
    conn_drop(p, c, TRIED_UNPROVEN, why, c->backoff_ms);
    c->backoff_ms *= 2;
    if (c->backoff_ms > BACKOFF_MAX_MS)
        c->backoff_ms = BACKOFF_MAX_MS;
}

/* An attempt at a target ended with ERROR. Repeat it at once, so that two SYNs cross in flight;
 * after too many, repeat it at the next tenth of a second of the wall clock, as the other end does.
 * Returns how the attempt is counted. */
static Outcome target_failed(Punch *p, Conn *c, errnum error)
{
    long long wall = clock_ms(CLOCK_REALTIME);
    Outcome what = TRIED_OTHER;
    if (error == ECONNREFUSED || error == ECONNRESET)
        what = TRIED_REFUSED;
    if (error == ETIMEDOUT) what = TRIED_TIMED_OUT;
    if (c->tenth != wall / TENTH_MS)
        c->burst = 0;
    c->tenth = wall / TENTH_MS;
    c->burst++;
    conn_drop(p, c, what, strerror(error),
              c->burst < BURST ? 0 : TENTH_MS - wall % TENTH_MS);
    return what;
}

static void target_try(Punch *p, Conn *c)
{
    errnum error = socket_open_on(p->s->local.port, SOCK_STREAM, &c->fd);
    if (!error)
        error = socket_connect(c->fd, &c->with);
    c->state = CONN_CONNECTS;
    c->end = never();
    if (!error || error == EINPROGRESS) return;                 /* poll() tells */
    if (target_failed(p, c, error) == TRIED_OTHER)
        c->end = after(RECONNECT_MS);
}

/* Send N bytes at M over C. If that fails, C is given up. */
static int conn_send(Punch *p, Conn *c, const void *m, size_t n)
{
    errnum error = send_message(c->fd, m, n);
    if (!error) return 1;
    conn_failed(p, c, strerror(error));
    return 0;
}

/* C is connected: the handshake begins. */
static void conn_up(Punch *p, Conn *c)
{
    set_option(c->fd, IPPROTO_TCP, TCP_NODELAY, 1);
    c->state = CONN_HELLO;
    c->end = after(HANDSHAKE_MS);
    c->have = 0;
    hello_encode(p->s, c->mine);
    conn_send(p, c, c->mine, HELLO);
}

static void conn_choose(Punch *p, Conn *c)
{
    SAY("connected to node %u at %s", p->s->peer, SHOW(&c->with));
    p->chosen = c->fd;
    p->state = PUNCH_CONNECTED;
    c->fd = -1;
}

/* The peer's HELLO has come: send my proof. */
static void conn_hello(Punch *p, Conn *c)
{
    byte m[HASH];
    Why why;
    c->state = CONN_PROOF;
    proof(p->s->key, c->mine, c->in, m);
    if (hello_check(p->s, c->in, why))
        conn_send(p, c, m, HASH);
    else conn_failed(p, c, why);
}

/* The peer's proof has come. The lower node alone decides which connection is chosen. */
static void conn_proof(Punch *p, Conn *c)
{
    byte m[HASH];
    c->state = CONN_GO;
    proof(p->s->key, c->in, c->mine, m);
    int same_roles = c->mine[8] == c->in[8];
    if (!same_in_constant_time(m, c->in + HELLO))
        conn_failed(p, c, "it does not know the key");
    else if (same_roles) {
        NOTE(p->why, "both ends %s", p->s->sends ? "send" : "receive");
        p->state = PUNCH_FAILED;
    } else if (p->s->me > p->s->peer)
        c->end = never();
    else if (conn_send(p, c, "G", 1))
        conn_choose(p, c);
}

/* What C awaits has come whole. */
static void conn_message(Punch *p, Conn *c)
{
    if (c->state == CONN_HELLO)
        conn_hello(p, c);
    else if (c->state == CONN_PROOF)
        conn_proof(p, c);
    else if (c->in[HELLO + HASH] == 'G')
        conn_choose(p, c);
    else conn_failed(p, c, "it sent no GO");
}

/* Take what poll() reports for C, which is connected: a part of what it awaits. The bytes after GO
 * are not ours to read. */
static void conn_read(Punch *p, Conn *c)
{
    size_t want = HELLO;
    if (c->state != CONN_HELLO) want += HASH;
    if (c->state == CONN_GO) want++;
    Moved in = socket_recv(c->fd, c->in + c->have, want - c->have);
    c->have += in.n;
    if (in.what == MOVED_END)
        conn_failed(p, c, "it closed the connection");
    if (in.what == MOVED_FAILED)
        conn_failed(p, c, strerror(in.error));
    if (in.what == MOVED_SOME && c->have == want)
        conn_message(p, c);
}

/* Take the outcome of a connect() that was in progress. */
static void target_event(Punch *p, Conn *c)
{
    errnum error = socket_error(c->fd);
    if (error)
        target_failed(p, c, error);
    else
        conn_up(p, c);
}

/* 1: if there are too many, A is dropped before B: strangers go first, then those that have proven
 * least, then the oldest. */
static int conn_worse(const Punch *p, const Conn *a, const Conn *b)
{
    const Addr *external = &p->peer.external, *local = &p->peer.local;
    int a_near = ip_same(&a->with, external) || ip_same(&a->with, local);
    int b_near = ip_same(&b->with, external) || ip_same(&b->with, local);
    if (a_near != b_near) return b_near;
    if (a->state != b->state)
        return a->state < b->state;
    return a->end.ms < b->end.ms;
}

/* Returns a free place. If there is none, the worst connection is dropped, but never a target's: a
 * stranger does no harm to the peer's connections. */
static Conn *conn_place(Punch *p)
{
    Conn *worst = NULL;
    FOR_CONNS(c, p) {
        if (c->state == CONN_FREE) return c;
        if (!c->is_target && (!worst || conn_worse(p, c, worst)))
            worst = c;
    }
    conn_failed(p, worst, "too many came after it");
    return worst;
}

static void punch_accept(Punch *p)
{
    KernelAddr kernel = { 0 };
    socklen_t len = sizeof kernel;
    int fd = accept(p->s->listener, SOCKADDR(&kernel), &len);
    errnum error = traced(error_of(fd), "accept(%d) = %d", p->s->listener, fd);
    if (error && !is_transient(error) && error != ECONNABORTED)
        wait_for(NULL, 0, after(TENTH_MS));         /* no descriptor was free: do not spin */
    if (error) return;
    set_nonblocking(fd);
    Conn *c = conn_place(p);
    *c = (Conn){ .fd = fd, .with = addr_from_kernel(&kernel) };
    conn_up(p, c);
}

/* Make A a target, unless it is unusable, ours, or a target already, or is a loopback address with
 * our own port, or while none of ours is one. */
static void target_add(Punch *p, Addr a)
{
    const Addr *local = &p->s->local, *external = &p->s->external;
    int near = addr_is_loopback(local) || addr_is_loopback(external);
    if (!addr_usable(&a) || addr_same(&a, local) || addr_same(&a, external))
        return;
    if (addr_is_loopback(&a) && (!near || a.port == local->port))
        return;
    FOR_CONNS(c, p)
        if (c->is_target && addr_same(&a, &c->with))
            return;
    *conn_place(p) = (Conn){ .state = CONN_PAUSES, .fd = -1,
                             .is_target = 1, .with = a,
                             .backoff_ms = BACKOFF_MS };
}

/* Connect to the peer, whose registration has come or has changed. Connections that the old targets
 * have made may still be proven, like accepted ones. */
static void punch_peer(Punch *p, const News *news)
{
    Addr third = news->external;
    third.port = news->local.port;
    FOR_CONNS(c, p) {
        c->is_target = 0;
        if (conn_is_up(c)) continue;
        reset_fd(&c->fd);
        c->state = CONN_FREE;
    }
    p->peer = *news;
    p->began = after(0);
    /* A registration that was there before ours may be left over, and its node may come late. */
    p->limit = after(news->was_there ? settings.peer_ms : settings.connect_ms);
    SAY("connecting from %s to %s", SHOW(&p->s->external),
        SHOW(news->external.port ? &news->external : &news->local));
    target_add(p, news->external);
    target_add(p, news->local);
    target_add(p, third);
}

/* Take news from the rendezvous process. A registration that was there before ours may be left
 * over: if it disappears, the wait ends in GRACE_MS, but not before connect_ms are over. */
static void punch_news(Punch *p)
{
    News news;
    if (!job_read(p->rdv, &news, sizeof news)) {
        NOTE(p->why, "its rendezvous process died");
        p->state = PUNCH_FAILED;
    } else if (news.what == NEWS_FAILED) {
        NOTE(p->why, "rendezvous %.99s: %.390s", settings.rendezvous.text, news.why);
        p->state = PUNCH_FAILED;
    } else if (news.what == NEWS_PEER)
        punch_peer(p, &news);
    else if (p->peer.what == NEWS_ABSENT)
        SAY("waiting for node %u at %s", p->s->peer, settings.rendezvous.text);
    else if (p->peer.was_there) {
        p->limit.ms = p->began.ms + settings.connect_ms;
        if (ms_left(p->limit) < GRACE_MS)
            p->limit = after(GRACE_MS);
    }
}

/* Count the attempts that are on their way when the time is over. */
static void punch_count_open(Punch *p)
{
    FOR_CONNS(c, p) {
        if (c->state == CONN_CONNECTS)
            p->tried[TRIED_TIMED_OUT].n++;
        if (conn_is_up(c))
            p->tried[TRIED_UNPROVEN].n++;
        if (c->state == CONN_GO)
            NOTE(p->tried[TRIED_UNPROVEN].why, "node %u has not chosen it", p->s->peer);
    }
}

/* Add to T how often which attempts failed. */
static void punch_add_tried(const Punch *p, Text *t)
{
    static const Str what[OUTCOMES] = {
        [TRIED_TIMED_OUT] = "attempts timed out", [TRIED_REFUSED] = "refused",
        [TRIED_OTHER] = "failed: ", [TRIED_UNPROVEN] = "without handshake: " };
    Str separator = ":";
    TIMES(i, OUTCOMES) {
        int n = p->tried[i].n;
        if (!n) continue;
        add(t, "%s %d %s", separator, n, what[i]);
        if (i == TRIED_OTHER || i == TRIED_UNPROVEN)
            add(t, "%s", p->tried[i].why);
        separator = ",";
    }
}

/* The time is over: fail, and write into p->why what was tried. */
static void punch_timed_out(Punch *p)
{
    static const Str hints[] = {
        [MAPPING_UNKNOWN] = "; see by pashlib addr, with two STUN servers, whether the NAT here "
            "gives a different port to every destination",
        [MAPPING_INDEPENDENT] = "",
        [MAPPING_DEPENDENT] = "; the NAT here gives a different port to every destination "
            "(mapping=endpoint-dependent)" };
    const Addr *external = &p->peer.external, *local = &p->peer.local;
    long long tenths = (after(0).ms - p->began.ms + 50) / 100;
    double seconds = (double)tenths / 10;
    Text t = { p->why, WHY_MAX, 0 };
    p->state = PUNCH_FAILED;
    if (p->peer.what == NEWS_ABSENT) {
        add(&t, "node %u did not register at %.300s within %g s", p->s->peer,
            settings.rendezvous.text, seconds);
        return;
    }
    punch_count_open(p);
    add(&t, "no connection to node %u (external %s, local %s) from %s within %g s", p->s->peer,
        external->port ? SHOW(external) : "none", local->port ? SHOW(local) : "none",
        SHOW(&p->s->external), seconds);
    punch_add_tried(p, &t);
    if (p->s->source == SOURCE_STUN)
        add(&t, "%s", hints[p->s->mapping]);
}

/* Returns when time is over: where GO is awaited, the lower node may decide for a while longer. */
static Deadline punch_limit(Punch *p)
{
    Deadline limit = p->limit;
    FOR_CONNS(c, p)
        if (c->state == CONN_GO)
            limit.ms = p->limit.ms + GRACE_MS;
    return limit;
}

/* Try the targets that are due, and set FDS to what is waited for. Returns when something is due
 * next. */
static Deadline punch_wants(Punch *p, struct pollfd *fds)
{
    Deadline next = punch_limit(p);
    int late = over(p->limit);
    TIMES(i, CONNS_MAX) {
        Conn *c = &p->conns[i];
        while (c->state == CONN_PAUSES && over(c->end) && !late)
            target_try(p, c);
        short events = c->state == CONN_CONNECTS ? POLLOUT : POLLIN;
        fds[AT_CONNS + i] = watch(c->fd, events);
        int rests = c->state == CONN_FREE || (c->state == CONN_PAUSES && late);
        if (!rests)
            next = sooner(next, c->end);
    }
    return next;
}

/* Wait for what comes next, and take it. */
static void punch_turn(Punch *p)
{
    struct pollfd fds[AT_CONNS + CONNS_MAX] = { [AT_RDV] = watch(p->rdv, POLLIN),
                               [AT_LISTENER] = watch(p->s->listener, POLLIN),
                               [AT_STUN] = watch(p->s->stun, POLLIN) };
    if (over(punch_limit(p))) {
        punch_timed_out(p);
        return;
    }
    Deadline next = punch_wants(p, fds);
    wait_for(fds, COUNT(fds), next);
    for (int i = 0; i < CONNS_MAX && p->state == PUNCH_GOES_ON; i++) {
        Conn *c = &p->conns[i];
        if (fds[AT_CONNS + i].revents && c->state == CONN_CONNECTS)
            target_event(p, c);
        else if (fds[AT_CONNS + i].revents)
            conn_read(p, c);
        else if (conn_is_up(c) && over(c->end))
            conn_failed(p, c, "it did not complete the handshake in time");
    }
    if (p->state != PUNCH_GOES_ON) return;
    if (fds[AT_STUN].revents) {
        SAY("the STUN server closed the connection that kept %s: the NAT may give "
            "another port now", SHOW(&p->s->external));
        reset_fd(&p->s->stun);
    }
    if (fds[AT_LISTENER].revents)
        punch_accept(p);
    if (fds[AT_RDV].revents)
        punch_news(p);
}

/* Join S with its peer; RDV leads to its rendezvous process. 1: *SOCK is a non-blocking socket, for
 * the caller to close. 0: it is -1. */
static int punch(Stream *s, int rdv, int *sock, Why why)
{
    Punch p = { .state = PUNCH_GOES_ON, .s = s, .rdv = rdv,
                .chosen = -1, .why = why, .peer.what = NEWS_ABSENT,
                .began = after(0), .limit = after(settings.peer_ms),
                .tried[TRIED_UNPROVEN].why = "it was silent" };
    TIMES(i, CONNS_MAX)
        p.conns[i].fd = -1;
    set_nonblocking(s->listener);
    while (p.state == PUNCH_GOES_ON)
        punch_turn(&p);
    TIMES(i, CONNS_MAX)
        reset_fd(&p.conns[i].fd);
    reset_fd(&s->stun);
    *sock = p.chosen;
    return p.state == PUNCH_CONNECTED;
}

/* ---- 10. transfer: frames between a descriptor and the connection -----------------------------
 * The sender writes u32 length, 1 to 1,048,576, and as many bytes, again and again; at the end a
 * length of 0 and the u64 total. The receiver writes u64 2^64-2 every 15 s while it lives; at the
 * end the u64 total, or 2^64-1 if its reader went away. Integers are big-endian. Touches PATH
 * (which a job opens), standard input and output, the sizes of FIFOs, the socket. */

#define FRAME_MAX (1 << 20)                 /* bytes of data in a frame */
#define ALIVE_MS 15000                      /* between the signs of life of a receiver */
#define QUIET_MS 60000                      /* longest that a sender hears nothing */
#define FINISH_MS 10000                     /* longest wait for a sender that has its answer */
#define FIFO_MS 1000                        /* ms until we say that a FIFO's other end is missing */
#define FIFO_SIZE (1 << 20)                 /* bytes that a FIFO is to hold */
#define FIFOS_SIZE (32 << 20)               /* bytes that all FIFOs may hold */
/* A FIFO with fewer than FEW bytes is given GATHER_NS (ns) to collect more, if the last frame was
 * sent less than BUSY_MS ago. */
#define FEW (1 << 14)
#define GATHER_NS 150000
#define BUSY_MS 2
#define LOWAT_MAX (1 << 18)                 /* bytes waited for at the socket */
#define LOWAT_MS 10                         /* ms; longest wait for so many */
#define SAID_ALIVE (UINT64_MAX - 1)
#define SAID_GONE UINT64_MAX
typedef unsigned long long Count;           /* of bytes; printf has a short name for it */

/* How a transfer ended. GONE: the reader of the output went away. NOT: it goes on. */
typedef enum { ENDED_FAILED, ENDED_GONE, ENDED_WHOLE, ENDED_NOT } Ended;

/* The reader of frames: HAVE bytes of a header have come; LEFT bytes of the frame are to come. */
typedef struct { byte head[12]; size_t have, left; } Frames;

/* A stream on its way between FD and SOCK. BUF holds HAVE bytes, DONE of which are passed on. */
typedef struct {
    const Stream *s;
    int fd, sock;
    Job opening;                            /* opens the path; until then, FD is its socket */
    int is_fifo, is_socket;                 /* what FD is */
    int fast;                               /* bytes are moved, not copied */
    size_t write_max;                       /* bytes that can be written without sleeping */
    byte *buf;
    size_t have, done;
    Count total;                            /* data that was read (sender) or written (receiver) */
    /* of the sender: */
    size_t header;                          /* bytes at the start of BUF that are not data */
    size_t left;                            /* bytes of the frame to move after those in BUF */
    int at_end;                             /* the end frame is in BUF, or has been sent */
    Deadline busy;                          /* until then, the last frame counts as recent */
    byte answer[8];
    size_t answer_have;                     /* bytes of ANSWER */
    Deadline quiet;                         /* until then, the receiver must be heard */
    /* of the receiver: */
    Frames in;
    enum { FOR_SOCKET, FOR_OUTPUT } waits;
    int lowat;                              /* how many bytes poll() waits for at the socket */
    int slow;                               /* nothing was ready when the last wait ended */
    Deadline alive;                         /* until then, the sender need not hear of us */
} Flow;

/* Linux moves the bytes of a FIFO without copying them, in an eighth of nc's time. splice() never
 * sleeps here, even if standard input or output may block. Files are copied: splice() passes pages
 * by reference, so a later write to the file would change data in flight. */
#if defined __linux__ && !defined PASHLIB_NO_SPLICE
#define CAN_MOVE 1
#define MORE_FOLLOWS MSG_MORE
#define SPLICE(from, to, n) splice(from, NULL, to, NULL, n, SPLICE_F_NONBLOCK)
#define PAUSE_NS(ns) ppoll(NULL, 0, &(struct timespec){ 0, ns }, NULL)
#else
#define CAN_MOVE 0
#define MORE_FOLLOWS 0
#define SPLICE(from, to, n) ((void)(from), (void)(to), (void)(n), -1)
#define PAUSE_NS(ns) ((void)(ns))
#endif

static Moved splice_bytes(int from, int to, size_t n)
{
    return judge_moved("splice", to, SPLICE(from, to, n));
}

/* Make FD the input or output. A receiver that sleeps in write() cannot say that it lives. So one
 * write takes no more than poll() promises room for: one byte at a terminal, PIPE_BUF at a pipe.
 * Writes to files and devices are taken not to sleep. A FIFO is enlarged: one of 64 KiB costs twice
 * the time of one of 1 MiB. All FIFOs together take half of what Linux gives an ordinary user;
 * beyond that, new ones would be very small. */
static void flow_open(Flow *f, int fd)
{
    struct stat st = { 0 };
    f->fd = fd;
    fstat(fd, &st);
    f->is_fifo = S_ISFIFO(st.st_mode);
    f->is_socket = S_ISSOCK(st.st_mode);
    f->fast = CAN_MOVE && f->is_fifo;
    f->write_max = PASHLIB_BUFFER;
    int blocks = !(fcntl(fd, F_GETFL) & O_NONBLOCK);
    if (blocks && isatty(fd))
        f->write_max = 1;
    if (blocks && f->is_fifo)
        f->write_max = PIPE_BUF;
#ifdef F_SETPIPE_SZ
    int want = FIFOS_SIZE / f->s->streams;
    if (want > FIFO_SIZE) want = FIFO_SIZE;
    if (f->is_fifo && fcntl(fd, F_GETPIPE_SZ) < want)
        fcntl(fd, F_SETPIPE_SZ, want);
#endif
}

/* A message that carries an error, and a descriptor in its control data (SCM_RIGHTS). */
typedef struct {
    errnum error;
    struct iovec iov;
    struct msghdr m;
    size_t control[8];                      /* more than CMSG_SPACE(sizeof (int)) bytes */
} Parcel;

static void parcel_begin(Parcel *p, int fd)
{
    *p = (Parcel){ .error = EIO };
    p->iov = (struct iovec){ &p->error, sizeof p->error };
    p->m.msg_iov = &p->iov;
    p->m.msg_iovlen = 1;
    p->m.msg_control = p->control;
    p->m.msg_controllen = CMSG_SPACE(sizeof fd);
    struct cmsghdr *head = CMSG_FIRSTHDR(&p->m);
    head->cmsg_len = CMSG_LEN(sizeof fd);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
}

/* Job: open the path of stream ARG, waiting for the other end of a FIFO, and pass it on. */
static void path_job(int sock, const void *arg)
{
    const Stream *s = arg;
    int flags = s->sends ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC;
    int fd = open(s->path, flags | O_NOCTTY, 0666);
    errnum error = error_of(fd);
    Parcel p;
    parcel_begin(&p, fd);
    p.error = error;
    if (error)
        p.m.msg_controllen = 0;
    while (sendmsg(sock, &p.m, 0) < 0 && errno == EINTR) continue;
}

/* Take the descriptor from the job, which has opened the path or could not. */
static int path_opened(Flow *f, Why why)
{
    Parcel p;
    ssize_t n;
    int fd = -1;
    parcel_begin(&p, fd);
    do n = recvmsg(f->opening.fd, &p.m, 0);
    while (n < 0 && errno == EINTR);
    job_end(&f->opening);
    struct cmsghdr *head = CMSG_FIRSTHDR(&p.m);
    if (n > 0 && head)
        memcpy(&fd, CMSG_DATA(head), sizeof fd);
    if (fd < 0)
        return FAIL(why, "opening %.300s: %s", f->s->path, strerror(p.error));
    set_nonblocking(fd);
    flow_open(f, fd);
    return 1;
}

/* How many bytes of the data have not been passed on. */
static Count unsent(const Flow *f)
{
    size_t from = f->done > f->header ? f->done : f->header;
    return f->have - from + f->left;
}

static Ended connection_lost(const Flow *f, Why why)
{
    Count n = f->total - (f->s->sends ? unsent(f) : 0);
    return FAIL(why, "connection lost after %llu bytes: output is incomplete", n);
}

/* Moving bytes over the connection failed with ERROR: it is lost, or something else is wrong. */
static Ended connection_failed(const Flow *f, errnum error, Why why)
{
    if (error != EINVAL && error != EPERM && error != ENOSYS && error != ENOMEM)
        return connection_lost(f, why);
    return FAIL(why, "moving %.300s over the connection: %s", f->s->path, strerror(error));
}

/* -- the sender -- */

typedef enum { HEARD_LOST, HEARD_NOTHING, HEARD_ANSWER } Heard;

/* Take what the receiver says, without waiting. ANSWER: it is in f->answer. */
static Heard hear(Flow *f)
{
    for (;;) {
        size_t have = f->answer_have;
        Moved in = socket_recv(f->sock, f->answer + have, sizeof f->answer - have);
        if (in.what == MOVED_NOTHING) return HEARD_NOTHING;
        if (in.what != MOVED_SOME) return HEARD_LOST;
        f->quiet = after(QUIET_MS);
        f->answer_have += in.n;
        if (f->answer_have < sizeof f->answer)
            continue;
        f->answer_have = 0;
        if (get(f->answer, 8) != SAID_ALIVE)
            return HEARD_ANSWER;
    }
}

/* Returns how many bytes of the next frame can be moved from the input; 0: unknown, or none. */
static size_t input_holds(const Flow *f)
{
    int n = 0;
    if (!f->fast || ioctl(f->fd, FIONREAD, &n) < 0)
        return 0;
    return n < FRAME_MAX ? (size_t)n : FRAME_MAX;
}

static int frame_pending(const Flow *f)
{
    return f->done < f->have || f->left;
}

/* Begin the next frame, if there is input: all that a FIFO holds, or what one read() gives. If that
 * is little and soon after the last frame, wait for more: where the input is written 100 bytes at a
 * time, this cuts the time of the transfer to a fifth. */
static int frame_begin(Flow *f, Why why)
{
    Moved in = { MOVED_SOME, 0, 0 };
    size_t holds = input_holds(f);
    if (holds && holds < FEW && !over(f->busy)) {
        PAUSE_NS(GATHER_NS);
        holds = input_holds(f);
    }
    if (!holds)
        in = judge_moved("read", f->fd,
                         read(f->fd, f->buf + 4, PASHLIB_BUFFER));
    if (in.what == MOVED_NOTHING) return 1;
    if (in.what == MOVED_FAILED)
        return FAIL(why, "reading %.300s: %s", f->s->path, strerror(in.error));
    size_t data = holds ? holds : in.n;
    f->at_end = in.what == MOVED_END;
    f->left = holds;
    f->total += data;
    f->done = 0;
    f->header = f->at_end ? 12 : 4;
    f->have = f->header + in.n;
    put(f->buf, 4, data);
    if (f->at_end)
        put(f->buf + 4, 8, f->total);
    return 1;
}

/* Send what the socket takes of the frame. MOVED_END: another process took what was to move. */
static Moved frame_send(Flow *f)
{
    Moved out = { MOVED_SOME, 0, 0 };
    while (frame_pending(f) && out.what == MOVED_SOME) {
        size_t copied = f->have - f->done;
        int more = f->left ? MORE_FOLLOWS : 0;
        if (copied)
            out = socket_send(f->sock, f->buf + f->done, copied, more);
        else
            out = splice_bytes(f->fd, f->sock, f->left);
        if (copied) f->done += out.n;
        else f->left -= out.n;
    }
    if (!frame_pending(f))
        f->busy = after(BUSY_MS);
    return out;
}

/* Wait for the receiver, and, as needed, for the input or for room at the socket. If another reader
 * of the FIFO has taken the rest of a frame, we wait for the input. */
static void sender_wait(const Flow *f, struct pollfd *fds)
{
    int pending = frame_pending(f);
    int starved = pending && f->done == f->have && !input_holds(f);
    int hungry = starved || (!pending && !f->at_end);
    fds[0] = watch(f->sock, POLLIN);
    fds[1] = watch(hungry ? f->fd : -1, POLLIN);
    if (pending && !starved)
        fds[0].events |= POLLOUT;
    wait_for(fds, 2, f->quiet);
}

/* Carry the input to the socket until the receiver has given its answer. ENDED_WHOLE: it is in
 * f->answer. We look for it while idle, while writing, and after a write that failed. */
static Ended send_frames(Flow *f, Why why)
{
    struct pollfd fds[2];
    for (;;) {
        Heard heard = HEARD_NOTHING;
        sender_wait(f, fds);
        if (fds[0].revents & ~POLLOUT)
            heard = hear(f);
        if (heard == HEARD_ANSWER) return ENDED_WHOLE;
        if (heard == HEARD_LOST || over(f->quiet))
            return connection_lost(f, why);
        if (fds[1].revents && f->opening.pid) {
            if (!path_opened(f, why)) return ENDED_FAILED;
        } else if (fds[1].revents && !frame_pending(f)) {
            if (!frame_begin(f, why)) return ENDED_FAILED;
        }
        Moved out = frame_send(f);
        if (out.what == MOVED_SOME || out.what == MOVED_NOTHING)
            continue;
        if (hear(f) == HEARD_ANSWER) return ENDED_WHOLE;
        if (out.what == MOVED_FAILED)
            return connection_failed(f, out.error, why);
        return FAIL(why, "reading %.300s: another process reads from it, too", f->s->path);
    }
}

static int send_stream(Flow *f, Why why)
{
    f->quiet = after(QUIET_MS);
    if (send_frames(f, why) == ENDED_FAILED) return 0;
    Count said = get(f->answer, 8), sent = f->total - unsent(f);
    if (said == SAID_GONE) {
        SAY("node %u needs no more: its reader went away", f->s->peer);
        socket_shutdown(f->sock);
        /* Our job may still wait for the FIFO's writer, who shall get SIGPIPE, not hang. */
        while (f->opening.pid && !wait_for_one(f->fd, POLLIN, never()))
            continue;
    } else if (!f->at_end || frame_pending(f) || said != f->total)
        return FAIL(why, "node %u has %llu bytes of %llu: output is incomplete", f->s->peer, said,
                    sent);
    SAY("sent %llu bytes", sent);
    return 1;
}

/* -- the receiver -- */

typedef enum { FRAMES_BAD, FRAMES_LOST, FRAMES_NOTHING, FRAMES_DATA, FRAMES_END } FramesGot;

/* Take the next bytes from SOCK: of a header, or of a frame. DATA: *N bytes, MAX at most, are in
 * BUF. NOTHING: call again after poll(). END: the total is behind the length in f->head. BAD: WHY
 * has the reason. LOST: the connection has ended. */
static FramesGot frames_read(Frames *f, int sock, byte *buf, size_t max, size_t *n, Why why)
{
    size_t want = (f->have < 4 ? 4 : 12) - f->have;
    if (f->left)
        want = f->left < max ? f->left : max;
    Moved in = socket_recv(sock, f->left ? buf : f->head + f->have, want);
    if (in.what == MOVED_NOTHING) return FRAMES_NOTHING;
    if (in.what != MOVED_SOME) return FRAMES_LOST;
    if (f->left) {
        f->left -= in.n;
        *n = in.n;
        return FRAMES_DATA;
    }
    f->have += in.n;
    if (f->have == 12) return FRAMES_END;
    if (f->have != 4) return FRAMES_NOTHING;
    uint64_t length = get(f->head, 4);
    if (length == 0) return FRAMES_NOTHING;                     /* the total follows */
    if (length > FRAME_MAX)
        return FAIL(why, "a frame of %llu bytes is none", (Count)length);
    f->left = (size_t)length;
    f->have = 0;
    return FRAMES_NOTHING;
}

/* Tell the sender SAID. Only such few bytes go this way, so there is room for them. */
static errnum tell(int sock, uint64_t said)
{
    byte m[8];
    put(m, 8, said);
    return send_message(sock, m, sizeof m);
}

/* Tell the sender that we live, where that is due. */
static errnum receiver_lives(Flow *f)
{
    if (!over(f->alive)) return 0;
    f->alive = after(ALIVE_MS);
    return tell(f->sock, SAID_ALIVE);
}

/* Wait for the socket or the output. The reader of a FIFO or a socket is always watched. poll()
 * waits for many bytes of a frame at once, but not for long: the link may be slow, and Linux before
 * 4.18 may have less room than that at the socket. */
static void receiver_wait(Flow *f, struct pollfd *fds)
{
    Deadline end = f->alive;
    fds[0] = watch(f->sock, POLLIN);
    fds[1] = watch(f->fd, 0);
    if (f->opening.pid) {
        fds[0].events = POLLRDHUP;
        fds[1].events = POLLIN;
    } else if (f->waits == FOR_OUTPUT) {
        fds[0].fd = -1;
        fds[1].events = POLLOUT;
    } else {
        int lowat = f->in.left < LOWAT_MAX ? (int)f->in.left : LOWAT_MAX;
        if (!f->in.left || f->slow)
            lowat = 1;
        if (lowat != f->lowat)
            set_option(f->sock, SOL_SOCKET, SO_RCVLOWAT, lowat);
        f->lowat = lowat;
        if (lowat > 1)
            end = sooner(end, after(LOWAT_MS));
        if (!f->is_fifo && !f->is_socket)
            fds[1].fd = -1;
    }
    f->slow = wait_for(fds, 2, end) == 0;
}

/* Write what is in the buffer, or move what is at the socket. */
static Ended receiver_write(Flow *f, Why why)
{
    size_t copied = f->have - f->done, n = copied < f->write_max ? copied : f->write_max;
    Moved out;
    if (!copied)
        out = splice_bytes(f->sock, f->fd, f->in.left);
    else if (f->is_socket)
        out = socket_send(f->fd, f->buf + f->done, n, MSG_DONTWAIT);
    else
        out = judge_moved("write", f->fd,
                          write(f->fd, f->buf + f->done, n));
    /* Only the output gives these: an ended connection gives 0, or ECONNRESET to splice(). */
    if (out.error == EPIPE || (copied && f->is_socket && out.error == ECONNRESET))
        return ENDED_GONE;
    if (out.what == MOVED_FAILED && copied)
        return FAIL(why, "writing %.300s: %s", f->s->path, strerror(out.error));
    if (out.what == MOVED_FAILED)
        return connection_failed(f, out.error, why);
    if (out.what == MOVED_END)
        return connection_lost(f, why);
    f->total += out.n;
    if (copied) f->done += out.n;
    else f->in.left -= out.n;
    /* If nothing was moved although the socket was ready, the output was not. */
    int output_lacks = !copied && out.what == MOVED_NOTHING && f->waits == FOR_SOCKET;
    f->waits = FOR_SOCKET;
    if (f->done < f->have || output_lacks)
        f->waits = FOR_OUTPUT;
    return ENDED_NOT;
}

/* Take what has come: bytes for the buffer, or the header of a frame that is moved. A lost
 * connection is FRAMES_BAD here, too. */
static FramesGot receiver_read(Flow *f, Why why)
{
    f->done = 0;
    f->have = 0;
    FramesGot got = frames_read(&f->in, f->sock, f->buf, PASHLIB_BUFFER,
                                &f->have, why);
    if (f->have)
        f->waits = FOR_OUTPUT;
    if (got != FRAMES_LOST) return got;
    connection_lost(f, why);
    return FRAMES_BAD;
}

/* While the path is being opened: take it, or see that the connection has ended. */
static int receiver_opens(Flow *f, const struct pollfd *fds, Why why)
{
    if (fds[1].revents)
        return path_opened(f, why);
    if (!fds[0].revents) return 1;
    connection_lost(f, why);
    return 0;
}

/* Carry what comes over the socket to the output. */
static Ended recv_frames(Flow *f, Why why)
{
    FramesGot got = FRAMES_NOTHING;
    struct pollfd fds[2];
    while (got != FRAMES_END) {
        receiver_wait(f, fds);
        errnum error = receiver_lives(f);
        if (error)
            return connection_failed(f, error, why);
        if (f->opening.pid) {
            if (!receiver_opens(f, fds, why)) return ENDED_FAILED;
            continue;
        }
        int moves = fds[0].revents && f->fast && f->in.left;
        if (fds[1].revents && f->waits == FOR_SOCKET)
            return ENDED_GONE;
        if (fds[1].revents || moves) {
            Ended how = receiver_write(f, why);
            if (how != ENDED_NOT) return how;
        } else if (fds[0].revents)
            got = receiver_read(f, why);
        if (got == FRAMES_BAD) return ENDED_FAILED;
    }
    Count total = get(f->in.head + 4, 8);
    if (total == f->total) return ENDED_WHOLE;
    return FAIL(why, "received %llu bytes of %llu: output is incomplete",
                f->total, total);
}

/* Send the answer, and wait until the sender closes, which shows that it has the answer. The data
 * is whole: nothing that fails here, poll() included, changes that. */
static void receiver_finish(int sock, uint64_t said)
{
    Deadline end = after(FINISH_MS);
    char rest[4096];
    struct pollfd one = watch(sock, POLLIN);
    Moved in = { MOVED_SOME, 0, 0 };
    if (tell(sock, said) != 0 || socket_shutdown(sock) != 0)
        in.what = MOVED_FAILED;
    while (!over(end)) {
        if (in.what == MOVED_FAILED || in.what == MOVED_END)
            break;
        if (poll(&one, 1, ms_left(end)) < 0 && errno != EINTR)
            break;
        in = socket_recv(sock, rest, sizeof rest);
    }
    if (in.what != MOVED_END)
        SAY("the sender has not confirmed that it knows of the end");
}

static int recv_stream(Flow *f, Why why)
{
    f->alive = after(ALIVE_MS);
    f->lowat = 1;
    Ended how = recv_frames(f, why);
    if (how == ENDED_WHOLE && close(f->fd) < 0 && errno != EINTR)
        return FAIL(why, "closing %.300s: %s", f->s->path, strerror(errno));
    if (how == ENDED_FAILED) return 0;
    receiver_finish(f->sock, how == ENDED_GONE ? SAID_GONE : f->total);
    if (how == ENDED_GONE)
        SAY("the reader of %s went away", f->s->path);
    SAY("received %llu bytes", f->total);
    return 1;
}

/* Carry stream S over SOCK. FD: standard input or output; -1: a job opens the path of S, since
 * open() waits for the other end of a FIFO. */
static int transfer(const Stream *s, int fd, int sock, Why why)
{
    Flow f = { .s = s, .sock = sock };
    if (fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == (fd ? O_RDONLY : O_WRONLY))
        return FAIL(why, "opening -: %s", strerror(EBADF));     /* see standard_open() */
    if (fd >= 0)
        flow_open(&f, fd);
    else {
        if (!job_start(&f.opening, path_job, s, why))
            return 0;
        f.fd = f.opening.fd;
        if (!wait_for_one(f.fd, POLLIN, after(FIFO_MS)))
            SAY("waiting for the other end of %s", s->path);
    }
    f.buf = allocate(1, PASHLIB_BUFFER + 12);                   /* the end frame has 12 bytes */
#ifdef TCP_USER_TIMEOUT
    if (!s->sends)
        set_option(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, QUIET_MS);
#endif
    int good = s->sends ? send_stream(&f, why) : recv_stream(&f, why);
    job_end(&f.opening);
    return good;
}

/* ---- 11. command line: parse it, a child for every stream, gather the results -----------------
 * Touches standard output (addr, --help, --version), signals, the limit of descriptors, processes,
 * and descriptors 0, 1 and 2 (opened on /dev/null if closed, replaced by let_go()). It completes
 * `settings` with the endpoint and the text of the rendezvous, and drops STUN servers. */

#define EXIT_USAGE 2                        /* the command line or a setting is wrong */
#define STREAM_WORDS 5

/* Flush standard output. Returns an exit status; on EXIT_FAILURE, the reason was logged. */
static int printed(void)
{
    errnum error = error_of(fflush(stdout));
    if (!error && ferror(stdout))
        error = EIO;                        /* an earlier write failed */
    if (!error) return EXIT_SUCCESS;
    COMPLAIN("standard output: %s", strerror(error));
    return EXIT_FAILURE;
}

static int print_help(void)
{
    printf("usage: pashlib STREAM...                 carry streams until all have ended\n"
           "       pashlib send KEY ME PEER [PATH]   one stream, as words; [standard input]\n"
           "       pashlib recv KEY ME PEER [PATH]   ... [standard output]\n"
           "       pashlib addr                      print this machine's addresses\n"
           "       pashlib --help | --version\n\n"
           "STREAM is (send|recv)*KEY*ME*PEER*PATH. KEY: the same at both ends; ME and PEER:\n"
           "node numbers; PATH: a FIFO or file, or - for standard input or output.\n"
           "Exit status: 0 all delivered, 1 a stream failed, 2 wrong usage or setting.\n\n"
           "Environment [default]:\n");
    FOR_EACH(const Setting, t, setting_table, COUNT(setting_table))
        printf(t->unset ? "  %-29s %s [%s]\n" : "  %-29s %s\n", t->name, t->what, t->unset);
    printf("\nRendezvous: dynamodb:rdv where AWS_REGION or AWS_DEFAULT_REGION is set, else\n"
           "dir:${TMPDIR:-/tmp}/pashlib-UID. The data is not encrypted; README says more.\n");
    return printed();
}

/* Parse WORD, node number NAME (ME or PEER) of S, into *NODE. 0: the log says why not. */
static int node_parse(const Stream *s, Str name, Str word, unsigned *node)
{
    unsigned long n;
    if (!number(word, INT_MAX, &n))
        return COMPLAIN("%s %s: %s is \"%s\": want a number, 0 to %d", s->role, s->key, name, word,
                      INT_MAX);
    *node = (unsigned)n;
    return 1;
}

/* Fill S from its five words, which must stay where they are; if the last is NULL, it is "-". 0:
 * the log says why not. */
static int stream_parse(Stream *s, char *const *word)
{
    *s = (Stream){ .role = word[0], .key = word[1],
                   .sends = equal(word[0], "send"),
                   .path = word[4] ? word[4] : "-",
                   .listener = -1, .udp = -1, .stun = -1 };
    if (!s->sends && !equal(s->role, "recv"))
        return COMPLAIN("\"%s\" is not send or recv", s->role);
    if (!*s->key || strlen(s->key) > NAME_LEN
        || strchr(s->key, '*'))
        return COMPLAIN("KEY is \"%s\": want 1 to %d bytes, no *", s->key, NAME_LEN);
    if (!node_parse(s, "ME", word[2], &s->me))
        return 0;
    if (!node_parse(s, "PEER", word[3], &s->peer))
        return 0;
    if (s->me == s->peer)
        return COMPLAIN("%s %s: ME and PEER are both %u", s->role, s->key, s->me);
    if (!*s->path)
        return COMPLAIN("%s %s: PATH is empty", s->role, s->key);
    /* A child has other files under these names; see let_go(). */
    if (equal(s->path, s->sends ? "/dev/stdin" : "/dev/stdout"))
        s->path = "-";
    if (equal(s->path, s->sends ? "/dev/fd/0" : "/dev/fd/1"))
        s->path = "-";
    return 1;
}

/* Fill S from TEXT, (send|recv)*KEY*ME*PEER*PATH, which is cut at its first four stars. */
static int stream_split(Stream *s, char *text)
{
    char *word[STREAM_WORDS];
    Str rest = text;
    TIMES(i, STREAM_WORDS - 1) {
        rest = strchr(rest, '*');
        if (!rest)
            return COMPLAIN("\"%s\" is no (send|recv)*KEY*ME*PEER*PATH", text);
        rest++;
    }
    TIMES(i, STREAM_WORDS - 1)
        word[i] = strsep(&text, "*");
    word[STREAM_WORDS - 1] = text;
    return stream_parse(s, word);
}

/* Check what the rendezvous needs. A directory needs nothing; DynamoDB needs a region, an http://
 * endpoint (set here from the region, if it is unset), and both keys or neither. AWS offers
 * DynamoDB over HTTP in two partitions. 0: the log says what is missing. */
static int rendezvous_check(void)
{
    Place *place = &settings.rendezvous;
    Url *url = &settings.dynamodb;
    Str region = settings.region;
    char text[HOST_MAX];
    Why why;
    if (place->kind == PLACE_DIR) return 1;
    if (!region)
        return COMPLAIN("%s: neither AWS_REGION nor AWS_DEFAULT_REGION is set", place->text);
    if (region[strspn(region, NAME_CHARS)] || strlen(region) > 63)
        return COMPLAIN("region %s is none", region);
    if (url->scheme == URL_UNSET) {
        if (strstr(region, "-iso") || begins_with(region, "eusc-"))
            return COMPLAIN("region %s: set AWS_ENDPOINT_URL_DYNAMODB, to an http:// "
                            "endpoint", region);
        Str suffix = begins_with(region, "cn-") ? ".cn" : "";
        FORMAT(text, "http://dynamodb.%s.amazonaws.com%s", region, suffix);
        if (!parse_url(url, text, why))
            return COMPLAIN("region %s: %s", region, why);
    }
    if (url->scheme == URL_HTTPS)
        return COMPLAIN("endpoint https://%s: no TLS here, only signed requests over http://; "
                      "see README", url->authority);
    if (!settings.creds.id[0] != !settings.creds.secret[0])
        return COMPLAIN("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only the %s is set",
                        settings.creds.id[0] ? "former" : "latter");
    FORMAT(place->text, "dynamodb:%.255s (%.63s)", place->name, region);
    return 1;
}

/* Open descriptors 0, 1 and 2 on /dev/null if they are closed, so that no socket takes their
 * numbers. 0 cannot be read and 1 cannot be written, so that a stream that wants to do so fails. */
static void standard_open(void)
{
    TIMES(fd, 3) {
        int flags = fd == 1 ? O_RDONLY : O_WRONLY;
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", flags) != fd)
            _exit(1);
    }
}

/* Raise the limit of descriptors to the maximum, and drop STUN servers that it has no room for:
 * otherwise the last streams could ask none. */
static void descriptors_fit(int streams)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (; settings.stun.n > 1; settings.stun.n--) {
        rlim_t need = (rlim_t)streams * (unsigned)(settings.stun.n + 2) + 64;
        if (need <= files.rlim_cur) return;
        SAY("too few descriptors to ask STUN server %s, too",
            settings.stun.list[settings.stun.n - 1].name);
    }
}

/* What the processes of a stream get. MASK: the signals that were blocked at our start. */
typedef struct { Stream *all; int n; Stream *s; sigset_t mask; } Start;

/* Close standard input and output except KEEP (-1: neither), and the listeners and STUN connections
 * of all streams except ONE (NULL: none): otherwise they would stay open here after their own
 * processes have closed them. Descriptors 0 and 1 become a socket, which no name such as
 * /proc/self/fd/1 can open. */
static void let_go(const Start *start, const Stream *one, int keep)
{
    int none = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (none < 0)
        die("socket", errno);
    FOR_EACH(Stream, s, start->all, start->n) {
        if (s == one) continue;
        close_fd(&s->listener);
        close_fd(&s->stun);
    }
    TIMES(fd, 2)
        if (fd != keep && dup2(none, fd) < 0)
            die("socket", errno);
    close_fd(&none);
}

/* Job: the rendezvous process. The signals that end us do not end it, since it has to withdraw. */
static void rdv_job(int fd, const void *arg)
{
    const Start *start = arg;
    let_go(start, NULL, -1);
    rdv_run(fd, start->s);
}

/* Job: join a stream with its peer and carry it. Its exit status is the stream's. */
static void stream_job(int unused, const void *arg)
{
    const Start *start = arg;
    Stream *s = start->s;
    int fd = -1, sock;
    Why why;
    if (equal(s->path, "-"))
        fd = s->sends ? 0 : 1;
    close(unused);
    sigprocmask(SIG_SETMASK, &start->mask, NULL);
    let_go(start, s, fd);
    int good = punch(s, s->rdv.fd, &sock, why);
    close(s->rdv.fd);                                /* This makes RDV withdraw the registration. */
    if (good)
        good = transfer(s, fd, sock, why);
    if (!good) COMPLAIN("%s", why);
    _exit(good ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void nothing(int sig)
{
    (void)sig;
}

/* Set WANTED to what the parent waits for: its children and the alarm, which the system would drop
 * if they were not caught, and the signals that end us, unless they were ignored at the start.
 * SIGPIPE ends us even then. */
static void signals_begin(sigset_t *wanted)
{
    static const int signals[] = { SIGCHLD, SIGALRM, SIGPIPE, SIGHUP, SIGINT, SIGTERM };
    struct sigaction old;
    signal(SIGCHLD, nothing);
    signal(SIGALRM, nothing);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(wanted);
    TIMES(i, COUNT(signals))
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaddset(wanted, signals[i]);
}

/* Start the two processes of each stream. 0: said what failed. */
static int streams_start(Start *start)
{
    Why why;
    int good = 1;
    FOR_EACH(Stream, s, start->all, start->n) {
        log_stream(s);
        start->s = s;
        s->streams = start->n;
        s->rdv_end = after(WITHDRAW_MS);
        if (!job_start(&s->rdv, rdv_job, start, why)
            || !job_start(&s->child, stream_job, start, why)) {
            COMPLAIN("%s", why);
            good = 0;
        }
        if (s->rdv.pid)
            close_fd(&s->rdv.fd);
        if (s->child.pid)
            close_fd(&s->child.fd);
    }
    return good;
}

/* 1: J's process has just ended, and *HOW is its wait status. */
static int job_ended(Job *j, int *how)
{
    if (!j->pid || waitpid(j->pid, how, WNOHANG) <= 0)
        return 0;
    j->pid = 0;
    return 1;
}

/* Take the processes of S that have ended; *STATUS becomes 1 if the stream failed. */
static void stream_reap(Stream *s, int *status)
{
    int how;
    job_ended(&s->rdv, &how);
    if (!job_ended(&s->child, &how))
        return;
    s->rdv_end = after(WITHDRAW_MS);
    if (how) *status = EXIT_FAILURE;
    if (WIFSIGNALED(how))
        COMPLAIN("its process ended by signal %d", WTERMSIG(how));
}

/* If the rendezvous process of S is left alone, end it when its time is over; until then, an alarm
 * makes us look again. */
static void rdv_limit(Stream *s)
{
    struct itimerval soon = { .it_value = { 0, 50000 } };       /* us */
    if (s->child.pid || !s->rdv.pid)
        return;
    if (!over(s->rdv_end)) {
        setitimer(ITIMER_REAL, &soon, NULL);
        return;
    }
    COMPLAIN("withdrawing the registration: not done in time");
    job_end(&s->rdv);
}

/* Wait until all processes of the N streams have ended. A signal that is to end us ends the streams
 * at once; their rendezvous processes withdraw. Returns that signal, or 0. Once the streams run,
 * the parent waits only here: for its children, whose waits have deadlines, for signals, and for
 * the alarm. */
static int streams_wait(Stream *s, int n, const sigset_t *wanted, int *status)
{
    int got = 0, sig;
    for (;;) {
        int lives = 0;
        TIMES(i, n) {
            log_stream(&s[i]);
            stream_reap(&s[i], status);
            rdv_limit(&s[i]);
            lives |= s[i].child.pid | s[i].rdv.pid;
        }
        if (!lives) return got;
        sigwait(wanted, &sig);
        if (sig == SIGCHLD || sig == SIGALRM || got)
            continue;
        got = sig;
        TIMES(i, n) {
            job_end(&s[i].child);                               /* nothing is written after us */
            s[i].rdv_end = after(WITHDRAW_HASTE_MS);
        }
    }
}

/* Carry the N streams. Returns the exit status, or ends by the signal that ended the streams. */
static int carry(Stream *s, int n)
{
    Start start = { .all = s, .n = n };
    sigset_t wanted;
    int role = settings.rendezvous.kind == PLACE_DYNAMODB && !settings.creds.id[0];
    descriptors_fit(n);
    signals_begin(&wanted);
    if (!discover(s, n, 0, role))
        return EXIT_FAILURE;
    SAY("rendezvous %s", settings.rendezvous.text);
    sigprocmask(SIG_BLOCK, &wanted, &start.mask);
    int status = streams_start(&start) ? EXIT_SUCCESS : EXIT_FAILURE;
    let_go(&start, NULL, -1);
    int sig = streams_wait(s, n, &wanted, &status);
    if (!sig) return status;
    sigprocmask(SIG_UNBLOCK, &wanted, NULL);
    raise(sig);
    return EXIT_FAILURE;
}

static int print_addresses(void)
{
    static const Str sources[] = {
        [SOURCE_STUN] = "stun", [SOURCE_PUBLIC_ADDR] = "PASH_PUBLIC_ADDR",
        [SOURCE_PUBLIC_IP] = "PASH_PUBLIC_IP", [SOURCE_IMDS] = "imds", [SOURCE_LOCAL] = "local" };
    static const Str mappings[] = {
        [MAPPING_UNKNOWN] = "", [MAPPING_INDEPENDENT] = "mapping=endpoint-independent\n",
        [MAPPING_DEPENDENT] = "mapping=endpoint-dependent\n" };
    Stream s = { .listener = -1, .udp = -1, .stun = -1 };
    if (!discover(&s, 1, 1, 0))
        return EXIT_FAILURE;
    printf("local_addr=%s\nexternal_addr=%s\nsource=%s\n%s", SHOW(&s.local), SHOW(&s.external),
           sources[s.source], mappings[s.mapping]);
    return printed();
}

/* Fill the N streams from WORDS: the words of one stream (AS_WORDS), or one star form for each
 * stream. 0: the log says why not. */
static int streams_parse(Stream *streams, int n, int as_words, char **words)
{
    if (as_words) return stream_parse(streams, words);
    TIMES(i, n) {
        const Stream *s = &streams[i];
        if (!stream_split(&streams[i], words[i]))
            return 0;
        FOR_EACH(const Stream, other, streams, i) {
            if (s->me == other->me && equal(s->key, other->key))
                return COMPLAIN("KEY \"%s\" and node %u come twice", s->key, s->me);
            if (s->sends == other->sends
                && equal(s->path, "-") && equal(other->path, "-"))
                return COMPLAIN("two streams share standard %s", s->sends ? "input" : "output");
        }
    }
    return 1;
}

/* Carry the streams that ARGV names. Returns the exit status. */
static int run_streams(int argc, char **argv)
{
    int as_words = equal(argv[1], "send") || equal(argv[1], "recv");
    int n = as_words ? 1 : argc - 1, status = EXIT_USAGE;
    if (as_words && (argc < 5 || argc > 6)) {
        COMPLAIN("%s takes KEY ME PEER [PATH]", argv[1]);
        return EXIT_USAGE;
    }
    Stream *s = allocate(n, sizeof *s);
    if (streams_parse(s, n, as_words, argv + 1) && rendezvous_check())
        status = carry(s, n);
    free(s);
    return status;
}

int main(int argc, char **argv)
{
    Str first = argc > 1 ? argv[1] : "";
    standard_open();
    signal(SIGPIPE, SIG_IGN);                         /* A failed print is an error, not our end. */
    if (equal(first, "--help"))
        return print_help();
    if (equal(first, "--version")) {
        printf("pashlib %s\n", VERSION);
        return printed();
    }
    if (!settings_read()) return EXIT_USAGE;
    if (equal(first, "addr") && argc == 2)
        return print_addresses();
    if (argc > 1 && !equal(first, "addr"))
        return run_streams(argc, argv);
    COMPLAIN(argc > 1 ? "addr stands alone" : "no stream is named; see pashlib --help");
    return EXIT_USAGE;
}
