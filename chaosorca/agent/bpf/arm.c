/*
 * Decides, just before a system call is made, whether a tracer shall act on it, and if so stops the thread there by a signal.
 *
 * A uprobe sits on the instruction before each `syscall` that may make a faulted call, or on the nearest one before it from which
 * control gets there and that the kernel can carry out itself, which costs a thirtieth of a step. Which call that is comes with the
 * probe (its cookie), or is in the accumulator already. What the decision needs of the program's memory (a path, a command line) is
 * left to the tracer: such a rule arms each call.
 *
 * The cookie's bits: 0-15 the number (0xffff: see `number_in`), 16-31 bytes to the `syscall`, 32-47 for IS_EARLY bytes to where the
 * thread is next, else 32-39 the register and 40-55 the distance behind it, 56-59 the condition of HAS_CONDITION, 60-63 the flags.
 * HAS_DETOUR: 48-55 bytes to where it is next if the condition holds, 32-47 if it does not; with IS_EARLY the other way round.
 *
 * Of the kernel's structures only `task_struct` and `sighand_struct` are read, at offsets from the running kernel's own BTF.
 */

#include "common.h"

const volatile u32 SIGNAL;
const volatile u32 OTHER_SIGNAL;
const volatile u32 NR_MMAP;
const volatile u32 PROT_EXEC;
const volatile u32 TASK_PID;
const volatile u32 TASK_TGID;
const volatile u32 TASK_START;
const volatile u32 TASK_PARENT;
const volatile u32 TASK_PTRACE;
const volatile u32 TASK_BLOCKED;
const volatile u32 TASK_SIGHAND;
const volatile u32 SIGHAND_ACTION;

#define IN_MEMORY (1ull << 60)
#define IS_EARLY (1ull << 61)
#define HAS_CONDITION (1ull << 62)
#define HAS_DETOUR (1ull << 63)
#define AHEAD 64

