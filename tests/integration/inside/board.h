/* The memory that a test and an observer share, in a file that both map. Access to it needs no system call, so faults hit only the
 * calls under test. tests/support/observer.py has the same layout. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

enum { BOARD_SIZE = 64 << 20, WORKERS_AT = 16384, WORKER_HEAD = 512, STEPS = 48, TALLIES = 24 };

/* A system call that is made repeatedly. */
struct step {
    char name[24];
    char file[104]; /* the file of its descriptor, which is opened before the fault begins */
    char path[128];
};

struct board {
    /* written by the observer: the number of the round that is ... */
    int32_t prepared;
    int32_t done;
    int32_t turn;   /* which workers may begin: 1 threads, 2 children too */
    int32_t strays; /* signals that arrived while no call was in flight */
    /* written by the test */
    int32_t round;
    int32_t stop; /* ends a round without a number of repeats */
    int32_t alone, threads, children;
    int32_t early; /* threads and children start before the fault begins */
    int32_t steps, repeats, recorded;
    int32_t pause; /* microseconds between two children */
    char directory[128];
    char become[2][64]; /* command lines under which even and odd children execute themselves again */
    struct step step[STEPS];
};

struct call {
    int64_t result; /* -errno where it failed */
    int64_t nanoseconds;
};

struct worker {
    int64_t calls;
    int64_t signals;
    int64_t pid;
    int64_t ended;
    struct {
        int64_t result, times;
    } tally[TALLIES];
};

_Static_assert(sizeof(struct board) <= WORKERS_AT, "the board is too long");
_Static_assert(sizeof(struct worker) <= WORKER_HEAD, "a worker is too long");

#endif
