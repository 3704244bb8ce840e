/* What the unit tests are made of. unit.c includes every unit_PART.c; each of them includes this file, which includes
 * the program itself with its main() renamed, so that a test can call any function of it. Compile with -I. from the
 * top of the repository. */
#ifndef UNIT_H
#define UNIT_H

#define main pashlib_main
#include "pashlib.c"
#undef main

static int checks;                                  /* how many were made */
static int failures;                                /* how many of them failed */

/* The two texts are the same. */
static void is(const char *name, const char *want, const char *got)
{
    checks++;
    if (strcmp(want, got) == 0)
        return;
    failures++;
    printf("wrong: %s\n want: %s\n  got: %s\n", name, want, got);
}

/* The two numbers are the same. */
static void is_n(const char *name, long want, long got)
{
    char want_text[32];
    char got_text[32];

    snprintf(want_text, sizeof want_text, "%ld", want);
    snprintf(got_text, sizeof got_text, "%ld", got);
    is(name, want_text, got_text);
}

/* A copy of the N bytes at FROM, in an allocation of that very size: reading one byte more is seen by the sanitizer. */
static void *exact(const void *from, size_t n)
{
    void *copy = malloc(n ? n : 1);

    memcpy(copy, from, n);
    return copy;
}

/* The bytes that TEXT shows in hexadecimal, blanks skipped, in an allocation of that very size. */
static byte *unhex(const char *text, size_t *len)
{
    byte *roomy = malloc(strlen(text) / 2 + 1);
    byte *fitting;

    *len = 0;
    while (*text) {
        unsigned value;

        if (*text == ' ') {
            text++;
            continue;
        }
        sscanf(text, "%2x", &value);
        roomy[(*len)++] = (byte)value;
        text += 2;
    }
    fitting = exact(roomy, *len);
    free(roomy);
    return fitting;
}

#endif
