/*
 * Threads that a uprobe stops by a signal just before a call to inject: they are armed. See bpf/arm.c, which decides it.
 *
 * An error or a forged result is then a jump over the call. For any other effect the thread is stopped at the entry and exit of
 * that one call.
 */
#include <assert.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "near.h"
#include "report.h"
#include "tracer.h"

enum { DETOUR_BYTES = 255 }; /* the longest distance from the end of a detour to its call */

/* What a uprobe has decided about a thread's next call: `struct armed` of bpf/arm.c. */
struct armed_call {
    uint32_t rule;
    uint32_t nr;
    uint64_t from;  /* the address at which the thread stops */
    uint64_t begin; /* the address from which straight-line code leads to the call: `from`, or another if it is on a detour */
    uint64_t at;    /* the `syscall` instruction at the end of that code */
    int signal;     /* the signal that arms it */
    int processor;
    union {
        int signal;    /* not 0: a signal of the program's own has coalesced with the arming signal */
        char info[32]; /* the beginning of the siginfo of that one */
    } merged;
    uint32_t has_code;
    uint32_t own_came_first; /* the arming signal has coalesced with one of the program's own that was pending */
    uint8_t code[64];        /* the bytes from `begin` to `at`, and some more */
};

_Static_assert(sizeof(struct armed_call) == 144, "as in bpf/arm.c");
_Static_assert(offsetof(struct armed_call, rule) == 0 && offsetof(struct armed_call, nr) == 4, "as in bpf/arm.c");
_Static_assert(offsetof(struct armed_call, from) == 8 && offsetof(struct armed_call, begin) == 16, "as in bpf/arm.c");
_Static_assert(offsetof(struct armed_call, at) == 24 && offsetof(struct armed_call, signal) == 32, "as in bpf/arm.c");
_Static_assert(offsetof(struct armed_call, processor) == 36 && offsetof(struct armed_call, merged) == 40, "as in bpf/arm.c");
_Static_assert(offsetof(struct armed_call, has_code) == 72 && offsetof(struct armed_call, own_came_first) == 76, "as in bpf/arm.c");
_Static_assert(offsetof(struct armed_call, code) == 80, "as in bpf/arm.c");

int armed = -1;

/* The registers that the thread armed last will have at its call. Valid until that thread or another one is armed. */
static struct {
    pid_t tid;
    registers at_call;
} last_armed;

const registers *armed_registers(pid_t tid)
{
    return last_armed.tid == tid ? &last_armed.at_call : NULL;
}

/* Look a thread up in the map, and delete its entry if it is taken. */
static bool read_armed(pid_t tid, struct armed_call *call, bool taking)
{
    uint32_t key = (uint32_t)tid;
    union bpf_attr attr = {.map_fd = (uint32_t)armed};
    attr.key = (uint64_t)(uintptr_t)&key;
    attr.value = (uint64_t)(uintptr_t)call;
    return !syscall(SYS_bpf, taking ? BPF_MAP_LOOKUP_AND_DELETE_ELEM : BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr));
}

/* An entry that outlasts its tracer would be taken for the reason of a signal of the program's own. */
void forget_armed(pid_t tid)
{
    struct armed_call left;
    if (armed >= 0)
        read_armed(tid, &left, true);
}

static uint64_t bit(int signal)
{
    return 1ULL << (signal - 1);
}

static bool is_from_kernel(struct thread *thread)
{
    siginfo_t info;
    return !ptrace(PTRACE_GETSIGINFO, thread->tid, 0, &info) && info.si_code == SI_KERNEL;
}

/* Restore the siginfo of a signal of the program's own that has coalesced with the arming signal. Return it, 0 if there is none. */
static int own_signal(struct thread *thread, const struct armed_call *call)
{
    siginfo_t info = {0};
    if (!call->merged.signal)
        return 0;
    memcpy(&info, call->merged.info, sizeof(call->merged.info));
    ptrace(PTRACE_SETSIGINFO, thread->tid, 0, &info);
    return call->signal;
}

