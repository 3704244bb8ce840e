/* Unit tests of SHA-256, HMAC and Signature Version 4, by published examples. */
#include "unit.h"

/* The examples of FIPS 180-4. */
static void check_sha256(void)
{
    static const struct {
        const char *text;
        size_t times;
        const char *want;
    } cases[] = {
        { "abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
        { "", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
        { "a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0" },
    };

    TIMES(i, COUNT(cases)) {
        size_t len = strlen(cases[i].text);
        char *data = malloc(len * cases[i].times + 1);
        byte sum[HASH];
        char shown[2 * HASH + 1];

        for (size_t k = 0; k < cases[i].times; k++)
            memcpy(data + k * len, cases[i].text, len);
        sha256(NULL, data, len * cases[i].times, sum);
        hex(sum, HASH, shown);
        free(data);
        is(cases[i].text, cases[i].want, shown);
    }
}

/* The examples of RFC 4231, 4.2 to 4.5 and 4.7. */
static void check_hmac(void)
{
    static const struct {
        const char *key;                            /* both in hexadecimal */
        const char *data;
        const char *want;
    } cases[] = {
        { "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
          "4869205468657265",
          "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
        { "4a656665",
          "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
          "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
          "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe" },
        { "0102030405060708090a0b0c0d0e0f10111213141516171819",
          "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
          "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b" },
    };
    byte long_key[131];
    byte mac[HASH];
    char shown[2 * HASH + 1];

    TIMES(i, COUNT(cases)) {
        size_t key_len;
        size_t data_len;
        byte *key = unhex(cases[i].key, &key_len);
        byte *data = unhex(cases[i].data, &data_len);

        hmac(key, key_len, data, data_len, mac);
        hex(mac, HASH, shown);
        is("RFC 4231", cases[i].want, shown);
        free(key);
        free(data);
    }
    memset(long_key, 0xaa, sizeof long_key);
    hmac(long_key, sizeof long_key, "Test Using Larger Than Block-Size Key - Hash Key First", 54, mac);
    hex(mac, HASH, shown);
    is("RFC 4231, 4.7", "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54", shown);
}

static void check_comparison(void)
{
    byte a[HASH];
    byte b[HASH];

    memset(a, 0x60, sizeof a);
    memcpy(b, a, sizeof b);
    is_n("the same", 1, same_in_constant_time(a, b));
    b[HASH - 1] ^= 1;
    is_n("the last bit differs", 0, same_in_constant_time(a, b));
}

static void test_hashes(void)
{
    check_sha256();
    check_hmac();
    check_comparison();
}

/* The examples of AWS: ListUsers of IAM, and get-vanilla of its test suite. */
static void test_signatures(void)
{
    static const Creds creds = { .id = "AKIDEXAMPLE", .secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" };
    static const char list_users[] =
        "GET\n"
        "/\n"
        "Action=ListUsers&Version=2010-05-08\n"
        "content-type:application/x-www-form-urlencoded; charset=utf-8\n"
        "host:iam.amazonaws.com\n"
        "x-amz-date:20150830T123600Z\n"
        "\n"
        "content-type;host;x-amz-date\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    static const char get_vanilla[] =
        "GET\n"
        "/\n"
        "\n"
        "host:example.amazonaws.com\n"
        "x-amz-date:20150830T123600Z\n"
        "\n"
        "host;x-amz-date\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    char out[SIGNATURE_MAX];

    sigv4(&creds, "20150830T123600Z", "us-east-1", "iam", list_users, "content-type;host;x-amz-date", out);
    is("ListUsers",
       "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
       "SignedHeaders=content-type;host;x-amz-date, "
       "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7", out);
    sigv4(&creds, "20150830T123600Z", "us-east-1", "service", get_vanilla, "host;x-amz-date", out);
    is("get-vanilla",
       "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
       "SignedHeaders=host;x-amz-date, "
       "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", out);
}
