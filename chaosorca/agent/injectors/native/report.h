/*
 * What the tracer says to the agent: records of one size, in order. Writing never blocks, since whoever waits for the agent would
 * hold the traced program: what the agent does not read yet is kept. Calls are told some milliseconds at a time, since each time
 * wakes the agent; anything else at once. The last calls are in memory that the tracer shares with the agent too, so that a tracer that is
 * killed takes none of them with it.
 */
#ifndef REPORT_H
#define REPORT_H

#include <stdint.h>

enum record_kind {
    CALL = 1,    /* a call that was tampered with has ended */
    DONE = 2,    /* a command (id: its number) has been carried out (value 0), or was refused (value: errno) */
    REFUSED = 3, /* a thread could not be attached (id: the command's number, value: errno) */
    ENDED = 4,   /* a rule (id) has ended by itself: value 1, its budget is spent; 2, its deadline has passed */
    FOREIGN = 5, /* a thread makes system calls of another architecture, as 32-bit programs do: they are left alone */
    EXEC = 7,    /* a thread has become another program, and waits until the agent has looked at it (`go`) */
    LOST = 6,    /* the agent has not read for so long that records (value) were dropped */
};

enum ended { SPENT = 1, EXPIRED = 2 };

enum call_flag { REPLACED = 0x100, RETURNED = 0x200 }; /* beside enum effect */

struct record {
    uint32_t kind;
    uint32_t id;
    int32_t thread;
    int32_t nr;
    int64_t value;
    uint64_t took_ns; /* from entry to return, as the program experienced it */
    uint64_t held_ns; /* the part of it that was injected */
    uint32_t flags;
    uint32_t serial; /* of a call, from 1 on */
};

enum { KEPT = 1024 };

/* Where the last calls are kept. */
void report_keep(struct record kept[KEPT]);

void report(const struct record *record);

/* Write what is due, by the monotonic clock; return when this has to be called again, UINT64_MAX: not before there is more. */
uint64_t report_flush(uint64_t now);

/* Write everything that is left. */
void report_all(void);

/* Give up all memory. */
void report_free(void);

#endif
