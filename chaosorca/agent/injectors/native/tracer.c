/*
 * orca-tracer: system call faults on the threads of one container, or of some of its processes.
 *
 *     orca-tracer PARENT STATE RING
 *
 * PARENT is the process that started it, with which it dies; STATE the descriptor of memory shared with it and the container's other
 * tracers (struct state), RING of what it leaves (struct ring). Commands arrive as lines on standard input, each with a number of
 * its own; records leave by standard output (report.h).
 *
 *     N add ID slot=… deadline_ms=… calls=… …   take a rule (rule.h)
 *     N remove ID                               end a rule; DONE when nobody is in a call that it has replaced
 *     N attach PID                              trace all threads of a process; DONE when every one is
 *     N marks ID                                the kernel's map (its id) in which threads are marked whose call it is not to time
 *     N arm ID                                  threads stop by a signal at calls that the kernel's map (its id) tells of, and no others
 *     N syscall-stops TID                       this thread stops at each call all the same: it has blocked those signals
 *     N go TID                                  a thread that has become another program may go on
 *     N ping                                    answer
 *     N detach                                  let go of everything, and end
 *
 * Threads are seized, never stopped for good: each stop is answered at once, or when a delay is due. A call is tampered with at its
 * entry, where it is decided, and at its exit, where its result is set for good. Letting go waits until no thread is in a call that
 * was replaced, so that no program sees a result that nobody asked for.
 *
 * How a thread comes to stop at a call: at each (`next_call`), or armed (bpf/arm.c): it runs freely, and a uprobe stops it by a
 * signal just before a call that is to be tampered with. An error is then a jump over the call; for anything else the thread is
 * followed through that one call as others are through all.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/ptrace.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch.h"
#include "clock.h"
#include "file.h"
#include "near.h"
#include "report.h"
#include "rule.h"
#include "sleep.h"
#include "thread.h"

enum { LINE_MAX_BYTES = 1 << 20, STOPS_AT_ONCE = 128, TURNS = 8, DETOUR = 255, HOT = 250 /* stops in TURN_EVERY */ };

static const uint64_t MILLISECOND = 1000000, FOREVER = UINT64_MAX;
static const uint64_t TURN_EVERY = 25 * 1000000ULL, OTHERS_TURN = 1000000;
static const uint64_t LETTING_GO = 300 * 1000000ULL, WITHOUT_RULES = 1000 * 1000000ULL, LOOKED_AT_WITHIN = 100 * 1000000ULL;
static const long OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;

/* Those held for one delay of a rule are due in the order in which they came. */
struct queue {
    struct thread *first, *last;
};

struct active_rule {
    struct rule *rule;
    struct slot *slot;
    uint64_t deadline;
    struct queue held;        /* before their call */
    struct queue held_after;  /* after it */
    int calls;                /* threads in a call that it tampers with */
    int replaced;             /* those of them whose call was replaced */
    int chosen;               /* armed threads that are about to make a call that it tampers with */
    bool is_closed;           /* it hits no more calls */
    bool is_cut;              /* nor does it hold those that it has hit */
    enum ended why;           /* it has ended by itself: to be told when its last call is over */
    uint32_t asked;           /* number of the command that waits for its end; 0: none */
    struct active_rule *next;
};

struct attachment {
    uint32_t asked;
    int waiting; /* threads that have not stopped yet */
};

static struct {
    struct active_rule *rule;
    const struct call *call;
} by_nr[NR_MAX];

static struct active_rule *rules;
static struct state *state;
static struct ring *ring;
static int marks = -1, armed = -1;
static struct queue new_programs;
static bool is_letting_go, is_at_odds;
static unsigned stops_met; /* since others had their turn */
static uint64_t let_go_by;
static uint32_t detach_asked;
static bool had_rule;
static uint64_t without_rules_since = FOREVER;

static void answer(uint32_t asked, int error)
{
    report(&(struct record){.kind = DONE, .id = asked, .value = error});
}

/* ---- how a thread comes to stop ---- */

static bool stops_at_calls(const struct thread *thread)
{
    return armed < 0 || thread->stops_at_calls;
}

/* Let a stopped thread run until its next system call's entry or exit, or until it is armed, with a signal or none. */
static void next_call(struct thread *thread, int signal)
{
    thread->state = RUNNING;
    bool gives_way = armed >= 0 && near_give_way(thread->tid);
    ptrace(stops_at_calls(thread) || thread->follows ? PTRACE_SYSCALL : PTRACE_CONT, thread->tid, 0, signal);
    if (gives_way)
        near_back();
}

