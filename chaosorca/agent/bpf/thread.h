/*
 * The thread that is running: its control group, and the call that it is in or was in last.
 *
 * Where the kernel tells its types (BTF), the group is read where it is, and the call is kept in storage of the thread's own, which goes
 * with it and is not even looked for where a thread has none: most of what an unwatched one would have to pay. Else (PLAIN) helpers and a
 * map by the thread's number do the same, a little slower.
 */

#pragma once

#include "common.h"

#ifndef PLAIN

#define AS_IN_KERNEL __attribute__((preserve_access_index))

struct kernfs_node {
    u64 id;
} AS_IN_KERNEL;

struct cgroup {
    struct kernfs_node *kn;
} AS_IN_KERNEL;

struct css_set {
    struct cgroup *dfl_cgrp;
} AS_IN_KERNEL;

struct task_struct {
    struct css_set *cgroups;
    struct bpf_local_storage *bpf_storage;
} AS_IN_KERNEL;

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct call);
} in_flight SEC(".maps");

static __always_inline struct task_struct *current(void)
{
    return (struct task_struct *)bpf_get_current_task_btf();
}

static __always_inline u64 current_cgroup(void)
{
    return current()->cgroups->dfl_cgrp->kn->id;
}

/* What changes when the thread is put into another control group. */
static __always_inline u64 current_group(void)
{
    return (u64)current()->cgroups;
}

static __always_inline bool may_be_remembered(void)
{
    return current()->bpf_storage;
}

static __always_inline bool may_be_in_call(void)
{
    return may_be_remembered();
}

static __always_inline struct call *remembered(void)
{
    return bpf_task_storage_get(&in_flight, current(), 0, 0);
}

static __always_inline bool begin_call(struct call *own, const struct call *call)
{
    if (!own)
        own = bpf_task_storage_get(&in_flight, current(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (own)
        *own = *call;
    return own;
}

/* Take the call that ends; false: its entry was not seen. Storage of a thread that is not watched any more goes. */
static __always_inline bool end_call(struct call *call)
{
    struct call *own = bpf_task_storage_get(&in_flight, current(), 0, 0);
    if (!own)
        return false;
    if (!own->began) {
        if (own->version != switches.version || own->group != current_group())
            bpf_task_storage_delete(&in_flight, current());
        return false;
    }
    *call = *own;
    own->began = 0;
    return true;
}

static __always_inline void forget_call(void)
{
}

#else

HASH(in_flight, u32, struct call, 65536);

static __always_inline u64 current_cgroup(void)
{
    return bpf_get_current_cgroup_id();
}

static __always_inline u64 current_group(void)
{
    return 0;
}

static __always_inline bool may_be_remembered(void)
{
    return false;
}

static __always_inline bool may_be_in_call(void)
{
    return true;
}

static __always_inline struct call *remembered(void)
{
    return NULL;
}

static __always_inline bool begin_call(UNUSED struct call *own, const struct call *call)
{
    u32 thread = bpf_get_current_pid_tgid();
    return !bpf_map_update_elem(&in_flight, &thread, call, BPF_ANY);
}

static __always_inline bool end_call(struct call *call)
{
    u32 thread = bpf_get_current_pid_tgid();
    struct call *found = bpf_map_lookup_elem(&in_flight, &thread);
    if (!found)
        return false;
    *call = *found;
    bpf_map_delete_elem(&in_flight, &thread);
    return true;
}

static __always_inline void forget_call(void)
{
    u32 thread = bpf_get_current_pid_tgid();
    bpf_map_delete_elem(&in_flight, &thread);
}

/* A thread that executes another program gets the number of its process's first one. */
SEC("raw_tp/sched_process_exec")
int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
    u32 before = ctx->args[1], thread = bpf_get_current_pid_tgid();
    struct call *found = before != thread ? bpf_map_lookup_elem(&in_flight, &before) : NULL;
    if (!found)
        return 0;
    struct call call = *found;
    bpf_map_delete_elem(&in_flight, &before);
    bpf_map_update_elem(&in_flight, &thread, &call, BPF_ANY);
    return 0;
}

#endif
