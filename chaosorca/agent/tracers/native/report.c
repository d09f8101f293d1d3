#include "report.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 1 << 20, LEAST = 1 << 10 };

static struct record *waiting;
static size_t first, count, size; /* records */
static size_t written;            /* bytes of the first one */
static uint64_t lost;

static void put(const struct record *record)
{
    if (first + count == size) {
        if (first > count) { /* room at the front */
            memmove(waiting, waiting + first, count * sizeof(*waiting));
            first = 0;
        } else {
            size_t larger = size ? size * 2 : LEAST;
            struct record *grown = larger > MOST ? NULL : realloc(waiting, larger * sizeof(*waiting));
            if (!grown) {
                lost++;
                return;
            }
            waiting = grown;
            size = larger;
        }
    }
    waiting[first + count++] = *record;
}

void report(const struct record *record)
{
    if (lost && count < size / 2) {
        struct record note = {.kind = LOST, .value = (int64_t)lost};
        lost = 0;
        put(&note);
    }
    put(record);
}

bool report_flush(void)
{
    while (count) {
        ssize_t n = write(STDOUT_FILENO, (char *)(waiting + first) + written, count * sizeof(*waiting) - written);
        if (n <= 0)
            return true;
        size_t bytes = written + (size_t)n;
        first += bytes / sizeof(*waiting);
        count -= bytes / sizeof(*waiting);
        written = bytes % sizeof(*waiting);
    }
    first = 0;
    return false;
}

void report_free(void)
{
    free(waiting);
    waiting = NULL;
    first = count = size = written = 0;
}