/* Have a thread that runs stop at its calls; return whether it has to stop once before it does. */
static bool wake_at_calls(struct thread *thread)
{
    return stops_at_calls(thread) && !ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
}

/* What a uprobe has decided about a thread's next call: see bpf/arm.c. */
struct armed_call {
    uint32_t rule;
    uint32_t nr;
    uint64_t from;  /* where the thread is stopped */
    uint64_t begin; /* from where it gets straight to the call: there, or elsewhere if it is on a detour */
    uint64_t at;    /* the `syscall` on that way */
    int signal;     /* by which */
    int processor;
    union {
        int signal;    /* not 0: one of the program's own has become one with it */
        char info[32]; /* how that one's siginfo begins */
    } merged;
    uint32_t has_code, own_came_first; /* a signal of the program's own that was waiting already has become one with it */
    uint8_t code[64]; /* from `begin` to `at`, and some more */
};

/* The registers that a thread will have at its call, from when it was met there until it or another is met. */
static struct {
    pid_t tid;
    registers at_call;
} met_last;

/* Read what there is in the kernel's map for a thread, or take it. */
static bool read_armed(pid_t tid, struct armed_call *call, bool taking)
{
    uint32_t key = (uint32_t)tid;
    union bpf_attr attr = {.map_fd = (uint32_t)armed};
    attr.key = (uint64_t)(uintptr_t)&key;
    attr.value = (uint64_t)(uintptr_t)call;
    return !syscall(SYS_bpf, taking ? BPF_MAP_LOOKUP_AND_DELETE_ELEM : BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr));
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

/* Have a thread that ours has stopped get the program's own signal that has become one with it; return that, 0 if there is none. */
static int own_signal(struct thread *thread, const struct armed_call *call)
{
    siginfo_t info = {0};
    if (!call->merged.signal)
        return 0;
    memcpy(&info, call->merged.info, sizeof(call->merged.info));
    ptrace(PTRACE_SETSIGINFO, thread->tid, 0, &info);
    return call->signal;
}

/* ---- queues of those held ---- */

static void queue_add(struct queue *queue, struct thread *thread)
{
    thread->earlier = queue->last;
    thread->later = NULL;
    *(queue->last ? &queue->last->later : &queue->first) = thread;
    queue->last = thread;
}

static void queue_remove(struct queue *queue, struct thread *thread)
{
    *(thread->earlier ? &thread->earlier->later : &queue->first) = thread->later;
    *(thread->later ? &thread->later->earlier : &queue->last) = thread->earlier;
    thread->earlier = thread->later = NULL;
}

static struct queue *queue_of(struct thread *thread)
{
    if (thread->state == HELD_EXEC)
        return &new_programs;
    return thread->state == HELD_ENTRY ? &thread->rule->held : &thread->rule->held_after;
}

/* ---- the life of a call ---- */

/* The kernel cannot see a delay: have it leave the timing of this thread's call to us. */
static void mark(struct thread *thread, bool setting)
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

static void hold(struct thread *thread, enum thread_state where, uint64_t ns)
{
    thread->state = where;
    thread->held_since = now();
    thread->due = thread->held_since + ns;
    queue_add(queue_of(thread), thread);
}

static void unhold(struct thread *thread)
{
    queue_remove(queue_of(thread), thread);
    thread->held += now() - thread->held_since;
    thread->done |= thread->state == HELD_ENTRY ? DELAY_ENTER : DELAY_EXIT;
    thread->state = RUNNING;
}

/* A call that is left out has number -1, for which a seccomp filter of the container may kill the program, or answer it. */
static void suspend_filters(struct thread *thread, bool suspending)
{
    long options = suspending ? OPTIONS | PTRACE_O_SUSPEND_SECCOMP : OPTIONS;
    if (thread->is_unfiltered != suspending && !ptrace(PTRACE_SETOPTIONS, thread->tid, 0, options))
        thread->is_unfiltered = suspending;
}

static void rule_check_ended(struct active_rule *active);

/* The call is over, for us at least: say what was done to it. */
static void forget_call(struct thread *thread, bool returned, int64_t result)
{
    struct active_rule *active = thread->rule;
    if (!active)
        return;
    if (thread->state != RUNNING)
        unhold(thread);
    mark(thread, false);
    suspend_filters(thread, false);
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
    thread->is_replaced = thread->at_site = thread->follows = false;
    rule_check_ended(active);
}

static void unchoose(struct thread *thread);

static void let_go(struct thread *thread, int signal)
{
    unchoose(thread);
    forget_call(thread, false, 0);
    if (ptrace(PTRACE_DETACH, thread->tid, 0, signal) == 0 || errno == ESRCH)
        thread_remove(thread);
}

