/*
 * Counts and times the system calls of watched containers, in the kernel.
 *
 * A call counts once, at its exit, if its entry was seen. Calls that never return to where they were made (exit, exit_group,
 * rt_sigreturn) count at their entry. The child's return from fork or clone has no entry of its own and does not count.
 * A call that a tracer has replaced arrives here as number -1: the tracer counts it, and it is left out.
 * Calls of 32-bit x86 have numbers of their own, which are told apart by OF_32_BIT.
 *
 * Most calls of a host are of processes that nobody watches: all that these pay for is one look at `maybe_monitored` at the entry, and one
 * at each end at whether anything is kept of the thread. How many containers are watched makes no difference to them. A thread that is
 * watched remembers by whom, and looks again when that may have changed. While nobody's calls are counted, nothing is attached to them.
 *
 * No other kernel structure than in in_flight.h is read but at the offsets given by IOAC_*, which come from the running kernel's own BTF.
 */

#include "common.h"

#define TIMED_BY_CALL 1
#define TIMED_BY_THREAD 2

#define OF_32_BIT (1u << 31)

const volatile u32 NR_EXIT;
const volatile u32 NR_EXIT_GROUP;
const volatile u32 NR_RT_SIGRETURN;
const volatile u32 CODE_SEGMENT_AT; /* in the registers of x86-64; 0: this is another machine */
const volatile u32 IOAC_READ; /* 0: this kernel does not tell */
const volatile u32 IOAC_WRITTEN;
const volatile u32 IOAC_READS;
const volatile u32 IOAC_WRITES;

struct monitored {
    u32 target;
    u32 tracer; /* who says which calls of this container a tracer times: TIMED_BY_CALL, TIMED_BY_THREAD, or both */
};

/* The call that a thread is in, and what it remembers. */
struct call {
    u64 began;              /* 0: it is in none */
    u64 group;              /* what it belonged to, */
    u32 version;            /* and the version of `switches`, when it was looked up by whom it is watched */
    u32 epoch;              /* that of `switches` when the call began */
    struct monitored monitored;
    u32 nr;
    u32 pad; /* older kernels refuse a value with bytes that were never written */
};

#define GROUPS 4096 /* see monitors/syscalls.py */

struct {
    u8 maybe_monitored[GROUPS]; /* by the last bits of a control group's id; 0: certainly not */
    u32 version;              /* how often it has changed who is watched, or how */
    u32 epoch;                /* how often calls have begun to be counted: one from before the last time is not known to have ended */
} switches;

#include "in_flight.h"

struct call_key {
    u32 target;
    u32 nr;
};

struct error_key {
    u32 target;
    u32 nr;
    u32 error;
};

struct figures {
    u64 succeeded;
    u64 sum; /* of all that are timed, failed ones too */
    u64 slots[SLOTS];
};

struct io {
    u64 read;
    u64 written;
    u64 reads;
    u64 writes;
};

HASH(monitored_cgroups, u64, struct monitored, 4096);
HASH(untimed, struct call_key, u8, 1024); /* all calls of this number */
HASH(marks, u32, u8, 65536);              /* the call that this thread is in: tracers set and delete it */
PER_CPU_HASH(calls, struct call_key, struct figures, 8192);
PER_CPU_HASH(errors, struct error_key, u64, 16384);
HASH(ended_io, u32, struct io, 1024);
DROPS

static __always_inline struct figures *figures_of(u32 target, u32 nr)
{
    struct call_key key = {.target = target, .nr = nr};
    struct figures *found = bpf_map_lookup_elem(&calls, &key);
    if (found)
        return found;
    struct figures zero = {};
    return lookup_or_init(&calls, &key, &zero);
}

static __always_inline void count_error(u32 target, u32 nr, u32 error)
{
    struct error_key key = {.target = target, .nr = nr, .error = error};
    u64 zero = 0;
    u64 *count = lookup_or_init(&errors, &key, &zero);
    if (count)
        ++*count;
    else
        drop();
}

static __always_inline bool is_timed_here(const struct call *call)
{
    if (call->monitored.tracer & TIMED_BY_CALL) {
        struct call_key key = {.target = call->monitored.target, .nr = call->nr};
        if (bpf_map_lookup_elem(&untimed, &key))
            return false;
    }
    if (call->monitored.tracer & TIMED_BY_THREAD) {
        u32 thread = bpf_get_current_pid_tgid();
        if (bpf_map_lookup_elem(&marks, &thread))
            return false;
    }
    return true;
}

