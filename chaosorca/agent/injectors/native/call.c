/*
 * The life of a call on which a rule acts, and of the rules. A rule acts at the entry of a call, which decides it, and at its exit,
 * which makes the result final.
 */
#include <assert.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "near.h"
#include "report.h"
#include "tracer.h"

struct by_nr by_nr[NR_MAX];
struct active_rule *rules;
struct queue new_programs;
struct state *state;
struct ring *ring;
int marks = -1;

bool stops_at_calls(const struct thread *thread)
{
    return armed < 0 || thread->stops_at_calls;
}

void next_call(struct thread *thread, int signal)
{
    assert(thread->state == RUNNING);
    bool yields = armed >= 0 && near_yield(thread->tid);
    ptrace(stops_at_calls(thread) || thread->stops_at_next_call ? PTRACE_SYSCALL : PTRACE_CONT, thread->tid, 0, signal);
    if (yields)
        near_resume();
}

bool wake_at_calls(struct thread *thread)
{
    return stops_at_calls(thread) && !ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
}

/* ---- queues of held threads ---- */

static void queue_add(struct queue *queue, struct thread *thread)
{
    thread->earlier = queue->last;
    thread->later = NULL;
    *(queue->last ? &queue->last->later : &queue->first) = thread;
    queue->last = thread;
}

void queue_remove(struct queue *queue, struct thread *thread)
{
    assert(queue->first && queue->last);
    *(thread->earlier ? &thread->earlier->later : &queue->first) = thread->later;
    *(thread->later ? &thread->later->earlier : &queue->last) = thread->earlier;
    thread->earlier = thread->later = NULL;
}

static struct queue *queue_of(struct thread *thread)
{
    if (thread->state == HELD_EXEC)
        return &new_programs;
    return thread->state == HELD_ENTRY ? &thread->rule->held_entry : &thread->rule->held_exit;
}

void hold(struct thread *thread, enum thread_state where, uint64_t ns)
{
    assert(thread->state == RUNNING && (where == HELD_EXEC ? !thread->at_site : thread->rule && !thread->pending));
    assert(where == HELD_EXIT || !thread->is_replaced);
    thread->state = where;
    thread->held_since = now();
    thread->due = thread->held_since + ns;
    queue_add(queue_of(thread), thread);
}

static void unhold(struct thread *thread)
{
    assert(thread->rule && (thread->state == HELD_ENTRY || thread->state == HELD_EXIT));
    queue_remove(queue_of(thread), thread);
    thread->held += now() - thread->held_since;
    thread->done |= thread->state == HELD_ENTRY ? DELAY_ENTER : DELAY_EXIT;
    thread->state = RUNNING;
}

/* ---- the life of a call ---- */

/* The eBPF program cannot tell a delay from the call's own time, so the tracer times the calls of marked threads. */
void mark(struct thread *thread, bool setting)
{
    uint32_t key = (uint32_t)thread->tid;
    uint8_t value = 1;
    if (marks < 0 || thread->is_marked == setting)
        return;
    union bpf_attr attr = {.map_fd = (uint32_t)marks};
    attr.key = (uint64_t)(uintptr_t)&key;
    if (setting)
        attr.value = (uint64_t)(uintptr_t)&value;
    long failed = syscall(SYS_bpf, setting ? BPF_MAP_UPDATE_ELEM : BPF_MAP_DELETE_ELEM, &attr, sizeof(attr));
    thread->is_marked = setting && !failed;
}

/* A cancelled call has number -1. A seccomp filter of the container may kill the program for it, or answer it. */
static void suspend_filters(struct thread *thread, bool suspending)
{
    long options = suspending ? OPTIONS | PTRACE_O_SUSPEND_SECCOMP : OPTIONS;
    if (thread->is_unfiltered != suspending && !ptrace(PTRACE_SETOPTIONS, thread->tid, 0, options))
        thread->is_unfiltered = suspending;
}

void end_call(struct thread *thread, bool returned, int64_t result)
{
    struct active_rule *active = thread->rule;
    if (!active)
        return;
    assert(!thread->pending && active->calls > 0 && active->replaced >= thread->is_replaced);
    if (thread->state != RUNNING)
        unhold(thread);
    mark(thread, false);
    suspend_filters(thread, false);
    TRACE(thread->tid, "end", thread->nr, active->rule->id, returned ? "returned" : "not seen to return");
    if (thread->done) {
        report(&(struct record){
            .kind = CALL,
            .id = active->rule->id,
            .thread = thread->tid,
            .nr = thread->nr,
            .value = result,
            .took_ns = now() - thread->began,
            .held_ns = thread->held,
            .flags = thread->done | (thread->is_replaced ? REPLACED : 0) | (returned ? RETURNED : 0),
        });
    }
    active->calls--;
    active->replaced -= thread->is_replaced;
    thread->rule = NULL;
    thread->is_replaced = thread->at_site = thread->stops_at_next_call = false;
    rule_check_ended(active);
}