static void leave(struct thread *thread, int64_t result);

static bool take(struct active_rule *active)
{
    bool is_taken = rule_take(active->rule, active->slot);
    ring->taken += is_taken;
    return is_taken;
}

static void give_back(struct active_rule *active)
{
    rule_give_back(active->slot);
    ring->taken--;
}

static void count_hit(struct active_rule *active, int number)
{
    __atomic_add_fetch(&active->slot->hit, (uint64_t)number, __ATOMIC_RELAXED);
}

/* The call is jumped over: it never enters the kernel. */
static void skip(struct thread *thread)
{
    const struct rule *rule = thread->rule->rule;
    const registers *there = met_last.tid == thread->tid ? &met_last.at_call : NULL;
    if (skip_call(thread->tid, thread->begin, thread->site, there, rule_result(rule))) { /* it is gone, or its code is */
        int pass_on = thread->pass_on;
        thread->pass_on = 0;
        if (!thread->done) { /* nor has it been held before */
            count_hit(thread->rule, -1);
            give_back(thread->rule);
        }
        forget_call(thread, false, 0);
        next_call(thread, pass_on);
        return;
    }
    thread->is_replaced = true;
    thread->rule->replaced++;
    thread->done |= rule->effects & (ERROR | RETVAL);
    if (rule->effects & DELAY_EXIT && !thread->rule->is_cut && !is_letting_go)
        hold(thread, HELD_EXIT, rule->exit_ns);
    else
        leave(thread, rule_result(rule));
}

/* What is left to do at the entry: a call that is replaced is left out, and its result is there already if we should die. */
static void enter(struct thread *thread)
{
    const struct rule *rule = thread->rule->rule;
    if (thread->at_site) {
        skip(thread);
        return;
    }
    if (rule->effects & (ERROR | RETVAL) && !leave_out_call(thread->tid)) {
        suspend_filters(thread, true);
        set_result(thread->tid, rule_result(rule));
        thread->is_replaced = true;
        thread->rule->replaced++;
        thread->done |= rule->effects & (ERROR | RETVAL);
    } else if (rule->effects & (DELAY_ENTER | DELAY_EXIT)) {
        mark(thread, true);
    }
    if (rule->effects & SIGNAL)
        thread->done |= SIGNAL;
    next_call(thread, rule->signal);
}

/* What is left to do at the exit. */
static void leave(struct thread *thread, int64_t result)
{
    int pass_on = thread->pass_on;
    thread->pass_on = 0;
    forget_call(thread, true, result);
    if (is_letting_go)
        let_go(thread, pass_on);
    else
        next_call(thread, pass_on);
}

/* Whether the kernel has decided already which calls of a thread a rule acts on, all but its budget. */
static bool is_decided_in_kernel(const struct rule *rule, const struct thread *thread)
{
    return !stops_at_calls(thread) && !rule->path && !rule->process;
}

static bool selects(struct active_rule *active, const struct call *call, struct thread *thread, const uint64_t arguments[6])
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

static void close_rule(struct active_rule *active);

