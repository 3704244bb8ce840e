/* load.c: what makes, takes and carries the data of the benchmark.
 *
 * load produce BYTES SIZE FIFO        write BYTES into FIFO, SIZE at a time; print when it began
 * load consume BYTES FIFO             read FIFO to its end, compare each byte; print when it ended
 * load send PORT FIFO                 the barest sender: FIFO to a connection to 127.0.0.1, in frames, by splice()
 * load recv PORT FIFO                 the barest receiver: the same, from the connection into FIFO
 * load ping COUNT PAUSE_US OUT IN     send a byte into OUT, wait for it at IN, COUNT times; print the median in us
 *
 * Times are those of the monotonic clock, in ns. The exit status is 0, or 1 if anything went wrong, or 2 for a wrong
 * command line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The data repeats itself after PERIOD bytes, which is a prime: no block looks like the one before. */
enum { PERIOD = 65521, BLOCK = 1 << 20 };

static unsigned char pattern[PERIOD + BLOCK];   /* the data: BLOCK bytes from any offset below PERIOD */
static unsigned char got[BLOCK];                /* what was read */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_fifo(const char *path, int flags)
{
    int fd = open(path, flags);
    if (fd < 0)
        die(path);
    return fd;
}

/* ---- produce, consume ---- */

static void fill_pattern(void)
{
    uint32_t x = 1;
    for (size_t i = 0; i < PERIOD; i++) {
        pattern[i] = (unsigned char)(x >> 16);
        x = x * 1103515245 + 12345;
    }
    for (size_t i = PERIOD; i < sizeof pattern; i++)
        pattern[i] = pattern[i - PERIOD];
}

static int produce(long long total, size_t size, int fd)
{
    printf("%lld\n", now());
    for (long long done = 0; done < total; done += (long long)size) {
        ssize_t n = write(fd, pattern + done % PERIOD, size);
        if (n < 0 || (size_t)n != size)
            die("produce");
    }
    return 0;
}

static int consume(long long total, int fd)
{
    long long done = 0;
    for (;;) {
        ssize_t n = read(fd, got, sizeof got);
        if (n < 0)
            die("consume");
        if (n == 0)
            break;
        if (memcmp(got, pattern + done % PERIOD, (size_t)n) != 0) {
            fprintf(stderr, "consume: wrong data at or after byte %lld\n", done);
            return 1;
        }
        done += n;
    }
    printf("%lld\n", now());
    if (done != total) {
        fprintf(stderr, "consume: %lld bytes instead of %lld\n", done, total);
        return 1;
    }
    return 0;
}

/* ---- send, recv: a frame is its length as an int, and as many bytes ---- */

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_port = htons((uint16_t)port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* The peer may not listen yet: try again and again. */
static int connect_to(int port)
{
    struct sockaddr_in a = loopback(port);
    for (;;) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (s < 0)
            die("socket");
        if (connect(s, (struct sockaddr *)&a, sizeof a) == 0)
            return s;
        close(s);
        usleep(1000);
    }
}

static int accept_on(int port)
{
    struct sockaddr_in a = loopback(port);
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0)
        die("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0)
        die("bind");
    if (listen(listener, 1) < 0)
        die("listen");
    int s = accept(listener, NULL, NULL);
    if (s < 0)
        die("accept");
    return s;
}

static void splice_all(int from, int to, int length)
{
    while (length > 0) {
        ssize_t n = splice(from, NULL, to, NULL, (size_t)length, 0);
        if (n <= 0)
            die("splice");
        length -= (int)n;
    }
}

static int send_frames(int fd, int s)
{
    for (;;) {
        int length;
        if (ioctl(fd, FIONREAD, &length) < 0)
            die("FIONREAD");
        if (length == 0) {
            struct pollfd p = { fd, POLLIN, 0 };
            poll(&p, 1, -1);
            if (!(p.revents & POLLIN))
                return 0;
            continue;
        }
        if (length > BLOCK)
            length = BLOCK;
        if (send(s, &length, sizeof length, MSG_MORE) != sizeof length)
            die("send");
        splice_all(fd, s, length);
    }
}

static int recv_frames(int s, int fd)
{
    int length;
    while (recv(s, &length, sizeof length, MSG_WAITALL) == sizeof length)
        splice_all(s, fd, length);
    return 0;
}

/* ---- ping ---- */

static int by_size(const void *a, const void *b)
{
    const long long *x = a;
    const long long *y = b;
    return (*x > *y) - (*x < *y);
}

static int ping(size_t count, unsigned pause_us, int out, int in)
{
    long long *took = calloc(count, sizeof *took);
    if (!took)
        die("calloc");
    for (size_t i = 0; i < count; i++) {
        long long began = now();
        if (write(out, "x", 1) != 1)
            die("ping: write");
        if (read(in, got, 1) != 1)
            die("ping: read");
        took[i] = now() - began;
        usleep(pause_us);
    }
    qsort(took, count, sizeof *took, by_size);
    printf("%.1f\n", (double)took[count / 2] / 1000);
    free(took);
    return 0;
}

/* ---- the command line ---- */

static int bare_sender(int port, const char *path)
{
    int fd = open_fifo(path, O_RDONLY);
    fcntl(fd, F_SETPIPE_SZ, BLOCK);
    return send_frames(fd, connect_to(port));
}

static int bare_receiver(int port, const char *path)
{
    int fd = open_fifo(path, O_WRONLY);
    fcntl(fd, F_SETPIPE_SZ, BLOCK);
    return recv_frames(accept_on(port), fd);
}

static int ping_through(size_t count, unsigned pause_us, const char *out_path, const char *in_path)
{
    int out = open_fifo(out_path, O_WRONLY);
    int in = open_fifo(in_path, O_RDONLY);
    return ping(count, pause_us, out, in);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (argc == 5 && strcmp(mode, "produce") == 0) {
        size_t size = (size_t)atoi(argv[3]);
        if (size < 1 || size > BLOCK)
            return 2;
        fill_pattern();
        return produce(atoll(argv[2]), size, open_fifo(argv[4], O_WRONLY));
    }
    if (argc == 4 && strcmp(mode, "consume") == 0) {
        fill_pattern();
        return consume(atoll(argv[2]), open_fifo(argv[3], O_RDONLY));
    }
    if (argc == 4 && strcmp(mode, "send") == 0)
        return bare_sender(atoi(argv[2]), argv[3]);
    if (argc == 4 && strcmp(mode, "recv") == 0)
        return bare_receiver(atoi(argv[2]), argv[3]);
    if (argc == 6 && strcmp(mode, "ping") == 0)
        return ping_through((size_t)atoi(argv[2]), (unsigned)atoi(argv[3]), argv[4], argv[5]);
    fprintf(stderr, "load: wrong arguments\n");
    return 2;
}
