/*
 * The threads that are traced, by their number.
 */
#ifndef THREAD_H
#define THREAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rule.h"

enum thread_state {
    RUNNING,    /* not in a stop of ours */
    HELD_ENTRY, /* in a system call's entry stop, until it is due */
    HELD_EXIT,  /* in its exit stop, until it is due */
    HELD_EXEC,  /* in its new program's first stop, until the agent has looked at it */
};

/* How many calls of one number a thread has made under a rule. */
struct count {
    uint32_t rule;
    uint32_t calls;
};

struct attachment;
struct active_rule;

struct thread {
    pid_t tid;
    enum thread_state state;
    bool is_foreign;
    bool stops_at_calls; /* it cannot be armed, and stops at each call, where the others are */
    bool follows;        /* it is armed, and shall stop at its next call all the same */
    uint64_t owed;       /* the signals that have armed it and not arrived yet, each a bit by its number */
    struct attachment *attachment; /* it has been seized, and has not stopped for the first time yet */
    struct count *counts;          /* by system call; only where some rule counts */
    struct thread *next;           /* in the table */

    /* The call that is being tampered with, if there is a rule. */
    struct active_rule *rule;
    struct active_rule *chosen; /* the rule that acts when the call at `site` is made */
    bool is_undecided;          /* if it selects that call */
    bool at_site;               /* before the `syscall` instruction, and not in the kernel */
    uint64_t begin, site;       /* from where it gets straight to the `syscall` that can be left out, and that */
    uint64_t follow_from, follow_to; /* where the one is that it makes, if that is not left out */
    int pass_on;                /* a signal that is to be delivered behind the site */
    int nr;
    bool is_replaced;
    bool is_marked;
    bool is_unfiltered; /* its seccomp filters do not see this call */
    unsigned done; /* effects so far */
    uint64_t began, held, held_since, due;
    struct thread *earlier, *later; /* in the queue of those held, by due time */
};

struct thread *thread_find(pid_t tid);

/* Find a thread, or add it; NULL without memory. */
struct thread *thread_get(pid_t tid);
void thread_remove(struct thread *thread);

/* Call with each thread; the thread it is called with may be removed. */
void thread_each(void (*visit)(struct thread *));
size_t thread_count(void);

/* Count a thread's call under a rule; return its number from 1 on, 0 without memory. */
uint32_t thread_count_call(struct thread *thread, int nr, uint32_t rule);

#endif
