/*
 * Counts and times the system calls of watched containers, in the kernel.
 *
 * A call counts once, at its exit, if its entry was seen. Calls that never return to where they were made (exit, exit_group,
 * rt_sigreturn) count at their entry. The child's return from fork or clone has no entry of its own and does not count.
 * A call that a tracer has replaced arrives here as number -1: the tracer counts it, and it is left out.
 *
 * No kernel structure is read but at the offsets given by IOAC_*, which come from the running kernel's own BTF, so the program
 * can be compiled against any kernel's headers.
 */

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

/* slots[i]: calls that took less than 2^(FIRST_SLOT + i) ns and were in no slot before; the last one has no bound */
struct duration {
    u64 sum;
    u64 slots[SLOTS];
};

struct io {
    u64 read;
    u64 written;
};

BPF_HASH(watched_cgroups, u64, struct watched, 4096);
BPF_HASH(untimed, struct duration_key, u8, 1024); /* all calls of this number */
BPF_HASH(marks, u32, u8, 65536);                  /* the call that this thread is in: tracers set and delete it */
BPF_HASH(in_flight, u32, struct call, 65536);
BPF_HASH(counts, struct count_key, u64, 65536);
BPF_HASH(durations, struct duration_key, struct duration, 8192);
BPF_HASH(ended_io, u32, struct io, 1024);
BPF_ARRAY(dropped, u64, 1);

static __always_inline void drop(void)
{
    int zero = 0;
    u64 *n = dropped.lookup(&zero);
    if (n)
        __sync_fetch_and_add(n, 1);
}

static __always_inline void count(u32 target, u32 nr, u32 error)
{
    struct count_key key = {.target = target, .nr = nr, .error = error};
    u64 zero = 0;
    u64 *n = counts.lookup_or_try_init(&key, &zero);
    if (n)
        __sync_fetch_and_add(n, 1);
    else
        drop();
}

static __always_inline void time_call(struct call *call, u32 thread, u64 now)
{
    struct duration_key key = {.target = call->watched.target, .nr = call->nr};
    if (call->watched.tracer & TIMED_BY_CALL && untimed.lookup(&key))
        return;
    if (call->watched.tracer & TIMED_BY_THREAD && marks.lookup(&thread))
        return;
    struct duration zero = {};
    struct duration *d = durations.lookup_or_try_init(&key, &zero);
    if (!d) {
        drop();
        return;
    }
    u64 took = now - call->began;
    u32 slot = bpf_log2l(took); /* took < 2^slot */
    slot = slot <= FIRST_SLOT ? 0 : slot - FIRST_SLOT;
    if (slot >= SLOTS)
        slot = SLOTS - 1;
    __sync_fetch_and_add(&d->slots[slot], 1);
    __sync_fetch_and_add(&d->sum, took);
}

RAW_TRACEPOINT_PROBE(sys_enter)
{
    u64 cgroup = bpf_get_current_cgroup_id();
    struct watched *watched = watched_cgroups.lookup(&cgroup);
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
    if (in_flight.update(&thread, &call))
        drop();
    return 0;
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
    u32 thread = bpf_get_current_pid_tgid();
    struct call *found = in_flight.lookup(&thread);
    if (!found)
        return 0;
    u64 now = bpf_ktime_get_ns();
    struct call call = *found;
    in_flight.delete(&thread);
    long result = ctx->args[1];
    count(call.watched.target, call.nr, result < 0 && result >= -4095 ? -result : 0);
    time_call(&call, thread, now);
    return 0;
}

/* What an ending thread has read and written is gone from /proc with it: keep the sum. */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
    u64 cgroup = bpf_get_current_cgroup_id();
    struct watched *watched = watched_cgroups.lookup(&cgroup);
    if (!watched)
        return 0;
    u32 thread = bpf_get_current_pid_tgid();
    in_flight.delete(&thread);
#ifdef IOAC_READ
    u32 target = watched->target;
    struct io zero = {}, own = {};
    char *task = (char *)ctx->args[0];
    bpf_probe_read_kernel(&own.read, sizeof(own.read), task + IOAC_READ);
    bpf_probe_read_kernel(&own.written, sizeof(own.written), task + IOAC_WRITTEN);
    struct io *sum = ended_io.lookup_or_try_init(&target, &zero);
    if (sum) {
        __sync_fetch_and_add(&sum->read, own.read);
        __sync_fetch_and_add(&sum->written, own.written);
    } else
        drop();
#endif
    return 0;
}