/* What remains to be done at the exit. */
static void leave(struct thread *thread, int64_t result)
{
    int pass_on = thread->pass_on;
    thread->pass_on = 0;
    end_call(thread, true, result);
    if (is_detaching)
        detach_thread(thread, pass_on);
    else
        next_call(thread, pass_on);
}

static bool take(struct active_rule *active)
{
    bool is_taken = rule_take(active->rule, active->slot);
    ring->taken += is_taken;
    return is_taken;
}

void give_back(struct active_rule *active)
{
    rule_give_back(active->slot);
    ring->taken--;
}

static void count_hit(struct active_rule *active, int number)
{
    __atomic_add_fetch(&active->slot->hit, (uint64_t)number, __ATOMIC_RELAXED);
}

static void replace(struct thread *thread)
{
    assert(!thread->is_replaced);
    thread->is_replaced = true;
    thread->rule->replaced++;
    thread->done |= thread->rule->rule->effects & (ERROR | RETVAL);
}

/* Skip the call: it never enters the kernel. */
static void skip(struct thread *thread)
{
    const struct rule *rule = thread->rule->rule;
    assert(!thread->stops_at_next_call);
    if (skip_call(thread->tid, thread->begin, thread->site, armed_registers(thread->tid), rule_result(rule))) {
        /* The thread has ended, or its code cannot be read. The call is made as if no rule had selected it. */
        int pass_on = thread->pass_on;
        TRACE(thread->tid, "entry", thread->nr, rule->id, "cannot be skipped: pass");
        thread->pass_on = 0;
        if (!thread->done) { /* it has not been delayed either */
            count_hit(thread->rule, -1);
            give_back(thread->rule);
        }
        end_call(thread, false, 0);
        next_call(thread, pass_on);
        return;
    }
    TRACE(thread->tid, "entry", thread->nr, rule->id, "skip");
    replace(thread);
    if (rule->effects & DELAY_EXIT && !thread->rule->is_cut && !is_detaching)
        hold(thread, HELD_EXIT, rule->exit_ns);
    else
        leave(thread, rule_result(rule));
}

/* What remains to be done at the entry. The result of a cancelled call is set here already, in case the tracer is killed. */
static void enter(struct thread *thread)
{
    assert(thread->rule && thread->state == RUNNING);
    const struct rule *rule = thread->rule->rule;
    if (thread->at_site) {
        skip(thread);
        return;
    }
    if (rule->effects & (ERROR | RETVAL) && !cancel_call(thread->tid)) {
        suspend_filters(thread, true);
        set_result(thread->tid, rule_result(rule));
        replace(thread);
    } else if (rule->effects & (DELAY_ENTER | DELAY_EXIT)) {
        mark(thread, true);
    }
    TRACE(thread->tid, "entry", thread->nr, rule->id, thread->is_replaced ? "cancel" : "enter");
    if (rule->effects & SIGNAL)
        thread->done |= SIGNAL;
    next_call(thread, rule->signal);
}

/* Whether the eBPF program has already decided which calls of a thread a rule selects, except for its budget. */
static bool is_decided_in_kernel(const struct rule *rule, const struct thread *thread)
{
    return !stops_at_calls(thread) && !rule->path && !rule->process;
}

bool selects(struct active_rule *active, const struct call *call, struct thread *thread, const uint64_t arguments[6])
{
    const struct rule *rule = active->rule;
    if (is_decided_in_kernel(rule, thread))
        return take(active);
    if (rule->process && !process_matches(thread->tid, rule->process))
        return false;
    if (rule->path && !file_matches(thread->tid, call, arguments, rule->path))
        return false;
    if (rule->first > 1 || rule->last || rule->step > 1) {
        if (!rule_when(rule, thread_count_call(thread, call->nr, rule->id)))
            return false;
    }
    return rule_draw(rule, active->slot) && take(active);
}

/* Hit no more calls. Calls that were hit before get all effects. */
static void close_rule(struct active_rule *active)
{
    for (int i = 0; i < active->rule->call_count; i++) {
        int nr = active->rule->calls[i].nr;
        by_nr[nr].rule = by_nr[nr].rule == active ? NULL : by_nr[nr].rule;
    }
    active->is_closed = true;
}

void begin_call(struct thread *thread, struct active_rule *active, int nr, uint64_t began)
{
    assert(!thread->rule && !thread->pending);
    thread->rule = active;
    thread->nr = nr;
    thread->began = began;
    thread->held = 0;
    thread->done = 0;
    active->calls += 2; /* the thread's reference, and one that keeps the rule until the end of this function */
    count_hit(active, 1);
    TRACE(thread->tid, "entry", nr, active->rule->id, "hit");
    if (active->rule->effects & DELAY_ENTER && !active->is_cut)
        hold(thread, HELD_ENTRY, active->rule->enter_ns);
    else
        enter(thread);
    if (active->rule->budget && __atomic_load_n(&active->slot->hit, __ATOMIC_RELAXED) >= active->rule->budget) {
        active->why = SPENT;
        close_rule(active);
    }
    active->calls--;
    rule_check_ended(active);
}

