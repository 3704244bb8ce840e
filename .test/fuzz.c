/*
 * The decoders of pashlib.c under libFuzzer. The variable FUZZ of the environment names one of the targets at the end.
 * Each target gives one input to one decoder, in a buffer of its very length, so that the sanitizer sees each step too
 * far, and calls abort() where what comes out cannot be right.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <strings.h>

/* In clang 14, libFuzzer crashes in its hook for the strncasecmp() of libc, so this one takes its place. */
static int plain_strncasecmp(const char *a, const char *b, unsigned long n) {
    int x = 0;
    int y = 0;
    for (; n > 0 && x == y; n--) {
        x = tolower((unsigned char)*a);
        y = tolower((unsigned char)*b);
        if (x == 0)
            break;
        a++;
        b++;
    }
    return x - y;
}
#define strncasecmp plain_strncasecmp

#define main pashlib_main
#include "pashlib.c"
#undef main

enum { INPUT_MAX = 60000 };                 /* what the buffers of a socket pair are sure to hold */

/* The transaction ID of the examples in RFC 5769. */
static const byte example_id[12] = {
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
};

/* Abort unless what must hold does. */
static void must(int holds) {
    if (!holds)
        abort();
}

/* A copy of the input, which the caller frees. */
static char *copy_of(const uint8_t *data, size_t n) {
    char *copy = malloc(n ? n : 1);
    must(copy != NULL);
    memcpy(copy, data, n);
    return copy;
}

/* A copy of the input with a zero byte behind it, which the caller frees. */
static char *text_of(const uint8_t *data, size_t n) {
    char *text = malloc(n + 1);
    must(text != NULL);
    memcpy(text, data, n);
    text[n] = 0;
    return text;
}

/* FD[0] becomes a socket from which the bytes can be read, and then the end. FD[1] is the other end of it. */
static void socket_with(int fd[2], const uint8_t *data, size_t n) {
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    must(write(fd[1], data, n) == (ssize_t)n);
    shutdown(fd[1], SHUT_WR);
    set_nonblocking(fd[0]);
}

/* A datagram from a STUN server. */
static void fuzz_stun(const uint8_t *data, size_t n) {
    Addr a;
    Why why;
    char *copy = copy_of(data, n);
    if (stun_decode((byte *)copy, n, example_id, &a, why) == STUN_ADDRESS)
        must(addr_usable(&a));
    free(copy);
}

/* A connection to a STUN server: the end of it must be seen. */
static void fuzz_stuntcp(const uint8_t *data, size_t n) {
    static const Host host = { .name = "server", .tcp = 1 };
    static Server server;
    Query q = { .state = QUERY_ASKED, .server = &server };
    int fd[2];
    server.host = &host;
    memcpy(q.id, example_id, sizeof q.id);
    socket_with(fd, data, n);
    q.fd = fd[0];
    for (int i = 0; i < 5000 && q.state == QUERY_ASKED; i++)
        stun_event(&q);
    must(q.state != QUERY_ASKED);
    close_fd(&q.fd);
    close(fd[1]);
}

/* A message from an HTTP server, which may go on, or has ended. */
static void fuzz_http(const uint8_t *data, size_t n) {
    for (int ended = 0; ended < 2; ended++) {
        Why why;
        char *text = text_of(data, n);
        Response r = { .m = text, .max = n + 1 };
        if (http_decode(&r, n, ended, why) == HTTP_DONE)
            must(r.body >= text && r.body + r.size <= text + n);
        free(text);
    }
}

/* A text of JSON, as of DynamoDB, and as of a registration. */
static void fuzz_json(const uint8_t *data, size_t n) {
    static const char *const paths[] = { "a", "Attributes/N_1/S", "Item/N_2147483647/S", "__type", "" };
    Addr a;
    char out[256];
    char *copy = copy_of(data, n);
    TIMES(i, COUNT(paths)) {
        if (json_find(copy, n, paths[i], out, sizeof out))
            must(memchr(out, 0, sizeof out) != NULL);
    }
    a = registration_get(copy, n, "local_addr");
    must(!a.port || addr_usable(&a));
    free(copy);
}

