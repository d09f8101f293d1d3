/*
 * The current thread: its control group, and the state of its call in flight.
 *
 * Where the kernel has type information (BTF), the control group is read from the task, and the call is kept in task storage, which
 * is freed with the thread. A thread without storage needs no look-up, which is most of what a thread that is not monitored would
 * cost. Otherwise (PLAIN) helper functions and a map by thread id do the same, a little slower.
 */

#pragma once

#include "common.h"

#ifndef PLAIN

#include <bpf/bpf_core_read.h>

#define AS_IN_KERNEL __attribute__((preserve_access_index))
#define TS_COMPAT 2

struct kernfs_node {
    u64 id;
} AS_IN_KERNEL;

struct cgroup {
    struct kernfs_node *kn;
} AS_IN_KERNEL;

struct css_set {
    struct cgroup *dfl_cgrp;
} AS_IN_KERNEL;

struct thread_info {
    u32 status;
} AS_IN_KERNEL;

struct task_struct {
    struct thread_info thread_info;
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

/* A value that changes when the thread moves to another control group. */
static __always_inline u64 group_of(const struct task_struct *task)
{
    return (u64)task->cgroups;
}

/* Whether the thread's call is one of 32-bit x86. */
static __always_inline bool is_32_bit(const struct task_struct *task, UNUSED const struct bpf_raw_tracepoint_args *ctx)
{
    return bpf_core_field_exists(task->thread_info.status) && task->thread_info.status & TS_COMPAT;
}

static __always_inline bool may_be_remembered(void)
{
    return current()->bpf_storage;
}

static __always_inline bool may_be_in_call(void)
{
    return may_be_remembered();
}

static __always_inline struct call *remembered(struct task_struct *task)
{
    return bpf_task_storage_get(&in_flight, task, 0, 0);
}

static __always_inline bool begin_call(struct call *own, const struct call *call)
{
    if (!own)
        own = bpf_task_storage_get(&in_flight, current(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (own)
        *own = *call;
    return own;
}

/* Take the call that ends. Return false if its entry was not seen. Storage of a thread that is no longer monitored is freed. */
static __always_inline bool end_call(struct call *call)
{
    struct call *own = bpf_task_storage_get(&in_flight, current(), 0, 0);
    if (!own)
        return false;
    if (!own->began) {
        if (own->version != switches.version || own->group != group_of(current()))
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

#define USER_32 0x23 /* the code segment of 32-bit programs */

struct task_struct;

HASH(in_flight, u32, struct call, 65536);

static __always_inline u64 current_cgroup(void)
{
    return bpf_get_current_cgroup_id();
}

static __always_inline struct task_struct *current(void)
{
    return NULL; /* not needed */
}

static __always_inline u64 group_of(UNUSED const struct task_struct *task)
{
    return 0;
}

/* Whether the program is one of 32-bit x86, by its code segment. A 32-bit call of a 64-bit program is not recognised. */
static __always_inline bool is_32_bit(UNUSED const struct task_struct *task, const struct bpf_raw_tracepoint_args *ctx)
{
    u64 segment = 0;
    if (CODE_SEGMENT_AT)
        bpf_probe_read_kernel(&segment, sizeof(segment), (const char *)ctx->args[0] + CODE_SEGMENT_AT);
    return segment == USER_32;
}

static __always_inline bool may_be_remembered(void)
{
    return false;
}

static __always_inline bool may_be_in_call(void)
{
    return true;
}

static __always_inline struct call *remembered(UNUSED struct task_struct *task)
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

/* A thread that executes another program gets the thread id of its process's leader. */
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