/* Return the rule that acts on the call at whose entry a thread has stopped, or NULL. */
static struct active_rule *rule_at_entry(struct thread *thread, const struct __ptrace_syscall_info *info)
{
    uint64_t nr = info->entry.nr;
    const uint64_t *arguments = (const uint64_t *)info->entry.args;
    struct active_rule *active = nr < NR_MAX ? by_nr[nr].rule : NULL;
    if (thread->pending) {
        uint64_t at = info->instruction_pointer - SYSCALL_BYTES;
        if (at < thread->call_from || at > thread->call_to)
            return NULL; /* a call of a signal handler that runs before the pending call */
        bool is_hit = !thread->is_undecided || (active == thread->pending && selects(active, by_nr[nr].call, thread, arguments));
        if (!is_hit) {
            cancel_pending(thread);
            thread->stops_at_next_call = false;
            return NULL;
        }
        active = thread->pending;
        thread->pending = NULL;
        thread->is_undecided = false;
        active->pending--;
        active->calls--; /* begin_call takes a reference */
        return active;
    }
    if (!stops_at_calls(thread) || !active || !selects(active, by_nr[nr].call, thread, arguments))
        return NULL;
    return active;
}

void at_entry(struct thread *thread, const struct __ptrace_syscall_info *info)
{
    uint64_t began = now();
    end_call(thread, false, 0); /* a call whose exit the tracer has not seen */
    if (is_detaching) {
        detach_thread(thread, 0);
        return;
    }
    if (info->arch != NATIVE_ARCH) {
        if (!thread->is_foreign)
            report(&(struct record){.kind = FOREIGN, .thread = thread->tid});
        thread->is_foreign = true;
        next_call(thread, 0);
        return;
    }
    uint64_t nr = info->entry.nr;
    if (nr < NR_MAX && armed < 0)
        __atomic_fetch_add(&state->seen[nr], 1, __ATOMIC_RELAXED);
    struct active_rule *active = rule_at_entry(thread, info);
    if (active) {
        begin_call(thread, active, (int)nr, stops_at_calls(thread) ? began : thread->began);
    } else {
        TRACE(thread->tid, "entry", (int)nr, 0, "pass");
        next_call(thread, 0);
    }
}

void at_exit(struct thread *thread, int64_t result)
{
    struct active_rule *active = thread->rule;
    if (active && thread->is_replaced) {
        /* Set the result again: a seccomp filter of the container has seen call -1, and may have answered it. */
        result = rule_result(active->rule);
        set_result(thread->tid, result);
    }
    if (active && active->rule->effects & DELAY_EXIT && !active->is_cut && !is_detaching)
        hold(thread, HELD_EXIT, active->rule->exit_ns);
    else
        leave(thread, result);
}

/* The result of the call of a thread that is held in its exit stop. */
static int64_t result_of(const struct thread *thread)
{
    struct __ptrace_syscall_info info;
    if (thread->is_replaced)
        return rule_result(thread->rule->rule);
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread->tid, sizeof(info), &info) <= 0 || info.op != PTRACE_SYSCALL_INFO_EXIT)
        return 0;
    return info.exit.rval;
}

void release(struct thread *thread)
{
    bool before = thread->state == HELD_ENTRY;
    unhold(thread);
    TRACE(thread->tid, before ? "entry" : "exit", thread->nr, thread->rule->rule->id, "delay is over");
    if (before)
        enter(thread);
    else
        leave(thread, result_of(thread));
}

/* ---- rules ---- */

void rule_check_ended(struct active_rule *active)
{
    if (!active->is_closed)
        return;
    if (active->command && !active->replaced && !active->pending && !active->held_entry.first && !active->held_exit.first) {
        answer(active->command, 0);
        active->command = 0;
    }
    if (active->calls || active->command)
        return;
    assert(!active->replaced && !active->pending && !active->held_entry.first && !active->held_exit.first);
    if (active->why)
        report(&(struct record){.kind = ENDED, .id = active->rule->id, .value = active->why});
    struct active_rule **at = &rules;
    while (*at != active)
        at = &(*at)->next;
    *at = active->next;
    rule_free(active->rule);
    free(active);
}

static void cancel_cut(struct thread *thread)
{
    if (thread->pending && thread->pending->is_cut) {
        cancel_pending(thread);
        thread->stops_at_next_call = false;
    }
}

void cut_rule(struct active_rule *active)
{
    assert(active->calls > 0);
    TRACE(0, "cut", -1, active->rule->id, "release all calls");
    close_rule(active);
    active->is_cut = true;
    if (active->pending)
        thread_each(cancel_cut);
    while (active->held_entry.first)
        release(active->held_entry.first);
    while (active->held_exit.first)
        release(active->held_exit.first);
}