void cancel_pending(struct thread *thread)
{
    struct active_rule *active = thread->pending;
    bool is_taken = active && !thread->is_undecided;
    thread->pending = NULL;
    thread->is_undecided = false;
    if (is_taken)
        give_back(active);
    if (active) {
        assert(active->pending > 0 && active->calls > 0);
        active->pending--;
        active->calls--;
        rule_check_ended(active);
    }
}

/* Let an armed thread make its call, and act at its entry and exit. */
static void act_in_call(struct thread *thread, struct active_rule *active, const struct armed_call *call, uint64_t began,
                        int signal)
{
    assert(!thread->rule && !thread->pending);
    thread->pending = active;
    active->pending++;
    active->calls++;
    bool is_on_detour = call->from != call->begin;
    thread->call_from = is_on_detour ? call->from : call->at;
    thread->call_to = is_on_detour ? call->from + DETOUR_BYTES : call->at;
    thread->began = began;
    thread->stops_at_next_call = true;
    TRACE(thread->tid, "armed", (int)call->nr, call->rule, thread->is_undecided ? "decide at the entry" : "act at the entry");
    next_call(thread, signal);
}

/* A signal has stopped an armed thread: the arming signal (then `pass_on` is 0), or another one that came first. */
static void at_armed(struct thread *thread, const struct armed_call *call, int pass_on)
{
    uint64_t began = now(), arguments[6];
    int64_t nr = -1;
    cancel_pending(thread); /* a signal handler makes this call before the pending one, which is let pass */
    thread->stops_at_next_call = false;
    struct active_rule *active = call->nr < NR_MAX ? by_nr[call->nr].rule : NULL;
    bool is_current = active && active->rule->id == call->rule && !is_detaching;
    last_armed.tid = thread->tid;
    const uint8_t *code = call->has_code ? call->code : NULL;
    bool is_there =
        is_current && !registers_at_call(thread->tid, call->from, call->begin, code, call->at, &last_armed.at_call, &nr, arguments);
    if (is_there && nr < 0) {
        thread->is_undecided = true;
        act_in_call(thread, active, call, began, pass_on);
    } else if (!is_there || nr != call->nr || !selects(active, by_nr[nr].call, thread, arguments)) {
        /* It is about to make another call than the eBPF program expected, or no rule selects this one. */
        TRACE(thread->tid, "armed", (int)call->nr, call->rule, "pass");
        next_call(thread, pass_on);
    } else if (active->rule->effects & (ERROR | RETVAL) && !(active->rule->effects & SIGNAL)) {
        thread->at_site = true;
        thread->begin = call->begin;
        thread->site = call->at;
        thread->pass_on = pass_on;
        begin_call(thread, active, (int)nr, began);
    } else {
        act_in_call(thread, active, call, began, pass_on);
    }
}

/*
 * Another signal may come before the arming one. The map keeps its entry until the arming signal has come, since it also says which
 * signal of the program's own has coalesced with it.
 */
bool at_signal(struct thread *thread, int signal)
{
    struct armed_call call;
    bool may_be_ours = signal == SIGURG || signal == SIGWINCH;
    bool is_armed = read_armed(thread->tid, &call, may_be_ours);
    bool is_ours = may_be_ours && (is_armed ? signal == call.signal && !call.own_came_first : is_from_kernel(thread));
    uint64_t arrived = bit(signal);
    if (thread->owed && (!is_armed || thread->owed & bit(call.signal))) { /* the call has been handled at an earlier signal */
        if (!is_ours || !(thread->owed & arrived))
            return false;
        thread->owed &= ~arrived;
        TRACE(thread->tid, "signal", -1, 0, "drop the arming signal");
        next_call(thread, is_armed ? own_signal(thread, &call) : 0);
        return true;
    }
    if (!is_armed)
        return false;
    near_on_stop(thread->tid, call.processor);
    if (signal == call.signal) /* even if it is the program's own, since the arming signal has coalesced with it */
        thread->owed &= ~arrived;
    else
        thread->owed |= bit(call.signal);
    at_armed(thread, &call, is_ours ? own_signal(thread, &call) : signal);
    return true;
}
