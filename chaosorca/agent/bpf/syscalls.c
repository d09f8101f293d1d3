/*
 * Counts and times the system calls of watched containers, in the kernel.
 *
 * A call counts once, at its exit, if its entry was seen. Calls that never return to where they were made (exit, exit_group,
 * rt_sigreturn) count at their entry. The child's return from fork or clone has no entry of its own and does not count.
 * A call that a tracer has replaced arrives here as number -1: the tracer counts it, and it is left out.
 *
 * No kernel structure is read but at the offsets given by IOAC_*, which come from the running kernel's own BTF.
 */

#include "common.h"

#define TIMED_BY_CALL 1
#define TIMED_BY_THREAD 2

const volatile u32 NR_EXIT;
const volatile u32 NR_EXIT_GROUP;
const volatile u32 NR_RT_SIGRETURN;
const volatile u32 IOAC_READ; /* 0: this kernel does not tell */
const volatile u32 IOAC_WRITTEN;
const volatile u32 IOAC_READS;
const volatile u32 IOAC_WRITES;

struct watched {
    u32 target;
    u32 tracer; /* who says which calls of this container a tracer times: TIMED_BY_CALL, TIMED_BY_THREAD, or both */
};

struct call {
    u64 began;
    u32 nr;
    struct watched watched;
    u32 pad; /* older kernels refuse a value with bytes that were never written */
};

struct count_key {
    u32 target;
    u32 nr;
    u32 error; /* 0: success */
};

struct duration_key {
    u32 target;
    u32 nr;
};

struct duration {
    u64 sum;
    u64 slots[SLOTS];
};

struct io {
    u64 read;
    u64 written;
    u64 reads;
    u64 writes;
};

HASH(watched_cgroups, u64, struct watched, 4096);
HASH(untimed, struct duration_key, u8, 1024); /* all calls of this number */
HASH(marks, u32, u8, 65536);                  /* the call that this thread is in: tracers set and delete it */
HASH(in_flight, u32, struct call, 65536);
HASH(counts, struct count_key, u64, 65536);
HASH(durations, struct duration_key, struct duration, 8192);
HASH(ended_io, u32, struct io, 1024);
DROPS

static __always_inline void count(u32 target, u32 nr, u32 error)
{
    struct count_key key = {.target = target, .nr = nr, .error = error};
    if (!add_one(&counts, &key))
        drop();
}

static __always_inline void time_call(struct call *call, u32 thread, u64 now)
{
    struct duration_key key = {.target = call->watched.target, .nr = call->nr};
    if (call->watched.tracer & TIMED_BY_CALL && bpf_map_lookup_elem(&untimed, &key))
        return;
    if (call->watched.tracer & TIMED_BY_THREAD && bpf_map_lookup_elem(&marks, &thread))
        return;
    struct duration zero = {};
    struct duration *d = lookup_or_init(&durations, &key, &zero);
    if (!d) {
        drop();
        return;
    }
    u64 took = now - call->began;
    __sync_fetch_and_add(&d->slots[slot_of(took)], 1);
    __sync_fetch_and_add(&d->sum, took);
}

SEC("raw_tp/sys_enter")
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
    u64 cgroup = bpf_get_current_cgroup_id();
    struct watched *watched = bpf_map_lookup_elem(&watched_cgroups, &cgroup);
    if (!watched)
        return 0;
    long nr = ctx->args[1];
    if (nr < 0)
        return 0;
    if (nr == NR_EXIT || nr == NR_EXIT_GROUP || nr == NR_RT_SIGRETURN) {
        count(watched->target, nr, 0);
        return 0;
    }
    struct call call = {.nr = nr, .watched = *watched};
    call.began = bpf_ktime_get_ns();
    u32 thread = bpf_get_current_pid_tgid();
    if (bpf_map_update_elem(&in_flight, &thread, &call, BPF_ANY))
        drop();
    return 0;
}

SEC("raw_tp/sys_exit")
int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
    u32 thread = bpf_get_current_pid_tgid();
    struct call *found = bpf_map_lookup_elem(&in_flight, &thread);
    if (!found)
        return 0;
    u64 now = bpf_ktime_get_ns();
    struct call call = *found;
    bpf_map_delete_elem(&in_flight, &thread);
    long result = ctx->args[1];
    count(call.watched.target, call.nr, result < 0 && result >= -4095 ? -result : 0);
    time_call(&call, thread, now);
    return 0;
}

/* What an ending thread has read and written is gone from /proc with it: keep the sum. */
SEC("raw_tp/sched_process_exit")
int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
    u64 cgroup = bpf_get_current_cgroup_id();
    struct watched *watched = bpf_map_lookup_elem(&watched_cgroups, &cgroup);
    if (!watched)
        return 0;
    u32 thread = bpf_get_current_pid_tgid();
    bpf_map_delete_elem(&in_flight, &thread);
    if (!IOAC_READ)
        return 0;
    u32 target = watched->target;
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
