/*
 * The traced threads, found by thread id.
 *
 * A thread is in one of four states. The flags below say why it stops next and what is being done to its call. A dash means that
 * the flag is never set in that state; asserts check these rows.
 *
 *     state        rule   pending   at_site   is_replaced   stops_at_next_call   queue
 *     RUNNING      any    any       any       any           any                  none
 *     HELD_ENTRY   set    -         any       -             any                  held_entry of its rule
 *     HELD_EXIT    set    -         any       any           any                  held_exit of its rule
 *     HELD_EXEC    any    any       -         -             any                  new_programs
 *
 *  - `rule` is set from the moment a rule acts on a call until that call has ended.
 *  - `pending` is set from the moment an armed thread continues to its call until it enters that call. It excludes `rule`.
 *  - `is_undecided` needs `pending`. `at_site`, `is_replaced`, `is_marked` and `is_unfiltered` need `rule`.
 *  - `at_site` excludes `stops_at_next_call`: the thread is stopped before its `syscall` instruction and never enters the call.
 *  - `stops_at_calls` lasts until the thread executes another program or ends. `attachment` lasts until its first stop.
 */
#ifndef THREAD_H
#define THREAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rule.h"

enum thread_state {
    RUNNING,    /* not held: it runs, or its stop is being handled */
    HELD_ENTRY, /* held in the entry stop of a call until `due` */
    HELD_EXIT,  /* held in the exit stop of a call until `due` */
    HELD_EXEC,  /* held in the first stop of a new program until the agent has inspected it, or until `due` */
};

/* How many calls with one number a thread has made under a rule. */
struct count {
    uint32_t rule;
    uint32_t calls;
};

struct attachment;
struct active_rule;

struct thread {
    pid_t tid;
    enum thread_state state;
    bool is_foreign;               /* it has made a call of another architecture, and that was reported */
    bool stops_at_calls;           /* it stops at each call although the tracer arms threads: it blocks the arming signals */
    bool stops_at_next_call;       /* it is armed, and stops at its next call as well */
    uint64_t owed;                 /* arming signals that have not arrived yet, one bit for each signal number */
    struct attachment *attachment; /* set until its first stop after it was seized */
    struct count *counts;          /* by system call number; allocated when a rule counts calls */
    struct thread *next;           /* in the same bucket of the table */

    /* The call that a rule acts on. */
    struct active_rule *rule;
    struct active_rule *pending; /* the rule that acts when the call at `site` is made */
    bool is_undecided;           /* whether that rule selects the call is decided at its entry */
    bool at_site;                /* stopped in front of the `syscall` instruction, not inside the kernel */
    uint64_t begin, site;        /* the address from which straight-line code leads to `site`; the `syscall` instruction to skip */
    uint64_t call_from, call_to; /* addresses between which the `syscall` instruction of a pending call lies */
    int pass_on;                 /* a signal to deliver after the skipped call; 0: none */
    int nr;                      /* the number of the call */
    bool is_replaced;            /* the call does not run, and its result is forged */
    bool is_marked;              /* the eBPF program leaves the timing of this call to the tracer */
    bool is_unfiltered;          /* the seccomp filters of the thread are suspended for this call */
    unsigned done;               /* the effects so far: enum effect */
    uint64_t began, held, held_since, due; /* nanoseconds; all but `held` by the monotonic clock */
    struct thread *earlier, *later;        /* neighbours in its queue, which is in the order of `due` */
};

struct thread *thread_find(pid_t tid);

/* Find a thread or add it. Return NULL without memory. */
struct thread *thread_get(pid_t tid);
void thread_remove(struct thread *thread);

/* Call `visit` with each thread. It may remove the thread that it gets. */
void thread_each(void (*visit)(struct thread *));
size_t thread_count(void);

/* Count a thread's call under a rule. Return its ordinal from 1 on, or 0 without memory. */
uint32_t thread_count_call(struct thread *thread, int nr, uint32_t rule);

#endif
