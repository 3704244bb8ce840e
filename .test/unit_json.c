/* Unit tests of JSON, and of the registrations that are written in it. */
#include "unit.h"

#define NONE "(none)"
#define EURO "\xe2\x82\xac"
#define SMILE "\xf0\x9f\x98\x80"
#define TEN_DEEP(inner) "[[[[[[[[[[" inner "]]]]]]]]]]"

static void test_texts(void)
{
    char out[64];

    is("quoted", "a\\u0022\\u005c\\u000a\xc3\xa9", json_quote("a\"\\\n\xc3\xa9", out));
}

static void test_json(void)
{
    static const struct {
        const char *text;
        const char *path;
        const char *want;
        size_t room;                                /* for the value and its NUL */
    } cases[] = {
        { "{\"a\":\"x\"}", "a", "x", 16 },
        { " { \"a\" : \"x\" , \"b\" : \"y\" } ", "b", "y", 16 },
        { "{\"a\":{\"b\":{\"c\":\"z\"}}}", "a/b/c", "z", 16 },
        { "{\"z\":[1,-2.5e+3,true,false,null,{\"a\":\"no\"}],\"a\":\"x\"}", "a", "x", 16 },
        { "{\"a\":\"1\",\"a\":\"2\"}", "a", "1", 16 },
        { "{\"a\":\"\\u0041\\n\\/\\\\\\\"\"}", "a", "A\n/\\\"", 16 },
        { "{\"a\":\"\xc3\xa9" EURO SMILE "\"}", "a", "\xc3\xa9" EURO SMILE, 16 },
        { "{\"a\":\"\\u0080\\u20ac\\ud83d\\ude00\"}", "a", "????", 16 },
        { "{\"a\":\"\\u004\"}", "a", NONE, 16 },
        { "{\"a\":\"\\u+041\"}", "a", NONE, 16 },
        { "{\"\\u0061\":\"x\"}", "a", "x", 16 },
        { "{\"a\":\"\"}", "a", "", 16 },
        { "{\"b\":{},\"c\":[],\"a\":\"x\"}", "a", "x", 16 },
        { "{}", "a", NONE, 16 },
        { "", "a", NONE, 16 },
        { "[]", "a", NONE, 16 },
        { "{\"a\":1}", "a", NONE, 16 },
        { "{\"a\":\"x\"", "b", NONE, 16 },
        { "{\"a\":\"\\u0000\"}", "a", NONE, 16 },
        { "{\"a\":\"\\x\"}", "a", NONE, 16 },
        { "{\"a\":\"x\ny\"}", "a", NONE, 16 },
        { "{\"a\":\"x", "a", NONE, 16 },
        { "{\"a\":\"x\\", "a", NONE, 16 },
        { "{\"a\" \"x\"}", "a", NONE, 16 },
        { "{a:\"x\"}", "a", NONE, 16 },
        { "{\"b\":\"x\" \"a\":\"y\"}", "a", NONE, 16 },
        { "{\"a\":{\"b\":\"x\"}}", "a/c", NONE, 16 },
        { "{\"a\":\"0123456789012345\"}", "a", NONE, 16 },
        { "{\"a\":\"012345678901234\"}", "a", "012345678901234", 16 },
        /* What is not looked for may have any depth, and need not be right. */
        { "{\"b\":" TEN_DEEP(TEN_DEEP(TEN_DEEP(TEN_DEEP("[[1]]")))) ",\"a\":\"x\"}", "a", "x", 16 },
        { "{\"b\":[1,],\"a\":\"x\"}", "a", "x", 16 },
        { "{\"b\":?,\"a\":\"x\"}", "a", "x", 16 },
        { "{\"b\":[\"],\"a\":\"x\"}", "a", NONE, 16 },
        { "{\"abc\":\"x\",\"ab\":\"y\"}", "ab", "y", 16 },
    };

    TIMES(i, COUNT(cases)) {
        size_t len = strlen(cases[i].text);
        char *message = exact(cases[i].text, len);
        char out[32];
        int found;

        memset(out, 0x55, sizeof out);
        found = json_find(message, len, cases[i].path, out, cases[i].room);
        is(cases[i].text, cases[i].want, found ? out : NONE);
        /* Whatever comes of a text that is cut, nothing is read past its end. */
        for (size_t cut = 0; cut < len; cut++) {
            char *shorter = exact(message, cut);

            json_find(shorter, cut, cases[i].path, out, sizeof out);
            free(shorter);
        }
        free(message);
    }
}

static void test_registrations(void)
{
    static const struct {
        const char *text;
        const char *local;                          /* empty: there is none that could be connected to */
        const char *external;
    } cases[] = {
        { "{\"local_addr\":\"1.2.3.4:5\",\"external_addr\":\"6.7.8.9:10\"}", "1.2.3.4:5", "6.7.8.9:10" },
        { "{\"external_addr\":\"[2001:db8::1]:10\",\"more\":{},\"local_addr\":\"127.0.0.1:5\"}",
          "127.0.0.1:5", "[2001:db8::1]:10" },
        { "{\"local_addr\":\"0.0.0.0:5\",\"external_addr\":\"6.7.8.9:10\"}", "", "6.7.8.9:10" },
        { "{\"local_addr\":\"1.2.3.4:0\",\"external_addr\":\"224.0.0.1:10\"}", "", "" },
        { "{\"local_addr\":\"localhost:1\"}", "", "" },
        { "1.2.3.4:5", "", "" },
        { "", "", "" },
        { "{\"local_addr\":\"1.2.3.4:5\",\"external_addr\":{}}", "1.2.3.4:5", "" },
    };

    TIMES(i, COUNT(cases)) {
        size_t len = strlen(cases[i].text);
        char *message = exact(cases[i].text, len);
        Addr local = registration_get(message, len, "local_addr");
        Addr external = registration_get(message, len, "external_addr");

        is(cases[i].text, cases[i].local, local.port ? SHOW(&local) : "");
        is(cases[i].text, cases[i].external, external.port ? SHOW(&external) : "");
        free(message);
    }
}
