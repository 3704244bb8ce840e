/* Unit tests of what two ends of a stream share: file names made of keys, HELLO, and frames. */
#include "unit.h"

static void test_names(void)
{
    static const struct {
        const char *key;
        const char *want;
    } cases[] = {
        { "k-1_a.Z9", "k-1_a.Z9" },
        { "..", "%2E." },
        { ".", "%2E" },
        { "a/b", "a%2Fb" },
        { "%41", "%2541" },
        { "\xff \n", "%FF%20%0A" },
        { "a..b", "a..b" },
    };
    char key[NAME_LEN + 1];
    char name[3 * NAME_LEN + 1];

    TIMES(i, COUNT(cases)) {
        key_to_name(cases[i].key, name);
        is(cases[i].key, cases[i].want, name);
    }
    memset(key, 'a', NAME_LEN);
    key[NAME_LEN] = 0;
    key_to_name(key, name);
    is("255 letters", key, name);
    key[0] = '/';
    key_to_name(key, name);
    is_n("too long, therefore hashed: the length", 66, (long)strlen(name));
    is_n("too long, therefore hashed: how it begins", 0, strncmp(name, "%-", 2));
}

static void test_hello(void)
{
    Stream sender = { .sends = 1, .key = "k", .me = 1, .peer = 70000 };
    Stream receiver = { .key = "k", .me = 70000, .peer = 1 };
    byte message[HELLO];
    byte again[HELLO];
    Why why;
    char shown[41];

    hello_encode(&sender, message);
    hex(message, 20, shown);
    is("HELLO", "504153484c4942310100000000000001" "00011170", shown);
    hello_encode(&sender, again);
    is_n("the nonce is fresh", 1, memcmp(message + 20, again + 20, 16) != 0);
    is_n("mirrored", 1, hello_check(&receiver, message, why));
    is_n("not mirrored", 0, hello_check(&sender, message, why));
    is("not mirrored", "it is node 1 and wants node 70000", why);
    for (int i = 0; i < 20; i++) {
        message[i] ^= 0x80;
        is_n("one bit", 0, hello_check(&receiver, message, why));
        message[i] ^= 0x80;
    }
    message[8] = 2;
    is_n("role 2", 1, hello_check(&receiver, message, why));
    message[8] = 0;
    is_n("role 0", 0, hello_check(&receiver, message, why));
}

/* Two frames and the end: "abc", "defgh", and the total of 8 bytes. The result is how long that is. */
static size_t two_frames(byte *out)
{
    put(out, 4, 3);
    memcpy(out + 4, "abc", 3);
    put(out + 7, 4, 5);
    memcpy(out + 11, "defgh", 5);
    put(out + 16, 4, 0);
    put(out + 20, 8, 8);
    return 28;
}

/* A pair of sockets, of which the first never blocks. */
static void connected(int fd[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0) {
        perror("socketpair");
        exit(1);
    }
    set_nonblocking(fd[0]);
}

static void send_all(int fd, const byte *from, size_t n)
{
    if (write(fd, from, n) != (ssize_t)n) {
        perror("write");
        exit(1);
    }
}

/* Read frames two bytes at a time, as far as they have come; the result is how many bytes of data there were. */
static size_t read_frames(Frames *f, FramesGot *last, int fd, byte *out)
{
    size_t got = 0;
    Why why;

    for (int i = 0; i < 40 && *last != FRAMES_END; i++) {
        size_t n = 0;

        *last = frames_read(f, fd, out + got, 2, &n, why);
        got += n;
    }
    return got;
}

/* Whatever the size of the pieces in which they arrive, the frames are the same. */
static void check_pieces(void)
{
    byte sent[64];
    size_t len = two_frames(sent);

    for (size_t piece = 1; piece <= len; piece++) {
        Frames f = { .left = 0 };
        FramesGot last = FRAMES_NOTHING;
        byte received[64];
        size_t got = 0;
        int fd[2];

        connected(fd);
        for (size_t at = 0; at < len && last != FRAMES_END; at += piece) {
            send_all(fd[1], sent + at, piece < len - at ? piece : len - at);
            got += read_frames(&f, &last, fd[0], received + got);
        }
        received[got] = 0;
        is("the data", "abcdefgh", (char *)received);
        is_n("ended", FRAMES_END, last);
        is_n("the total", 8, (long)get(f.head + 4, 8));
        close(fd[0]);
        close(fd[1]);
    }
}

static void check_too_large(unsigned long length)
{
    Frames f = { .left = 0 };
    byte head[4];
    byte out[64];
    size_t n = 0;
    int fd[2];
    char want[64];
    Why why = "";

    connected(fd);
    put(head, 4, length);
    send_all(fd[1], head, sizeof head);
    is_n("too large a frame", FRAMES_BAD, frames_read(&f, fd[0], out, sizeof out, &n, why));
    snprintf(want, sizeof want, "a frame of %lu bytes is none", length);
    is("too large a frame: why", want, why);
    close(fd[0]);
    close(fd[1]);
}

static void test_frames(void)
{
    check_pieces();
    check_too_large(FRAME_MAX + 1);
    check_too_large(0xffffffff);
}
