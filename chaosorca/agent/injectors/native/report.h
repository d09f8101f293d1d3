/*
 * What the tracer reports to the agent: records of one size, in order. A write never blocks, since a tracer that waits for the
 * agent would hold the traced program: records wait in memory until the agent reads. Calls are reported in batches of some
 * milliseconds, since each write wakes the agent; anything else is reported at once. The last calls are also in a ring buffer that
 * the agent shares, so that a tracer that is killed loses none of them.
 */
#ifndef REPORT_H
#define REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum record_kind {
    CALL = 1,    /* an injected call has ended */
    DONE = 2,    /* a command (id: its number) was carried out (value 0) or refused (value: errno) */
    REFUSED = 3, /* a thread could not be attached (id: the command's number, value: errno) */
    ENDED = 4,   /* a rule (id) has ended by itself (value: enum ended) */
    FOREIGN = 5, /* a thread makes system calls of another architecture, as 32-bit programs do; no rule acts on them */
    LOST = 6,    /* the agent has not read for so long that records (value: how many) were dropped */
    EXEC = 7,    /* a thread has executed another program, and is held until the agent has inspected it (`go`) */
};

enum ended {
    SPENT = 1,   /* its budget is used up */
    EXPIRED = 2, /* its deadline has passed */
};

enum call_flag { REPLACED = 0x100, RETURNED = 0x200 }; /* beside enum effect */

/* The same as `RECORD` in injectors/records.py. */
struct record {
    uint32_t kind;
    uint32_t id;
    int32_t thread;
    int32_t nr;
    int64_t value;
    uint64_t took_ns; /* from entry to return, as the program sees it */
    uint64_t held_ns; /* the part of it that was injected */
    uint32_t flags;
    uint32_t serial; /* of a call, from 1 on */
};

_Static_assert(sizeof(struct record) == 48, "as in injectors/records.py");
_Static_assert(offsetof(struct record, kind) == 0 && offsetof(struct record, id) == 4, "as in injectors/records.py");
_Static_assert(offsetof(struct record, thread) == 8 && offsetof(struct record, nr) == 12, "as in injectors/records.py");
_Static_assert(offsetof(struct record, value) == 16 && offsetof(struct record, took_ns) == 24, "as in injectors/records.py");
_Static_assert(offsetof(struct record, held_ns) == 32 && offsetof(struct record, flags) == 40, "as in injectors/records.py");
_Static_assert(offsetof(struct record, serial) == 44, "as in injectors/records.py");

enum { KEPT = 1024 };

/* Use this ring buffer for the last calls. */
void report_keep(struct record kept[KEPT]);

void report(const struct record *record);

/* Report that a command was carried out (0) or refused (errno). */
void answer(uint32_t command, int error);

/* Write what is due at this time of the monotonic clock. Return when to call this again; UINT64_MAX: after the next record. */
uint64_t report_flush(uint64_t now);

/* Write everything that waits. */
void report_all(void);

/* Free all memory. */
void report_free(void);

/* Whether CHAOSORCA_TRACE=1 is set. */
extern bool is_tracing;

/* Read the environment. */
void trace_prepare(void);

/* Write one line to standard error. `tid` and `rule` are 0, and `nr` is -1, where there is none. */
void trace(pid_t tid, const char *event, int nr, uint32_t rule, const char *decision);

#define TRACE(...)                           \
    do {                                     \
        if (__builtin_expect(is_tracing, 0)) \
            trace(__VA_ARGS__);              \
    } while (0)

#endif