/* A rule acts on a thread's call, from now on. */
static void begin_call(struct thread *thread, struct active_rule *active, int nr, uint64_t began)
{
    thread->rule = active;
    thread->nr = nr;
    thread->began = began;
    thread->held = 0;
    thread->done = 0;
    active->calls += 2; /* it stays while we look at it */
    count_hit(active, 1);
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

/* The call that a thread was to be hit at is let pass. */
static void unchoose(struct thread *thread)
{
    struct active_rule *active = thread->chosen;
    bool is_taken = active && !thread->is_undecided;
    thread->chosen = NULL;
    thread->is_undecided = false;
    if (is_taken)
        give_back(active);
    if (active) {
        active->chosen--;
        active->calls--;
        rule_check_ended(active);
    }
}

/* Let an armed thread make its call, and act there: on its way in or out of the kernel. */
static void follow(struct thread *thread, struct active_rule *chosen, const struct armed_call *call, uint64_t began, int signal)
{
    thread->chosen = chosen;
    chosen->chosen++;
    chosen->calls++; /* so that it stays */
    bool is_on_detour = call->from != call->begin;
    thread->follow_from = is_on_detour ? call->from : call->at;
    thread->follow_to = is_on_detour ? call->from + DETOUR : call->at;
    thread->began = began;
    thread->follows = true;
    next_call(thread, signal);
}

/* A thread is armed, and has stopped by a signal: ours (then there is none to pass on), or another that came first. */
static void at_armed(struct thread *thread, const struct armed_call *call, int pass_on)
{
    uint64_t began = now(), arguments[6];
    int64_t nr = -1;
    unchoose(thread); /* a signal's handler makes this call, on the way to one that was to be followed: that one is let pass */
    thread->follows = false;
    struct active_rule *active = call->nr < NR_MAX ? by_nr[call->nr].rule : NULL;
    bool is_current = active && active->rule->id == call->rule && !is_letting_go;
    met_last.tid = thread->tid;
    const uint8_t *code = call->has_code ? call->code : NULL;
    bool is_there = is_current && !call_ahead(thread->tid, call->from, call->begin, code, call->at, &met_last.at_call, &nr, arguments);
    if (is_there && nr < 0) {
        thread->is_undecided = true;
        follow(thread, active, call, began, pass_on);
    } else if (!is_there || nr != call->nr || !selects(active, by_nr[nr].call, thread, arguments)) {
        next_call(thread, pass_on); /* it is about to make another call than the code has shown, or shall make this one */
    } else if (active->rule->effects & (ERROR | RETVAL) && !(active->rule->effects & SIGNAL)) {
        thread->at_site = true;
        thread->begin = call->begin;
        thread->site = call->at;
        thread->pass_on = pass_on;
        begin_call(thread, active, (int)nr, began);
    } else {
        follow(thread, active, call, began, pass_on);
    }
}

/* The rule that acts on the call at whose entry a thread has stopped, NULL for none. */
static struct active_rule *acts_here(struct thread *thread, const struct __ptrace_syscall_info *info)
{
    uint64_t nr = info->entry.nr;
    const uint64_t *arguments = (const uint64_t *)info->entry.args;
    struct active_rule *active = nr < NR_MAX ? by_nr[nr].rule : NULL;
    if (thread->chosen) { /* it may be in the handler of a signal first, which makes calls of its own */
        uint64_t at = info->instruction_pointer - SYSCALL_BYTES;
        if (at < thread->follow_from || at > thread->follow_to)
            return NULL;
        bool is_hit = !thread->is_undecided || (active == thread->chosen && selects(active, by_nr[nr].call, thread, arguments));
        if (!is_hit) {
            unchoose(thread);
            thread->follows = false;
            return NULL;
        }
        active = thread->chosen;
        thread->chosen = NULL;
        thread->is_undecided = false;
        active->chosen--;
        active->calls--; /* begin_call counts it */
        return active;
    }
    if (!stops_at_calls(thread) || !active || !selects(active, by_nr[nr].call, thread, arguments))
        return NULL;
    return active;
}

static void at_entry(struct thread *thread, const struct __ptrace_syscall_info *info)
{
    uint64_t began = now();
    forget_call(thread, false, 0); /* a call whose exit was never seen */
    if (is_letting_go) {
        let_go(thread, 0);
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
    struct active_rule *active = acts_here(thread, info);
    if (active)
        begin_call(thread, active, (int)nr, stops_at_calls(thread) ? began : thread->began);
    else
        next_call(thread, 0);
}

static void at_exit(struct thread *thread, int64_t result)
{
    struct active_rule *active = thread->rule;
    if (active && thread->is_replaced) {
        /* Set it again: a filter of the container (seccomp) has seen call -1, and may have answered it. */
        result = rule_result(active->rule);
        set_result(thread->tid, result);
    }
    if (active && active->rule->effects & DELAY_EXIT && !active->is_cut && !is_letting_go)
        hold(thread, HELD_EXIT, active->rule->exit_ns);
    else
        leave(thread, result);
}

/* The result of a thread held in its exit stop. */
static int64_t result_of(const struct thread *thread)
{
    struct __ptrace_syscall_info info;
    if (thread->is_replaced)
        return rule_result(thread->rule->rule);
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread->tid, sizeof(info), &info) <= 0 || info.op != PTRACE_SYSCALL_INFO_EXIT)
        return 0;
    return info.exit.rval;
}

static void release(struct thread *thread)
{
    bool before = thread->state == HELD_ENTRY;
    unhold(thread);
    if (before)
        enter(thread);
    else
        leave(thread, result_of(thread));
}

/* ---- rules ---- */

/* A rule that has ended is forgotten with the last call that it tampers with. */
static void rule_check_ended(struct active_rule *active)
{
    if (!active->is_closed)
        return;
    if (active->asked && !active->replaced && !active->chosen && !active->held.first && !active->held_after.first) {
        answer(active->asked, 0);
        active->asked = 0;
    }
    if (active->calls || active->asked)
        return;
    if (active->why)
        report(&(struct record){.kind = ENDED, .id = active->rule->id, .value = active->why});
    struct active_rule **at = &rules;
    while (*at != active)
        at = &(*at)->next;
    *at = active->next;
    rule_free(active->rule);
    free(active);
}

