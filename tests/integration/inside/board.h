/* What a test and an observer tell each other, in a file that both have mapped: reading and writing it needs no system call, so that
 * nothing but the calls under test meets a fault. The same layout is in ../observer.py. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

enum { BOARD_SIZE = 64 << 20, WORKERS_AT = 16384, WORKER_HEAD = 512, STEPS = 48, TALLIES = 24 };

/* One system call that is made again and again. */
struct step {
    char name[24];
    char file[104]; /* what its descriptor is opened on, before the fault begins */
    char path[128];
};

struct board {
    /* written by the observer: the number of the round that is ... */
    int32_t prepared;
    int32_t done;
    int32_t turn;   /* how many kinds of workers may begin: 1 threads, 2 children too */
    int32_t strays; /* signals that came while no call was being made */
    /* written by the test */
    int32_t round;
    int32_t stop; /* ends a round without a number of repeats */
    int32_t alone, threads, children;
    int32_t early; /* threads and children are there before the fault begins */
    int32_t steps, repeats, recorded;
    int32_t pause; /* microseconds between two children */
    char directory[128];
    char become[2][64]; /* what even and odd children execute themselves as, to go on under another command line */
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
    struct { int64_t result, times; } tally[TALLIES];
};

_Static_assert(sizeof(struct board) <= WORKERS_AT, "the board is too long");
_Static_assert(sizeof(struct worker) <= WORKER_HEAD, "a worker is too long");

#endif