static __always_inline bool never_returns(u32 nr)
{
    if (nr & OF_32_BIT) {
        nr -= OF_32_BIT;
        return nr == 1 /* exit */ || nr == 252 /* exit_group */ || nr == 119 /* sigreturn */ || nr == 173 /* rt_sigreturn */;
    }
    return nr == NR_EXIT || nr == NR_EXIT_GROUP || nr == NR_RT_SIGRETURN;
}

/* A function of its own, as its like below: what is not watched does not even have its registers saved. */
static __noinline int enter(struct bpf_raw_tracepoint_args *ctx)
{
    struct task_struct *task = current();
    struct call *own = remembered(task);
    struct call call = {.group = group_of(task), .version = switches.version, .epoch = switches.epoch};
    if (own && own->group == call.group && own->version == call.version) {
        call.monitored = own->monitored;
    } else {
        u64 cgroup = current_cgroup();
        struct monitored *monitored = NULL;
        if (switches.maybe_monitored[cgroup % GROUPS])
            monitored = bpf_map_lookup_elem(&monitored_cgroups, &cgroup);
        if (!monitored)
            return 0;
        call.monitored = *monitored;
    }
    long nr = ctx->args[1];
    if (nr < 0)
        return 0;
    call.nr = is_32_bit(task, ctx) ? nr | OF_32_BIT : nr;
    if (never_returns(call.nr)) {
        struct figures *figures = figures_of(call.monitored.target, call.nr);
        if (figures)
            figures->succeeded++;
        else
            drop();
        return 0;
    }
    call.began = bpf_ktime_get_ns();
    if (!begin_call(own, &call))
        drop();
    return 0;
}

static __noinline int leave(struct bpf_raw_tracepoint_args *ctx)
{
    struct call call;
    if (!end_call(&call) || call.epoch != switches.epoch)
        return 0;
    u64 took = bpf_ktime_get_ns() - call.began;
    long result = ctx->args[1];
    bool failed = result < 0 && result >= -4095;
    if (failed)
        count_error(call.monitored.target, call.nr, -result);
    bool timed = !call.monitored.tracer || is_timed_here(&call);
    if (failed && !timed)
        return 0;
    struct figures *figures = figures_of(call.monitored.target, call.nr);
    if (!figures) {
        drop();
        return 0;
    }
    if (!failed)
        figures->succeeded++;
    if (timed) {
        figures->sum += took;
        figures->slots[slot_of(took)]++;
    }
    return 0;
}

SEC("raw_tp/sys_enter")
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
    return may_be_remembered() || switches.maybe_monitored[current_cgroup() % GROUPS] ? enter(ctx) : 0;
}

SEC("raw_tp/sys_exit")
int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
    return may_be_in_call() ? leave(ctx) : 0;
}

/* What an ending thread has read and written is gone from /proc with it: keep the sum. */
SEC("raw_tp/sched_process_exit")
int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
    forget_call();
    u64 cgroup = current_cgroup();
    struct monitored *monitored = bpf_map_lookup_elem(&monitored_cgroups, &cgroup);
    if (!monitored)
        return 0;
    if (!IOAC_READ)
        return 0;
    u32 target = monitored->target;
    struct io zero = {}, own = {};
    char *task = (char *)ctx->args[0];
    bpf_probe_read_kernel(&own.read, sizeof(own.read), task + IOAC_READ);
    bpf_probe_read_kernel(&own.written, sizeof(own.written), task + IOAC_WRITTEN);
    bpf_probe_read_kernel(&own.reads, sizeof(own.reads), task + IOAC_READS);
    bpf_probe_read_kernel(&own.writes, sizeof(own.writes), task + IOAC_WRITES);
    struct io *sum = lookup_or_init(&ended_io, &target, &zero);
    if (sum) {
        __sync_fetch_and_add(&sum->read, own.read);
        __sync_fetch_and_add(&sum->written, own.written);
        __sync_fetch_and_add(&sum->reads, own.reads);
        __sync_fetch_and_add(&sum->writes, own.writes);
    } else
        drop();
    return 0;
}