/* It hits no more calls; those that it has hit get all of it. */
static void close_rule(struct active_rule *active)
{
    for (int i = 0; i < active->rule->call_count; i++) {
        int nr = active->rule->calls[i].nr;
        by_nr[nr].rule = by_nr[nr].rule == active ? NULL : by_nr[nr].rule;
    }
    active->is_closed = true;
}

static void let_pass(struct thread *thread)
{
    if (thread->chosen && thread->chosen->is_cut) {
        unchoose(thread);
        thread->follows = false;
    }
}

/* It hits no more calls, and those that it holds go on now. The caller keeps it from being forgotten meanwhile. */
static void cut_rule(struct active_rule *active)
{
    close_rule(active);
    active->is_cut = true;
    if (active->chosen)
        thread_each(let_pass);
    while (active->held.first)
        release(active->held.first);
    while (active->held_after.first)
        release(active->held_after.first);
}

static void remove_rule(uint32_t asked, uint32_t id)
{
    struct active_rule *active = rules;
    while (active && (active->rule->id != id || active->asked))
        active = active->next;
    if (!active) {
        answer(asked, 0);
        return;
    }
    active->calls++; /* it stays while we look at it */
    active->asked = asked;
    cut_rule(active);
    active->calls--;
    rule_check_ended(active);
}

static void add_rule(uint32_t asked, char *words)
{
    const char *reason;
    struct rule *rule = rule_parse(words, &reason);
    struct active_rule *active = rule ? calloc(1, sizeof(*active)) : NULL;
    int error = rule ? active ? 0 : ENOMEM : EINVAL;
    for (int i = 0; active && i < rule->call_count; i++)
        error = by_nr[rule->calls[i].nr].rule ? EEXIST : error;
    if (error) {
        if (error == EINVAL)
            fprintf(stderr, "a rule was refused because of its %s\n", reason);
        free(active);
        rule_free(rule);
        answer(asked, error);
        return;
    }
    active->rule = rule;
    active->slot = &state->slots[rule->slot];
    active->deadline = now() + rule->deadline_ms * MILLISECOND;
    active->next = rules;
    rules = active;
    for (int i = 0; i < rule->call_count; i++) {
        by_nr[rule->calls[i].nr].rule = active;
        by_nr[rule->calls[i].nr].call = &rule->calls[i];
    }
    answer(asked, 0);
}

/* ---- threads that come and go ---- */

static void check_attached(struct attachment *attachment)
{
    if (--attachment->waiting == 0) {
        answer(attachment->asked, 0);
        free(attachment);
    }
}

static void has_stopped(struct thread *thread)
{
    struct attachment *attachment = thread->attachment;
    thread->attachment = NULL;
    if (attachment)
        check_attached(attachment);
}

/* A thread that is made by one of ours is traced from its first moment on. */
static bool is_ours_or_gone(pid_t tid)
{
    char path[64], line[128], letter = 'X';
    int tracer = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", tid);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof(line), status)) {
        sscanf(line, "State: %c", &letter);
        sscanf(line, "TracerPid: %d", &tracer);
    }
    if (status)
        fclose(status);
    return letter == 'Z' || letter == 'X' || tracer == getpid();
}

static bool seize(pid_t tid, struct attachment *attachment)
{
    struct armed_call left;
    if (thread_find(tid))
        return false;
    if (armed >= 0) /* by a tracer that is gone: it would be taken for the reason of a signal of the program's own */
        read_armed(tid, &left, true);
    if (ptrace(PTRACE_SEIZE, tid, 0, OPTIONS)) {
        int error = errno;
        if (!is_ours_or_gone(tid))
            report(&(struct record){.kind = REFUSED, .id = attachment->asked, .thread = tid, .value = error});
        return false;
    }
    struct thread *thread = thread_get(tid);
    if (!thread)
        return false; /* it runs on, traced; its next stop finds it or lets it go */
    if (wake_at_calls(thread)) {
        thread->attachment = attachment;
        attachment->waiting++;
    }
    return true;
}

static void attach(uint32_t asked, pid_t pid)
{
    char path[64];
    struct attachment *attachment = calloc(1, sizeof(*attachment));
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    if (!attachment) {
        answer(asked, ENOMEM);
        return;
    }
    *attachment = (struct attachment){.asked = asked, .waiting = 1};
    /* A thread that is not seized yet may make another one: look again until there is nobody new. */
    for (bool more = true; more;) {
        DIR *tasks = opendir(path);
        more = false;
        for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
            pid_t tid = atoi(entry->d_name);
            more |= tid > 0 && seize(tid, attachment);
        }
        if (tasks)
            closedir(tasks);
    }
    check_attached(attachment);
}

