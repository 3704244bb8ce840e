/* Unit tests of the decoder of HTTP answers. */
#include "unit.h"

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n\r\n"

static void test_http(void)
{
    static const struct {
        const char *message;
        int ended;                                  /* the server has closed the connection */
        const char *want;                           /* status and body, or what is wrong; empty: more must come */
    } cases[] = {
        { OK "Content-Length: 3\r\n\r\nabc", 0, "200 abc" },
        { "HTTP/1.0 200 OK\r\ncontent-length:3 \r\n\r\nabcdef", 0, "200 abc" },
        { "HTTP/1.0 200 OK\nContent-Length: 3\n\nabc", 1, "the answer is cut in its head" },
        { "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", 0, "404 " },
        { OK "X: y\r\n\r\nabc", 1, "200 abc" },
        { OK "X: y\r\n\r\nabc", 0, "" },
        { OK "XContent-Length: 1\r\nContent-Lengthy: 1\r\n\r\nabc", 1, "200 abc" },
        { OK "Content-Length: 4\r\n\r\nabc", 0, "" },
        { OK "Content-Length: 4\r\n\r\nabc", 1, "the body is cut: 3 of 4 bytes" },
        { OK "Content-Length: -1\r\n\r\nabc", 1, "Content-Length is \"-1\"" },
        { OK "Content-Length: 99999999999999999999\r\n\r\nabc", 1, "Content-Length is \"99999999999999999999\"" },
        { OK "Content-Length:\r\n\r\nabc", 1, "Content-Length is \"\"" },
        { CHUNKED "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 0, "200 abcde" },
        { CHUNKED "3\r\nabc\r\n2\r\nde\r\n", 0, "" },
        { CHUNKED "3\r\nabc\r\n2\r\nde\r\n", 1, "the body is cut in its chunks" },
        { CHUNKED "3\r\nabcde\r\n0\r\n\r\n", 0, "a chunk without its line end" },
        { CHUNKED "x\r\nabc\r\n0\r\n\r\n", 0, "a chunk without a size" },
        { CHUNKED "fffffffffff\r\nabc\r\n0\r\n\r\n", 0, "a chunk without a size" },
        { CHUNKED "0xffffffffffffffff\r\nX0\r\n\r\n", 0, "a chunk without a size" },
        { CHUNKED "0x5\r\nhello\r\n0\r\n\r\n", 0, "a chunk without a size" },
        { OK "Content-Le", 1, "the answer is cut in its head" },
        { OK "Content-Le", 0, "" },
        { "", 0, "" },
        { "", 1, "the answer is cut in its head" },
        { "SSH-2.0-x\r\n\r\n", 1, "it is no HTTP response" },
        { "HTTP/1.1 20 OK\r\n\r\n", 1, "it is no HTTP response" },
        { "HTTP/1.1 099 OK\r\n\r\n", 1, "it is no HTTP response" },
        { "HTTP/1.1 2x0 OK\r\n\r\n", 1, "it is no HTTP response" },
        { "\r\n\r\n", 1, "it is no HTTP response" },
        { "HTTP/1.1\r\n\r\n", 1, "it is no HTTP response" },
    };

    TIMES(i, COUNT(cases)) {
        size_t len = strlen(cases[i].message);
        Why why = "";
        char got[600] = "";
        char *message = exact(cases[i].message, len + 1);
        Response r = { .m = message, .max = len + 1 };
        Http result = http_decode(&r, len, cases[i].ended, why);

        if (result == HTTP_DONE)
            snprintf(got, sizeof got, "%d %.*s", r.status, (int)r.size, r.body);
        if (result == HTTP_BAD)
            snprintf(got, sizeof got, "%s", why);
        is(cases[i].message, cases[i].want, got);
        /* Whatever comes of a message that is cut, nothing is read past the NUL behind it. */
        for (size_t cut = 0; cut < len; cut++) {
            r.m = exact(cases[i].message, cut + 1);
            r.m[cut] = 0;
            http_decode(&r, cut, 0, why);
            free(r.m);
            r.m = exact(cases[i].message, cut + 1);
            r.m[cut] = 0;
            http_decode(&r, cut, 1, why);
            free(r.m);
        }
        free(message);
    }
}