/* An address: what has been understood is understood again as it is printed. */
static void fuzz_address(const uint8_t *data, size_t n) {
    Addr a;
    Addr b;
    char *text = text_of(data, n);
    if (addr_parse(text, &a)) {
        must(addr_parse(SHOW(&a), &b));
        must(addr_same(&a, &b));
    }
    ip_parse(text, &a);
    registration_get(text, n, "external_addr");
    free(text);
}

/* A connection from somebody without the key: it must not be chosen. */
static void fuzz_hello(const uint8_t *data, size_t n) {
    Why why;
    Stream s = { .key = "k", .me = 1, .peer = 2, .stun = -1 };
    Conn c = { .state = CONN_HELLO, .end = never() };
    static Punch p;
    int fd[2];
    p = (Punch){ .state = PUNCH_GOES_ON, .s = &s, .chosen = -1, .why = why };
    if (n >= HELLO) {
        char *copy = copy_of(data, HELLO);
        hello_check(&s, (byte *)copy, why);
        free(copy);
    }
    socket_with(fd, data, n);
    c.fd = fd[0];
    hello_encode(&s, c.mine);
    TIMES(i, 4)                                             /* HELLO, proof, GO, and one more */
        if (conn_is_up(&c) && p.state == PUNCH_GOES_ON)
            conn_read(&p, &c);
    must(p.chosen < 0 && p.state != PUNCH_CONNECTED);
    close_fd(&c.fd);
    close(fd[1]);
}

/* What comes over the connection of a stream: no more can be written than has come. */
static void fuzz_frames(const uint8_t *data, size_t n) {
    Why why;
    Stream s = { .role = "recv", .key = "k", .path = "-", .streams = 1 };
    Flow f = { .s = &s, .lowat = 1, .alive = after(ALIVE_MS) };
    int fd[2];
    f.buf = malloc(PASHLIB_BUFFER + 12);
    must(f.buf != NULL);
    socket_with(fd, data, n);
    f.sock = fd[0];
    flow_open(&f, open("/dev/null", O_WRONLY));
    if (recv_frames(&f, why) == ENDED_WHOLE)
        must(f.total <= n);
    close(f.fd);
    close(fd[0]);
    close(fd[1]);
    free(f.buf);
}

/* A stream on the command line. */
static void fuzz_stream(const uint8_t *data, size_t n) {
    Stream s;
    char *text = text_of(data, n);
    if (strlen(text) == n)
        stream_split(&s, text);
    free(text);
}

/* A value for each of the settings. */
static void fuzz_settings(const uint8_t *data, size_t n) {
    Why why;
    char *text = text_of(data, n);
    TIMES(i, COUNT(setting_table)) {
        if (*text)
            setting_table[i].parse(setting_table[i].at, text, why);
    }
    free(text);
}

static const struct target {
    const char *name;
    void (*run)(const uint8_t *data, size_t n);
} targets[] = {
    { "stun", fuzz_stun },
    { "stuntcp", fuzz_stuntcp },
    { "http", fuzz_http },
    { "json", fuzz_json },
    { "address", fuzz_address },
    { "hello", fuzz_hello },
    { "frames", fuzz_frames },
    { "stream", fuzz_stream },
    { "settings", fuzz_settings },
};
static const struct target *target;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *name = getenv("FUZZ");
    (void)argc;
    (void)argv;
    TIMES(i, COUNT(targets)) {
        if (name && strcmp(name, targets[i].name) == 0)
            target = &targets[i];
    }
    must(target != NULL);
    settings.log_level = -1;                         /* The log says nothing. */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n <= INPUT_MAX)
        target->run(data, n);
    return 0;
}