static void leave_new_programs(struct thread *thread)
{
    if (thread->state == HELD_EXEC) {
        queue_remove(&new_programs, thread);
        thread->state = RUNNING;
    }
}

static void has_ended(struct thread *thread)
{
    unchoose(thread);
    has_stopped(thread);
    leave_new_programs(thread);
    forget_call(thread, false, 0);
    thread_remove(thread);
}

/* The thread that called exec goes on under its process's number; all others are gone. */
static struct thread *at_exec(struct thread *leader)
{
    unsigned long before = 0;
    if (ptrace(PTRACE_GETEVENTMSG, leader->tid, 0, &before) || (pid_t)before == leader->tid)
        return leader;
    struct thread *caller = thread_find((pid_t)before);
    if (!caller)
        return leader;
    struct count *counts = leader->counts;
    leader->counts = caller->counts;
    caller->counts = counts;
    has_stopped(leader);
    forget_call(leader, false, 0);
    unchoose(leader);
    leader->follows = caller->follows;
    leader->stops_at_calls = false; /* nor does the kernel know it as such any more: it is looked at anew */
    struct active_rule *active = caller->rule;
    if (active) { /* its exec is being tampered with: the exit will be seen here */
        leader->rule = active;
        leader->nr = caller->nr;
        leader->is_marked = false;
        leader->done = caller->done;
        leader->began = caller->began;
        leader->held = caller->held;
        mark(caller, false);
        caller->rule = NULL;
    }
    has_ended(caller);
    return leader;
}

/* ---- stops ---- */

static bool is_stop_signal(int signal)
{
    return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

static void at_call(struct thread *thread)
{
    struct __ptrace_syscall_info info;
    errno = 0;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread->tid, sizeof(info), &info) > 0) {
        if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            at_entry(thread, &info);
            return;
        }
        if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
            at_exit(thread, info.exit.rval);
            return;
        }
    }
    if (errno == EIO) {
        fprintf(stderr, "this kernel cannot tell of a stopped thread's system call, as Linux can from 5.3 on\n");
        is_at_odds = true;
    }
    next_call(thread, 0);
}

/*
 * A signal has stopped a thread: if it is armed, or that signal is the one that armed it, answer and return true. Another may come
 * first; what the kernel's map holds stays there until ours has come, to tell of one of the program's own that became one with it.
 */
static bool at_signal(struct thread *thread, int signal)
{
    struct armed_call call;
    bool may_be_ours = signal == SIGURG || signal == SIGWINCH;
    bool is_armed = read_armed(thread->tid, &call, may_be_ours);
    bool is_ours = may_be_ours && (is_armed ? signal == call.signal && !call.own_came_first : is_from_kernel(thread));
    uint64_t arrived = bit(signal);
    if (thread->owed && (!is_armed || thread->owed & bit(call.signal))) { /* the call has been seen to */
        if (!is_ours || !(thread->owed & arrived))
            return false;
        thread->owed &= ~arrived;
        next_call(thread, is_armed ? own_signal(thread, &call) : 0);
        return true;
    }
    if (!is_armed)
        return false;
    near_stopped(thread->tid, call.processor);
    if (signal == call.signal) /* if that is the program's own, ours has become one with it */
        thread->owed &= ~arrived;
    else
        thread->owed |= bit(call.signal);
    at_armed(thread, &call, is_ours ? own_signal(thread, &call) : signal);
    return true;
}

static void at_stop(pid_t tid, int status)
{
    struct thread *thread = thread_get(tid); /* a new child is traced already: it is met here first */
    int signal = WSTOPSIG(status), event = status >> 16;
    if (!thread) {
        ptrace(PTRACE_DETACH, tid, 0, 0);
        return;
    }
    has_stopped(thread);
    if (event == PTRACE_EVENT_EXEC)
        thread = at_exec(thread);
    if (signal == (SIGTRAP | 0x80)) {
        at_call(thread);
        return;
    }
    int pass_on = event ? 0 : signal;
    if (armed >= 0 && !event && at_signal(thread, signal))
        return;
    if (armed >= 0 && event == PTRACE_EVENT_EXEC && !is_letting_go) {
        report(&(struct record){.kind = EXEC, .thread = tid});
        hold(thread, HELD_EXEC, LOOKED_AT_WITHIN);
        return;
    }
    if (is_letting_go && !thread->is_replaced)
        let_go(thread, pass_on);
    else if (event == PTRACE_EVENT_STOP && is_stop_signal(signal))
        ptrace(PTRACE_LISTEN, tid, 0, 0); /* it was stopped for the program's own reasons, and stays so */
    else
        next_call(thread, pass_on);
}