/* `struct pt_regs` of x86-64. */
struct registers {
    u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#define ALREADY_PENDING 2 /* what becomes of a signal: include/trace/events/signal.h */
#define SI_KERNEL 0x80

struct rule_key {
    u32 target;
    u32 nr;
};

struct rule {
    u32 id;
    u32 all; /* arm every call: the tracer decides */
    u32 first;
    u32 last; /* 0: none */
    u32 step;
    u32 pad;
    u64 threshold; /* of 2^64; 0: every call */
    u64 seed;
};

struct call_key {
    u32 thread;
    u32 nr;
};

struct calls {
    u32 rule;
    u32 count;
    u64 born; /* when the thread began: numbers of threads are used again */
};

struct armed {
    u32 rule;
    u32 nr;
    u64 from; /* where the thread stops */
    u64 begin; /* from where it gets straight to the call: there, or on the other way if it is on a detour */
    u64 at; /* the `syscall` instruction on that way */
    u32 signal;
    u32 processor;
    u64 merged[4]; /* how the kernel's siginfo begins of one of the program's own that came while ours was waiting; 0: none did */
    u32 has_code;
    u32 own_came_first; /* ours has become one with one of the program's own that was waiting already */
    u8 code[AHEAD]; /* what is from `begin` to `at`, and some more */
};

HASH(armed_cgroups, u64, u32, 4096);
HASH(rules, struct rule_key, struct rule, 8192);
LRU_HASH(calls, struct call_key, struct calls, 65536);
HASH(armed, u32, struct armed, 65536);
HASH(seen, struct rule_key, u64, 8192);
HASH(blocked, struct rule_key, u64, 8192); /* calls that were let pass, because the thread blocks the signal */
HASH(untraced, struct rule_key, u64, 8192); /* and because no tracer of ours has the thread */
HASH(syscall_stops, u32, u8, 65536); /* threads that the tracer stops at each call: they block the signals */
HASH(tracers, u32, u8, 4096); /* ours, by process */
HASH(new_code, u32, u64, 4096); /* how often a target has mapped code */
DROPS

static __always_inline u64 mix(u64 seed, u64 number)
{
    u64 z = seed + number * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* SplitMix64 of the seed, the system call, the thread and its call: no state that processors would have to share. */
static __always_inline u64 draw(u64 seed, u32 nr, u32 thread, u32 count)
{
    return mix(mix(seed, nr), (u64)thread << 32 | count);
}

static __always_inline bool selects(struct rule *rule, u32 thread, u32 nr)
{
    if (rule->first == 1 && !rule->last && rule->step == 1 && !rule->threshold)
        return true;
    struct call_key key = {.thread = thread, .nr = nr};
    struct calls none = {.rule = rule->id};
    bpf_probe_read_kernel(&none.born, sizeof(none.born), (char *)bpf_get_current_task() + TASK_START);
    struct calls *made = lookup_or_init(&calls, &key, &none);
    if (!made)
        return false;
    if (made->rule != rule->id || made->born != none.born) {
        made->rule = rule->id;
        made->born = none.born;
        made->count = 0;
    }
    u32 count = ++made->count;
    if (count < rule->first || (rule->last && count > rule->last) || (count - rule->first) % rule->step)
        return false;
    return !rule->threshold || draw(rule->seed, nr, thread, count) < rule->threshold;
}

/* The number, where the code does not say it: what the register holds that the cookie names, or the memory that it points to. */
static __always_inline u32 number_in(struct registers *ctx, u64 cookie)
{
    u32 where = cookie >> 32 & 0xff;
    u64 number = ctx->ax;
    /* One by one: a computed offset into the context is refused. */
#define HELD_IN(register, field) \
    if (where == register) {     \
        number = ctx->field;     \
        asm volatile("" : "+r"(number)); \
    }
    HELD_IN(1, bx)
    HELD_IN(2, cx)
    HELD_IN(3, dx)
    HELD_IN(4, si)
    HELD_IN(5, di)
    HELD_IN(6, bp)
    HELD_IN(7, r8)
    HELD_IN(8, r9)
    HELD_IN(9, r10)
    HELD_IN(10, r11)
    HELD_IN(11, r12)
    HELD_IN(12, r13)
    HELD_IN(13, r14)
    HELD_IN(14, r15)
    HELD_IN(15, sp)
    if (cookie & IN_MEMORY) {
        u32 loaded = ~0;
        bpf_probe_read_user(&loaded, sizeof(loaded), (void *)(number + (s16)(cookie >> 40)));
        return loaded;
    }
    return number;
}

/* Whether a jump's condition holds: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, appendix B. */
static __always_inline bool holds(u64 flags, u32 condition)
{
    u64 carry = flags, parity = flags >> 2, zero = flags >> 6, sign = flags >> 7, overflow = flags >> 11;
    u64 all = (overflow & 1) | (carry & 1) << 1 | (zero & 1) << 2 | ((carry | zero) & 1) << 3 | (sign & 1) << 4 | (parity & 1) << 5 |
              ((sign ^ overflow) & 1) << 6 | (((sign ^ overflow) | zero) & 1) << 7;
    return (all >> (condition >> 1) ^ condition) & 1;
}

/* Whether a signal does something to its thread if nobody traces that: it has a handler. */
static __always_inline bool is_handled(u64 actions, u32 signal)
{
    u64 handler = 0;
    /* struct k_sigaction begins with the handler, and is of 32 bytes. */
    bpf_probe_read_kernel(&handler, sizeof(handler), (char *)actions + SIGHAND_ACTION + 32 * (signal - 1));
    return handler > 1;
}

/* The signal that stops the current thread: one that it has not blocked, if possible one that does nothing should the tracer end just
 * now. 0: none. */
static __always_inline u32 arming_signal(char *task)
{
    u64 mask = 0, actions = 0;
    bpf_probe_read_kernel(&mask, sizeof(mask), task + TASK_BLOCKED);
    bpf_probe_read_kernel(&actions, sizeof(actions), task + TASK_SIGHAND);
    bool can_first = !(mask >> (SIGNAL - 1) & 1);
    if (can_first && !is_handled(actions, SIGNAL))
        return SIGNAL;
    if (!(mask >> (OTHER_SIGNAL - 1) & 1) && !is_handled(actions, OTHER_SIGNAL))
        return OTHER_SIGNAL;
    return can_first ? SIGNAL : 0;
}

/* Nobody but a tracer of ours may see the signal: neither the program itself, nor a debugger. */
static __always_inline bool is_ours(char *task)
{
    u32 traced = 0, tracer = 0;
    u64 parent = 0;
    bpf_probe_read_kernel(&traced, sizeof(traced), task + TASK_PTRACE);
    if (!traced)
        return false;
    bpf_probe_read_kernel(&parent, sizeof(parent), task + TASK_PARENT);
    bpf_probe_read_kernel(&tracer, sizeof(tracer), (char *)parent + TASK_TGID);
    return bpf_map_lookup_elem(&tracers, &tracer);
}

SEC("uprobe")
int at_site(struct registers *ctx)
{
    u64 cgroup = bpf_get_current_cgroup_id();
    u32 *target = bpf_map_lookup_elem(&armed_cgroups, &cgroup);
    if (!target)
        return 0;
    u64 cookie = bpf_get_attach_cookie(ctx);
    if (cookie & HAS_CONDITION && !holds(ctx->flags, cookie >> 56 & 15))
        return 0;
    u32 nr = cookie & 0xffff;
    struct rule_key key = {.target = *target, .nr = nr == 0xffff ? number_in(ctx, cookie) : nr};
    if (key.nr == NR_MMAP && ctx->dx & PROT_EXEC && !add_one(&new_code, target))
        drop();
    struct rule *rule = bpf_map_lookup_elem(&rules, &key);
    if (!rule)
        return 0;
    if (!add_one(&seen, &key))
        drop();
    u32 thread = bpf_get_current_pid_tgid();
    if (bpf_map_lookup_elem(&syscall_stops, &thread) || (!rule->all && !selects(rule, thread, key.nr)))
        return 0;
    char *task = (char *)bpf_get_current_task();
    if (!is_ours(task)) {
        if (!add_one(&untraced, &key))
            drop();
        return 0;
    }
    u32 signal = arming_signal(task);
    if (!signal) {
        /* It would not stop here. A signal that cannot be blocked (SIGSTOP) might outlast its tracer, and then nobody undoes it. */
        if (!add_one(&blocked, &key))
            drop();
        return 0;
    }
    struct armed call = {.rule = rule->id, .nr = key.nr, .signal = signal, .processor = bpf_get_smp_processor_id()};
    call.at = ctx->ip + (s16)(cookie >> 16);
    u64 far = ctx->ip + (s16)(cookie >> 32), near = ctx->ip + (u8)(cookie >> 48);
    call.begin = cookie & IS_EARLY ? far : cookie & HAS_DETOUR ? near : call.at;
    call.from = call.begin;
    if (cookie & HAS_DETOUR && !holds(ctx->flags, cookie >> 56 & 15))
        call.from = cookie & IS_EARLY ? near : far;
    /* This spares the tracer the reading; it still can, where the next page is not there. */
    if (call.begin != call.at)
        call.has_code = !bpf_probe_read_user(call.code, sizeof(call.code), (void *)call.begin);
    if (bpf_map_update_elem(&armed, &thread, &call, BPF_ANY)) {
        drop();
        return 0;
    }
    if (bpf_send_signal_thread(signal))
        bpf_map_delete_elem(&armed, &thread); /* else it would be taken for the reason of the next one */
    return 0;
}

/*
 * A signal of the program's own that comes while the same one of ours is still to be delivered becomes one with it, and would be lost
 * when the tracer drops ours. Go's scheduler sends a thread no other before that one has arrived: it would wait for ever.
 */
SEC("raw_tp/signal_generate")
int on_signal_generate(struct bpf_raw_tracepoint_args *ctx)
{
    u32 signal = ctx->args[0], is_for_process = ctx->args[3], result = ctx->args[4], thread = 0;
    if ((signal != SIGNAL && signal != OTHER_SIGNAL) || is_for_process || result != ALREADY_PENDING)
        return 0;
    bpf_probe_read_kernel(&thread, sizeof(thread), (char *)ctx->args[2] + TASK_PID);
    struct armed *call = bpf_map_lookup_elem(&armed, &thread);
    if (!call || call->signal != signal)
        return 0;
    if (thread == (u32)bpf_get_current_pid_tgid()) { /* that is ours */
        call->own_came_first = 1;
        return 0;
    }
    if (bpf_probe_read_kernel(call->merged, sizeof(call->merged), (void *)ctx->args[1])) { /* no address: from the kernel */
        call->merged[0] = signal;
        call->merged[1] = SI_KERNEL;
    }
    return 0;
}

/* Numbers of threads are used again. */
SEC("raw_tp/sched_process_exit")
int on_sched_process_exit(void)
{
    u32 thread = bpf_get_current_pid_tgid();
    bpf_map_delete_elem(&armed, &thread);
    bpf_map_delete_elem(&syscall_stops, &thread);
    bpf_map_delete_elem(&tracers, &thread);
    return 0;
}
