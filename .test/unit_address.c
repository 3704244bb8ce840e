/* Unit tests of addresses and numbers, as they stand in settings, words and registrations. */
#include "unit.h"

/* What is put into the kernel's form for sockets of either family comes back the same. */
static void to_the_kernel_and_back(const Addr *a)
{
    struct sockaddr_storage ss;
    Addr back;
    long v4_size = addr_is_v4(a) ? (long)sizeof (struct sockaddr_in) : 0;

    is_n("to IPv6: the size", (long)sizeof (struct sockaddr_in6), (long)addr_to_kernel(a, AF_INET6, &ss));
    back = addr_from_kernel(&ss);
    is_n("to IPv6 and back", 1, addr_same(a, &back));
    is_n("to IPv4: the size", v4_size, (long)addr_to_kernel(a, AF_INET, &ss));
    back = addr_from_kernel(&ss);
    is_n("to IPv4 and back", addr_is_v4(a), addr_same(a, &back));
}

static void test_addresses(void)
{
    static const struct {
        const char *text;
        const char *want;                           /* as it is shown; empty: it is no address */
    } cases[] = {
        { "1.2.3.4:5", "1.2.3.4:5" },
        { "255.255.255.254:65535", "255.255.255.254:65535" },
        { "[2001:db8::1]:80", "[2001:db8::1]:80" },
        { "[::ffff:1.2.3.4]:80", "1.2.3.4:80" },
        { "1.2.3.4", "" },
        { "1.2.3.4:", "" },
        { "1.2.3.4:0", "" },
        { "1.2.3.4:65536", "" },
        { "1.2.3.4:70000", "" },
        { "1.2.3.4:+5", "" },
        { "1.2.3.4: 5", "" },
        { "1.2.3.4:5 ", "" },
        { " 1.2.3.4:5", "" },
        { "1.2.3:5", "" },
        { "1.2.3.256:5", "" },
        { "1.2.3.4.5:5", "" },
        { "2001:db8::1:80", "" },
        { "[2001:db8::1]", "" },
        { "[2001:db8::1]80", "" },
        { "[2001:db8::1:80", "" },
        { "[1.2.3.4]:80", "" },
        { "[]:80", "" },
        { ":80", "" },
        { "", "" },
        { "host:80", "" },
        { "1.2.3.4:99999999999999999999", "" },
        { "[fe80::1%lo]:80", "" },
    };

    TIMES(i, COUNT(cases)) {
        Addr a;
        int good = addr_parse(cases[i].text, &a);

        is(cases[i].text, cases[i].want, good ? SHOW(&a) : "");
        if (good)
            to_the_kernel_and_back(&a);
    }
}

static void test_address_kinds(void)
{
    static const struct {
        const char *ip;
        int usable;
        int loopback;
    } kinds[] = {
        { "1.2.3.4", 1, 0 },
        { "127.0.0.1", 1, 1 },
        { "127.255.0.9", 1, 1 },
        { "::1", 1, 1 },
        { "::2", 1, 0 },
        { "0.0.0.0", 0, 0 },
        { "::", 0, 0 },
        { "224.0.0.1", 0, 0 },
        { "239.255.255.255", 0, 0 },
        { "240.0.0.1", 1, 0 },
        { "255.255.255.255", 0, 0 },
        { "ff02::1", 0, 0 },
        { "fe80::1", 1, 0 },
    };

    TIMES(i, COUNT(kinds)) {
        Addr a = { { 0 }, 1 };

        is_n(kinds[i].ip, 1, ip_parse(kinds[i].ip, &a));
        is_n(kinds[i].ip, kinds[i].usable, addr_usable(&a));
        is_n(kinds[i].ip, kinds[i].loopback, addr_is_loopback(&a));
    }
}

static void test_numbers(void)
{
    static const struct {
        const char *text;
        unsigned long max;
        long want;                                  /* -1: it is no number, or too large a one */
    } cases[] = {
        { "0", 9, 0 },
        { "007", 9, 7 },
        { "2147483647", INT_MAX, INT_MAX },
        { "2147483648", INT_MAX, -1 },
        { "", 9, -1 },
        { "-1", 9, -1 },
        { "+1", 9, -1 },
        { "1 ", 9, -1 },
        { " 1", 9, -1 },
        { "0x1", 9, -1 },
        { "10", 9, -1 },
        { "99999999999999999999999", 9, -1 },
    };

    TIMES(i, COUNT(cases)) {
        unsigned long n;
        int good = number(cases[i].text, cases[i].max, &n);

        is_n(cases[i].text, cases[i].want, good ? (long)n : -1);
    }
}