static void let_new_program_go(struct thread *thread)
{
    leave_new_programs(thread);
    next_call(thread, 0);
}

/*
 * Answer those who have stopped; return whether there may be more, since others have their turn in between. The kernel tells of them in
 * the order of its list, so that who stops again at once could keep others from being met: every few times all are met before any goes on.
 */
static bool meet_stops(void)
{
    static struct {
        pid_t tid;
        int status;
    } met[STOPS_AT_ONCE];
    static unsigned turn;
    int count = 0, most = ++turn % TURNS ? 1 : STOPS_AT_ONCE;
    while (count < most && (met[count].tid = waitpid(-1, &met[count].status, WNOHANG | __WALL)) > 0)
        count++;
    stops_met += (unsigned)count;
    for (int i = 0; i < count; i++) {
        struct thread *thread = thread_find(met[i].tid);
        if (WIFSTOPPED(met[i].status))
            at_stop(met[i].tid, met[i].status);
        else if (thread)
            has_ended(thread);
    }
    return count == most;
}

/*
 * Threads that are hit all the time, and we, hand the processors to each other so fast that nobody else may get any: neither the agent that
 * wants to end the fault, nor kernel threads (seen for minutes). While we sleep these threads stop, and everybody has his turn: all
 * tracers sleep at the same time.
 */
static void give_others_a_turn(void)
{
    static uint64_t last;
    uint64_t turn = now() / TURN_EVERY, until = turn * TURN_EVERY + OTHERS_TURN;
    if (turn == last)
        return;
    bool is_hot = stops_met > HOT && turn == last + 1;
    last = turn;
    stops_met = 0;
    struct timespec time = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
    if (is_hot && !is_letting_go)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* ---- commands ---- */

static void begin_to_let_go(struct thread *thread)
{
    if (thread->state == HELD_EXEC) {
        let_new_program_go(thread);
        return;
    }
    bool is_over = thread->state == HELD_EXIT;
    if (thread->state != RUNNING)
        release(thread);
    if (!is_over && !thread->is_replaced && armed < 0)
        ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
}

static void detach(uint32_t asked)
{
    detach_asked = asked ? asked : detach_asked;
    if (is_letting_go)
        return;
    is_letting_go = true;
    let_go_by = now() + LETTING_GO;
    thread_each(begin_to_let_go);
}

/* Whether everybody has been let go of, or may be by our end alone: who is armed, and in no call, runs on without noticing. */
static bool has_let_go(void)
{
    for (struct active_rule *active = rules; armed >= 0 && active; active = active->next) {
        if (active->replaced || active->held.first || active->held_after.first)
            return false;
    }
    return armed >= 0 || !thread_count();
}

static int open_map(uint32_t id)
{
    union bpf_attr attr = {.map_id = id};
    return (int)syscall(SYS_bpf, BPF_MAP_GET_FD_BY_ID, &attr, sizeof(attr));
}

static void obey(char *line)
{
    unsigned asked, number;
    int used = 0;
    char what[16];
    if (sscanf(line, "%u %15s %n", &asked, what, &used) < 2 || !asked) {
        fprintf(stderr, "this is no command: %.60s\n", line);
        return;
    }
    bool has_number = sscanf(line + used, "%u", &number) == 1;
    if (!strcmp(what, "add")) {
        add_rule(asked, line + used);
    } else if (!strcmp(what, "remove") && has_number) {
        remove_rule(asked, number);
    } else if (!strcmp(what, "attach") && has_number && (pid_t)number > 1) {
        attach(asked, (pid_t)number);
    } else if (!strcmp(what, "marks") && has_number) {
        if (marks >= 0)
            close(marks);
        marks = open_map(number);
        answer(asked, marks < 0 ? errno : 0);
    } else if (!strcmp(what, "arm") && has_number && CAN_BE_ARMED) {
        armed = open_map(number);
        answer(asked, armed < 0 ? errno : 0);
    } else if (!strcmp(what, "go") && has_number) {
        struct thread *thread = thread_find((pid_t)number);
        if (thread && thread->state == HELD_EXEC)
            let_new_program_go(thread);
        answer(asked, 0);
    } else if (!strcmp(what, "syscall-stops") && has_number) {
        struct thread *thread = thread_find((pid_t)number);
        if (thread && !thread->stops_at_calls) {
            thread->stops_at_calls = true;
            wake_at_calls(thread);
        }
        answer(asked, thread ? 0 : ESRCH);
    } else if (!strcmp(what, "ping")) {
        answer(asked, 0);
    } else if (!strcmp(what, "detach")) {
        detach(asked);
    } else {
        answer(asked, EINVAL);
    }
}

/* Carry out what has come; return whether there may be more. */
static bool read_commands(void)
{
    static char *line;
    static size_t size, used;
    if (size - used < 4096) {
        size_t larger = size ? size * 2 : 1 << 14;
        char *grown = larger > LINE_MAX_BYTES ? NULL : realloc(line, larger);
        if (grown) {
            line = grown;
            size = larger;
        }
    }
    ssize_t n = line && used < size ? read(STDIN_FILENO, line + used, size - used) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) { /* the agent is gone */
        free(line);
        line = NULL;
        size = used = 0;
        detach(0);
        return false;
    }
    used += (size_t)n;
    char *begin = line;
    for (char *end; (end = memchr(begin, '\n', used - (size_t)(begin - line))); begin = end + 1) {
        *end = 0;
        obey(begin);
    }
    used -= (size_t)(begin - line);
    memmove(line, begin, used);
    return true;
}

