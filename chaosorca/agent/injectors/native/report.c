#include "report.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUEUE_MAX = 1 << 20, QUEUE_MIN = 1 << 10, BATCH = 1 << 9, TRACE_BYTES = 256 };

static const uint64_t BATCH_NS = 20 * 1000000, RETRY_NS = 1000000;

static struct record *waiting;    /* a queue of records that are not written yet */
static size_t first, count, size; /* of `waiting`, in records */
static size_t written;            /* bytes of the first record */
static uint64_t lost;             /* records that were dropped and not reported as such yet */
static uint64_t batch_since;      /* when the first record of this batch came; 0: there is none */
static int is_urgent;
static struct record *kept; /* the ring buffer */
static uint32_t serial;

bool is_tracing;

static void put(const struct record *record)
{
    if (first + count == size) {
        if (first > count) { /* there is room at the front */
            memmove(waiting, waiting + first, count * sizeof(*waiting));
            first = 0;
        } else {
            size_t larger = size ? size * 2 : QUEUE_MIN;
            struct record *grown = larger > QUEUE_MAX ? NULL : realloc(waiting, larger * sizeof(*waiting));
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

/* Write the serial number last, so that a record with a serial number is complete even if the tracer is killed here. */
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

void answer(uint32_t command, int error)
{
    report(&(struct record){.kind = DONE, .id = command, .value = error});
}

/* Write as much as the pipe takes. Return whether something is left. */
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
    if (!batch_since)
        batch_since = now;
    if (!is_urgent && count < BATCH && now < batch_since + BATCH_NS)
        return batch_since + BATCH_NS;
    if (write_out())
        return now + RETRY_NS;
    batch_since = is_urgent = 0;
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

/* A full pipe must not block the tracer, so the lines that it does not take are dropped. */
void trace_prepare(void)
{
    const char *wanted = getenv("CHAOSORCA_TRACE");
    is_tracing = wanted && !strcmp(wanted, "1");
    if (is_tracing)
        fcntl(STDERR_FILENO, F_SETFL, fcntl(STDERR_FILENO, F_GETFL) | O_NONBLOCK);
}

/* One write of less than PIPE_BUF bytes is atomic, so lines are never mixed. */
void trace(pid_t tid, const char *event, int nr, uint32_t rule, const char *decision)
{
    static unsigned long dropped;
    char line[TRACE_BYTES];
    _Static_assert(TRACE_BYTES < PIPE_BUF, "a line is one atomic write");
    int length = snprintf(line, sizeof(line), "trace: thread=%d event=\"%s\" nr=%d rule=%u decision=\"%s\" dropped=%lu\n", tid,
                          event, nr, rule, decision, dropped);
    assert(length > 0 && length < (int)sizeof(line));
    if (write(STDERR_FILENO, line, (size_t)length) != length)
        dropped++;
}
