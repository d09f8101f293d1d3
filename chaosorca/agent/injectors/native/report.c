#include "report.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 1 << 20, LEAST = 1 << 10, AT_ONCE = 1 << 9 };

static const uint64_t GATHERED = 20 * 1000000, TRIED_AGAIN = 1000000;

static struct record *waiting;
static size_t first, count, size; /* records */
static size_t written;            /* bytes of the first one */
static uint64_t lost;
static uint64_t gathered_since; /* 0: nothing waits */
static int is_urgent;
static struct record *kept;
static uint32_t serial;

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

void report_keep(struct record here[KEPT])
{
    kept = here;
}

/* The serial number comes last: a record that has it is whole. */
static void keep(const struct record *record)
{
    struct record *at = &kept[record->serial % KEPT];
    at->serial = 0;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    memcpy(at, record, offsetof(struct record, serial));
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    at->serial = record->serial;
}

void report(const struct record *given)
{
    struct record numbered = *given, *record = &numbered;
    if (record->kind == CALL && kept) {
        record->serial = ++serial;
        keep(record);
    }
    if (lost && count < size / 2) {
        struct record note = {.kind = LOST, .value = (int64_t)lost};
        lost = 0;
        put(&note);
    }
    put(record);
    is_urgent |= record->kind != CALL;
}

/* Write what can be written; return whether something is left. */
static int write_out(void)
{
    while (count) {
        ssize_t n = write(STDOUT_FILENO, (char *)(waiting + first) + written, count * sizeof(*waiting) - written);
        if (n <= 0)
            return 1;
        size_t bytes = written + (size_t)n;
        first += bytes / sizeof(*waiting);
        count -= bytes / sizeof(*waiting);
        written = bytes % sizeof(*waiting);
    }
    first = 0;
    return 0;
}

uint64_t report_flush(uint64_t now)
{
    if (!count)
        return UINT64_MAX;
    if (!gathered_since)
        gathered_since = now;
    if (!is_urgent && count < AT_ONCE && now < gathered_since + GATHERED)
        return gathered_since + GATHERED;
    if (write_out())
        return now + TRIED_AGAIN;
    gathered_since = is_urgent = 0;
    return UINT64_MAX;
}

void report_all(void)
{
    write_out();
}

void report_free(void)
{
    free(waiting);
    waiting = NULL;
    first = count = size = written = 0;
}