/* ---- time ---- */

/* Let those go on who are due, end what has lasted long enough; return when something is due next. */
static uint64_t keep_time(void)
{
    uint64_t time = now(), next = FOREVER;
    for (struct active_rule *active = rules, *after; active; active = after) {
        active->calls++; /* it stays while we look at it */
        if (!active->is_cut && time >= active->deadline) {
            active->why = active->why ? active->why : EXPIRED;
            cut_rule(active);
        }
        struct queue *queues[] = {&active->held, &active->held_after};
        for (int i = 0; i < 2; i++) {
            while (queues[i]->first && queues[i]->first->due <= time)
                release(queues[i]->first);
            if (queues[i]->first && queues[i]->first->due < next)
                next = queues[i]->first->due;
        }
        if (!active->is_cut && active->deadline < next)
            next = active->deadline;
        active->calls--;
        after = active->next;
        rule_check_ended(active);
    }
    while (new_programs.first && new_programs.first->due <= time)
        let_new_program_go(new_programs.first);
    if (new_programs.first && new_programs.first->due < next)
        next = new_programs.first->due;
    /* A tracer without rules is of no use; whoever has ended them lets go soon, if he can. */
    had_rule |= rules != NULL;
    without_rules_since = rules || !had_rule ? FOREVER : without_rules_since == FOREVER ? time : without_rules_since;
    uint64_t last = is_letting_go ? let_go_by : without_rules_since == FOREVER ? FOREVER : without_rules_since + WITHOUT_RULES;
    if (!is_letting_go && time >= last)
        detach(0);
    return last < next ? last : next;
}

/* A thread that is let go of by our end alone may be in a call that was delayed. */
static void tell_of_call(struct thread *thread)
{
    unchoose(thread);
    leave_new_programs(thread);
    forget_call(thread, false, 0);
}

/* ---- the process ---- */

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "orca-tracer is started by the agent of chaosorca\n");
        return 2;
    }
    prctl(PR_SET_NAME, "orca-tracer");
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != atoi(argv[1])) {
        fprintf(stderr, "whoever has started it is gone\n");
        return 1;
    }
    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
    ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[3]), 0);
    if (state == MAP_FAILED || ring == MAP_FAILED) {
        perror("mapping what is shared with the agent");
        return 1;
    }
    report_keep(ring->last_calls);
    fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK);
    if (sleep_prepare()) {
        perror("preparing to sleep");
        return 1;
    }
    for (;;) {
        bool may_be_more = meet_stops();
        while (sleep_had_commands()) {
            while (read_commands())
                ;
        }
        if (is_at_odds || sleep_was_asked_to_end())
            detach(0);
        uint64_t next = keep_time(), said_by = report_flush(now());
        if (is_letting_go && (has_let_go() || now() >= let_go_by))
            break;
        give_others_a_turn();
        if (!may_be_more)
            sleep_until(said_by < next ? said_by : next);
    }
    thread_each(tell_of_call);
    /* Nobody waits for us any more: now the agent may take its time to read. */
    if (detach_asked)
        answer(detach_asked, 0);
    fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) & ~O_NONBLOCK);
    report_all();
    report_free();
    return 0; /* whoever could not be let go by now, because he is frozen, the kernel lets go */
}
