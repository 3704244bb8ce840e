/* The unit tests of pashlib.c: unit [PART]... runs the parts that are named, or all of them. What is wrong is printed,
 * then how many checks passed of how many. Exit status: 0, all passed; 1, some did not; 2, there is no such part. */
#include "unit.h"
#include "unit_stun.c"
#include "unit_address.c"
#include "unit_crypto.c"
#include "unit_http.c"
#include "unit_json.c"
#include "unit_stream.c"

static const struct {
    const char *name;
    void (*run)(void);
} parts[] = {
    { "stun", test_stun },
    { "addresses", test_addresses },
    { "address_kinds", test_address_kinds },
    { "numbers", test_numbers },
    { "hashes", test_hashes },
    { "signatures", test_signatures },
    { "http", test_http },
    { "texts", test_texts },
    { "json", test_json },
    { "registrations", test_registrations },
    { "names", test_names },
    { "hello", test_hello },
    { "frames", test_frames },
};

/* Run the part NAME, or all parts if NAME is NULL. 0: there is none of that name. */
static int run_part(const char *name)
{
    int found = 0;

    TIMES(i, COUNT(parts)) {
        if (name && strcmp(name, parts[i].name) != 0)
            continue;
        found = 1;
        parts[i].run();
    }
    return found;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        run_part(NULL);
    for (int i = 1; i < argc; i++) {
        if (!run_part(argv[i])) {
            printf("unit: there is no part \"%s\"\n", argv[i]);
            return 2;
        }
    }
    printf("%d of %d\n", checks - failures, checks);
    return failures != 0 || checks == 0;
}
