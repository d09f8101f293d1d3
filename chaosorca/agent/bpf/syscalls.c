/*
 * Count and time the system calls of monitored containers in the kernel.
 *
 * A call counts once, at its exit, if its entry was seen. A call that never returns to its caller (exit, exit_group, rt_sigreturn)
 * counts at its entry. The return of a child from fork or clone has no entry of its own and does not count. A call that a tracer
 * has replaced arrives here as number -1 and does not count here, since the tracer counts it. Calls of 32-bit x86 have numbers of
 * their own, which OF_32_BIT tells apart.
 *
 * Most calls of a host are made by processes that are not monitored. They cost one look-up in `maybe_monitored` at the entry, and a
 * test at entry and exit whether the thread has a call in flight. The number of monitored containers does not change that. A
 * monitored thread remembers its container, and looks it up again when that may have changed. While no calls are counted, no
 * program is attached to them.
 *
 * Besides the structures in in_flight.h, kernel memory is read only at the offsets IOAC_*, from the running kernel's own BTF.
 */

#include "common.h"

#define TIMED_BY_CALL 1
#define TIMED_BY_THREAD 2

#define OF_32_BIT (1u << 31)

const volatile u32 NR_EXIT;
const volatile u32 NR_EXIT_GROUP;
const volatile u32 NR_RT_SIGRETURN;
const volatile u32 CODE_SEGMENT_AT; /* its offset in `struct pt_regs` of x86-64; 0: another architecture */
const volatile u32 IOAC_READ;       /* 0: this kernel has no I/O accounting */
const volatile u32 IOAC_WRITTEN;
const volatile u32 IOAC_READS;
const volatile u32 IOAC_WRITES;

struct monitored {
    u32 target;
    u32 tracer; /* which calls of this container a tracer times: TIMED_BY_CALL, TIMED_BY_THREAD, or both; 0: none */
};

_Static_assert(sizeof(struct monitored) == 8, "`monitored_cgroups` in monitors/syscalls.py");
_Static_assert(offsetof(struct monitored, target) == 0 && offsetof(struct monitored, tracer) == 4, "as above");

/* The call in flight of a thread, and the container that it was looked up for. */
struct call {
    u64 began;   /* 0: no call is in flight */
    u64 group;   /* the thread's control group at the last look-up */
    u32 version; /* the version of `switches` at the last look-up */
    u32 epoch;   /* the epoch of `switches` when the call began */
    struct monitored monitored;
    u32 nr;
    u32 pad; /* older kernels refuse a value with bytes that were never written */
};

_Static_assert(sizeof(struct call) == 40, "`in_flight` in monitors/syscalls.py");

#define GROUPS 4096 /* see monitors/syscalls.py */

struct {
    u8 maybe_monitored[GROUPS]; /* by the last bits of a control group's id; 0: certainly not monitored */
    u32 version;                /* how often the monitored control groups have changed */
    u32 epoch;                  /* how often counting has begun; a call from an earlier epoch may have ended unseen */
} switches;

_Static_assert(sizeof(switches) == GROUPS + 8, "`.bss` in monitors/syscalls.py");
_Static_assert(offsetof(typeof(switches), version) == GROUPS && offsetof(typeof(switches), epoch) == GROUPS + 4, "as above");

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
    u64 sum; /* nanoseconds of all timed calls, including those that failed */
    u64 slots[SLOTS];
};

struct io {
    u64 read;
    u64 written;
    u64 reads;
    u64 writes;
};

_Static_assert(sizeof(struct call_key) == 8 && offsetof(struct call_key, nr) == 4, "`calls` in monitors/syscalls.py");
_Static_assert(sizeof(struct error_key) == 12 && offsetof(struct error_key, nr) == 4, "`errors` in monitors/syscalls.py");
_Static_assert(offsetof(struct error_key, error) == 8, "`errors` in monitors/syscalls.py");
_Static_assert(sizeof(struct figures) == 16 + SLOTS * 8, "`calls` in monitors/syscalls.py");
_Static_assert(offsetof(struct figures, sum) == 8 && offsetof(struct figures, slots) == 16, "`calls` in monitors/syscalls.py");
_Static_assert(sizeof(struct io) == 32 && offsetof(struct io, written) == 8, "`ended_io` in monitors/syscalls.py");
_Static_assert(offsetof(struct io, reads) == 16 && offsetof(struct io, writes) == 24, "`ended_io` in monitors/syscalls.py");

HASH(monitored_cgroups, u64, struct monitored, 4096);
HASH(untimed, struct call_key, u8, 1024); /* system calls that are not timed here */
HASH(marks, u32, u8, 65536);              /* threads whose call in flight is not timed here; tracers set and delete it */
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

/* Not inlined, like `leave`, so that a thread that is not monitored does not even save registers. */
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

/* Keep the sum of what ended threads have read and written, since /proc forgets it. */
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
