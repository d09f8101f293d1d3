/*
 * What the files of the tracer share: tracer.c (the main loop), attach.c (threads that come and go), call.c (the life of a call and
 * of a rule), armed.c (threads that a uprobe stops) and commands.c (the agent's commands).
 */
#ifndef TRACER_H
#define TRACER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/types.h>

#include "arch.h"
#include "rule.h"
#include "thread.h"

#define MILLISECOND 1000000ULL
#define FOREVER UINT64_MAX

/* The options of every traced thread. */
#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC)

/* Held threads. All wait equally long, so they are in the order of `due`. */
struct queue {
    struct thread *first, *last;
};

struct active_rule {
    struct rule *rule;
    struct slot *slot;
    uint64_t deadline;
    struct queue held_entry; /* threads held before their call */
    struct queue held_exit;  /* threads held after their call */
    int calls;               /* references: threads whose `rule` or `pending` it is, and functions that still need it */
    int replaced;            /* threads in a call that it has replaced */
    int pending;             /* threads whose `pending` it is */
    bool is_closed;          /* it hits no more calls */
    bool is_cut;             /* and it no longer delays the calls that it has hit */
    enum ended why;          /* why it has ended by itself, reported when its last call is over; 0: it has not */
    uint32_t command;        /* the number of the `remove` command that waits for its end; 0: none */
    struct active_rule *next;
};

/* ---- call.c ---- */

struct by_nr {
    struct active_rule *rule; /* the rule on this call; NULL: none */
    const struct call *call;
};

extern struct by_nr by_nr[NR_MAX];
extern struct active_rule *rules;
extern struct queue new_programs;
extern struct state *state; /* shared with the agent and the container's other tracers */
extern struct ring *ring;   /* shared with the agent */
extern int marks;           /* the map of threads whose call the eBPF program does not time; -1: none */

void queue_remove(struct queue *queue, struct thread *thread);

/* Whether a thread stops at each call. Otherwise it runs freely and a uprobe stops it before the calls to inject. */
bool stops_at_calls(const struct thread *thread);

/* Make a running thread stop at its calls. Return whether it reports one stop before it does. */
bool wake_at_calls(struct thread *thread);

/* Resume a stopped thread until its next call or until it is armed, and deliver a signal to it (0: none). */
void next_call(struct thread *thread, int signal);

/* Hold a stopped thread for some nanoseconds, and release it. */
void hold(struct thread *thread, enum thread_state where, uint64_t ns);
void release(struct thread *thread);

/* Set or delete the mark of a thread by which the eBPF program leaves the timing of its call to the tracer. */
void mark(struct thread *thread, bool setting);

/* Make a rule act on a thread's call from now on. */
void begin_call(struct thread *thread, struct active_rule *active, int nr, uint64_t began);

/* End a call, at least for the tracer, and report what was done to it. */
void end_call(struct thread *thread, bool returned, int64_t result);

/* Return a call to the budget of its rule. */
void give_back(struct active_rule *active);

/* Whether a rule selects a call. This takes the call from the rule's budget. */
bool selects(struct active_rule *active, const struct call *call, struct thread *thread, const uint64_t arguments[6]);

void at_entry(struct thread *thread, const struct __ptrace_syscall_info *info);
void at_exit(struct thread *thread, int64_t result);

/* Make a rule hit no more calls and release those that it holds. The caller holds a reference. */
void cut_rule(struct active_rule *active);

/* Forget a closed rule after its last call. */
void rule_check_ended(struct active_rule *active);

/* ---- armed.c ---- */

extern int armed; /* the map of armed threads; -1: the tracer stops threads at each call */

/* Handle a signal-delivery stop if the thread is armed, or if the signal has armed it. Return whether it did. */
bool at_signal(struct thread *thread, int signal);

/* Let the call pass that a rule was to act on. */
void cancel_pending(struct thread *thread);

/* The registers that a thread will have at its call if it was armed last, or NULL. */
const registers *armed_registers(pid_t tid);

/* Discard what an earlier tracer has left in the map for a thread. */
void forget_armed(pid_t tid);

/* ---- attach.c ---- */

/* Seize all threads of a process. The command is answered when each of them has stopped once. */
void attach(uint32_t command, pid_t pid);

/* Count a thread's first stop towards the command that attached it. */
void first_stop(struct thread *thread);

void detach_thread(struct thread *thread, int signal);

/* Take a thread out of the queue of new programs. */
void leave_new_programs(struct thread *thread);

/* Resume a thread that has executed another program. */
void resume_new_program(struct thread *thread);

void thread_ended(struct thread *thread);

/* Handle the stop of a process's leader after exec. Return the thread that continues. */
struct thread *at_exec(struct thread *leader);

/* ---- commands.c ---- */

extern bool is_detaching;
extern uint64_t detach_deadline;

/* Carry out the commands that have arrived. Return whether there may be more. */
bool read_commands(void);

/* Begin to detach from all threads. The command (0: none) is answered at the end. */
void detach(uint32_t command);

/* Whether every thread is detached, or resumes unharmed when the tracer exits. */
bool has_detached(void);

/* Report all calls that are still open, and answer the command that asked for the end. */
void report_end(void);

#endif
