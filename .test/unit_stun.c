/* Unit tests of the STUN decoder: the examples of RFC 5769, and what servers and forgers could send. */
#include "unit.h"

#define ID "b7e7a701bc34d686fa87dfae"
#define HEAD(len) "0101" len "2112a442" ID          /* of a success response */

static void test_stun(void)
{
    static const struct {
        const char *name;
        const char *hex;
        const char *want;                           /* the address, or why there is none */
    } cases[] = {
        { "RFC 5769, 2.2: IPv4",
          "0101003c 2112a442 " ID " 8022000b 7465737420766563746f7220 00200008 0001a147 e112a643"
          "00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004 c07d4c96",
          "192.0.2.1:32853" },
        { "RFC 5769, 2.3: IPv6",
          "01010048 2112a442 " ID " 8022000b 7465737420766563746f7220"
          "00200014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9"
          "00080014 a382954e4be67bf11784c97c8292c275bfe3ed41 80280004 c8fb0b4c",
          "[2001:db8:1234:5678:11:2233:4455:6677]:32853" },
        { "MAPPED-ADDRESS",
          HEAD("000c") "00010008 00018055 c0000201",
          "192.0.2.1:32853" },
        { "MAPPED before XOR-MAPPED",
          HEAD("0018") "00010008 00018055 c0000202 00200008 0001a147 e112a643",
          "192.0.2.1:32853" },
        { "bad MAPPED before XOR-MAPPED",
          HEAD("0018") "00010008 00010000 00000000 00200008 0001a147 e112a643",
          "192.0.2.1:32853" },
        { "MAPPED after XOR-MAPPED",
          HEAD("0018") "00200008 0001a147 e112a643 00010008 00018055 c0000202",
          "192.0.2.1:32853" },
        { "first of two XOR-MAPPED",
          HEAD("0018") "00200008 0001a147 e112a643 00200008 0001a148 e112a644",
          "192.0.2.1:32853" },
        { "unknown comprehension-required attribute",
          HEAD("0014") "7fff0001 00000000 00200008 0001a147 e112a643",
          "192.0.2.1:32853" },
        { "attribute runs past the end",
          HEAD("0004") "00200008",
          "attribute 0x0020 runs past the end" },
        { "padding runs past the end",
          HEAD("0005") "80220001 61",
          "attribute 0x8022 runs past the end" },
        { "later attribute runs past the end",
          HEAD("0010") "00200008 0001a147 e112a643 80220004",
          "attribute 0x8022 runs past the end" },
        { "half an attribute header",
          HEAD("000e") "00200008 0001a147 e112a643 8022",
          "an attribute is cut in its header" },
        { "unknown family",
          HEAD("000c") "00200008 0003a147 e112a643",
          "its address is malformed" },
        { "IPv6 family, IPv4 length",
          HEAD("000c") "00200008 0002a147 e112a643",
          "its address is malformed" },
        { "IPv4 family, IPv6 length",
          HEAD("0018") "00200014 0001a147 0113a9faa5d3f179bc25f4b5bed2b9d9",
          "its address is malformed" },
        { "empty address",
          HEAD("0004") "00200000",
          "its address is malformed" },
        { "unspecified address",
          HEAD("000c") "00200008 0001a147 2112a442",
          "its address cannot be ours" },
        { "multicast address",
          HEAD("000c") "00200008 0001a147 c112a443",
          "its address cannot be ours" },
        { "port 0",
          HEAD("000c") "00200008 00012112 e112a643",
          "its address cannot be ours" },
        { "no address",
          HEAD("0008") "80220004 61626364",
          "no address in it" },
        { "empty",
          HEAD("0000"),
          "no address in it" },
        { "error",
          "0111000c 2112a442" ID "00090008 00000414 6e6f7065",
          "error 420 nope" },
        { "error without a reason",
          "01110008 2112a442" ID "00090004 00000300",
          "error 300 " },
        { "error without a code",
          "01110000 2112a442" ID,
          "an error without a code" },
        { "error with half a code",
          "01110008 2112a442" ID "00090002 00000000",
          "an error without a code" },
        { "request",
          "00010000 2112a442" ID,
          "not an answer to our request" },
        { "wrong cookie",
          "0101000c 2112a443" ID "00200008 0001a147 e112a643",
          "not an answer to our request" },
        { "wrong id",
          "0101000c 2112a442 b7e7a701bc34d686fa87dfaf 00200008 0001a147 e112a643",
          "not an answer to our request" },
        { "length too small",
          HEAD("0008") "00200008 0001a147 e112a643",
          "not an answer to our request" },
        { "length too large",
          HEAD("0010") "00200008 0001a147 e112a643",
          "not an answer to our request" },
        { "nothing",
          "",
          "0 bytes are no STUN header" },
    };
    size_t id_len;
    byte *id = unhex(ID, &id_len);

    TIMES(i, COUNT(cases)) {
        size_t len;
        byte *message = unhex(cases[i].hex, &len);
        Why why;
        Addr a;
        Stun result = stun_decode(message, len, id, &a, why);

        is(cases[i].name, cases[i].want, result == STUN_ADDRESS ? SHOW(&a) : why);
        /* No message decodes if it is cut, at whatever length. */
        for (size_t cut = 0; cut < len; cut++) {
            byte *shorter = exact(message, cut);

            if (stun_decode(shorter, cut, id, &a, why) != STUN_DROP) {
                printf("%s: %zu bytes of it decode\n", cases[i].name, cut);
                is_n(cases[i].name, -1, (long)cut);
            }
            free(shorter);
        }
        free(message);
    }
    free(id);
}
