/*
 * Decide, just before a system call, whether the tracer shall act on it. If so, arm the thread: stop it there by a signal.
 *
 * A uprobe sits on the instruction before each `syscall` that may make a faulted call, or on the nearest earlier instruction that
 * the kernel can emulate and from which control always gets there. An emulated instruction costs a thirtieth of a single-step. The
 * cookie of the uprobe (cookie.h) contains the number of the call, unless only a register or the memory does. A decision that needs
 * the program's memory (a path, a command line) is left to the tracer: such a rule arms every call.
 *
 * Of the kernel's structures only `task_struct` and `sighand_struct` are read, at offsets from the running kernel's own BTF.
 */

#include "common.h"
#include "cookie.h"

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

#define AHEAD 64 /* the longest distance from a probe to its call: `_FAR_BYTES` in code/sites.py */

/* `struct pt_regs` of x86-64. */
struct registers {
    u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#define ALREADY_PENDING 2 /* TRACE_SIGNAL_ALREADY_PENDING: include/trace/events/signal.h */
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
    u64 threshold; /* the probability times 2^64; 0: every call */
    u64 seed;
};

_Static_assert(sizeof(struct rule_key) == 8, "`rules` in injectors/arming.py");
_Static_assert(offsetof(struct rule_key, target) == 0 && offsetof(struct rule_key, nr) == 4, "`rules` in injectors/arming.py");
_Static_assert(sizeof(struct rule) == 40 && offsetof(struct rule, id) == 0, "`rules` in injectors/arming.py");
_Static_assert(offsetof(struct rule, all) == 4 && offsetof(struct rule, first) == 8, "`rules` in injectors/arming.py");
_Static_assert(offsetof(struct rule, last) == 12 && offsetof(struct rule, step) == 16, "`rules` in injectors/arming.py");
_Static_assert(offsetof(struct rule, threshold) == 24 && offsetof(struct rule, seed) == 32, "`rules` in injectors/arming.py");

struct call_key {
    u32 thread;
    u32 nr;
};

struct calls {
    u32 rule;
    u32 count;
    u64 born; /* when the thread started, since the kernel reuses thread ids */
};

/* The same as `struct armed_call` of native/armed.c. */
struct armed {
    u32 rule;
    u32 nr;
    u64 from;  /* the address at which the thread stops */
    u64 begin; /* the address from which straight-line code leads to the call: `from`, or another if the thread is on a detour */
    u64 at;    /* the `syscall` instruction at the end of that code */
    u32 signal;
    u32 processor;
    u64 merged[4]; /* the start of the siginfo of a signal of the program's own that coalesced with the arming signal; 0: none */
    u32 has_code;
    u32 own_came_first; /* the arming signal has coalesced with one of the program's own that was pending */
    u8 code[AHEAD];     /* the bytes from `begin` to `at`, and some more */
};

_Static_assert(sizeof(struct armed) == 144 && offsetof(struct armed, rule) == 0, "as in native/armed.c");
_Static_assert(offsetof(struct armed, nr) == 4 && offsetof(struct armed, from) == 8, "as in native/armed.c");
_Static_assert(offsetof(struct armed, begin) == 16 && offsetof(struct armed, at) == 24, "as in native/armed.c");
_Static_assert(offsetof(struct armed, signal) == 32 && offsetof(struct armed, processor) == 36, "as in native/armed.c");
_Static_assert(offsetof(struct armed, merged) == 40 && offsetof(struct armed, has_code) == 72, "as in native/armed.c");
_Static_assert(offsetof(struct armed, own_came_first) == 76 && offsetof(struct armed, code) == 80, "as in native/armed.c");

HASH(armed_cgroups, u64, u32, 4096);
HASH(rules, struct rule_key, struct rule, 8192);
LRU_HASH(calls, struct call_key, struct calls, 65536);
HASH(armed, u32, struct armed, 65536);
HASH(seen, struct rule_key, u64, 8192);
HASH(blocked, struct rule_key, u64, 8192);  /* calls that passed because the thread blocks the signals */
HASH(untraced, struct rule_key, u64, 8192); /* calls that passed because no tracer of the agent traces the thread */
HASH(syscall_stops, u32, u8, 65536);        /* threads that the tracer stops at each call, since they block the signals */
HASH(tracers, u32, u8, 4096);               /* the agent's tracers, by process id */
HASH(new_code, u32, u64, 4096);             /* how often a target has mapped code */
DROPS

static __always_inline u64 mix(u64 seed, u64 number)
{
    u64 z = seed + number * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* SplitMix64 of the seed, the system call, the thread and its call. Processors need no shared state for that. */
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

/* Read the number of the call from the register in the cookie, or from the memory that it points to. */
static __always_inline u32 number_in(struct registers *ctx, u64 cookie)
{
    u32 where = cookie >> COOKIE_REGISTER_SHIFT & COOKIE_REGISTER;
    u64 number = ctx->ax;
    /* The verifier refuses a computed offset into the context. */
#define HELD_IN(register, field)         \
    if (where == register) {             \
        number = ctx->field;             \
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
    if (cookie & COOKIE_IN_MEMORY) {
        u32 loaded = ~0;
        bpf_probe_read_user(&loaded, sizeof(loaded), (void *)(number + (s16)(cookie >> COOKIE_DISPLACEMENT_SHIFT)));
        return loaded;
    }
    return number;
}

/* Whether the condition of a jump holds: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, appendix B. */
static __always_inline bool holds(u64 flags, u32 condition)
{
    u64 carry = flags, parity = flags >> 2, zero = flags >> 6, sign = flags >> 7, overflow = flags >> 11;
    u64 all = (overflow & 1) | (carry & 1) << 1 | (zero & 1) << 2 | ((carry | zero) & 1) << 3 | (sign & 1) << 4 |
              (parity & 1) << 5 | ((sign ^ overflow) & 1) << 6 | (((sign ^ overflow) | zero) & 1) << 7;
    return (all >> (condition >> 1) ^ condition) & 1;
}

/* Whether a signal has a handler, which would run if the thread were not traced. */
static __always_inline bool is_handled(u64 actions, u32 signal)
{
    u64 handler = 0;
    /* struct k_sigaction has 32 bytes and begins with the handler. */
    bpf_probe_read_kernel(&handler, sizeof(handler), (char *)actions + SIGHAND_ACTION + 32 * (signal - 1));
    return handler > 1;
}

/* Choose the signal that stops the current thread: one that it does not block, if possible one without a handler in case the tracer
 * ends just now. Return 0 if there is none. */
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

/* Whether a tracer of the agent traces a thread. Neither the program itself nor a debugger may see the signal. */
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
    if (cookie & COOKIE_HAS_CONDITION && !holds(ctx->flags, cookie >> COOKIE_CONDITION_SHIFT & COOKIE_CONDITION))
        return 0;
    u32 nr = cookie & COOKIE_NR;
    struct rule_key key = {.target = *target, .nr = nr == COOKIE_NR_UNKNOWN ? number_in(ctx, cookie) : nr};
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
        /* The thread would not stop here. SIGSTOP cannot be blocked, but would leave the thread stopped if the tracer ended. */
        if (!add_one(&blocked, &key))
            drop();
        return 0;
    }
    struct armed call = {.rule = rule->id, .nr = key.nr, .signal = signal, .processor = bpf_get_smp_processor_id()};
    call.at = ctx->ip + (s16)(cookie >> COOKIE_TO_SYSCALL_SHIFT);
    u64 far = ctx->ip + (s16)(cookie >> COOKIE_FAR_SHIFT), near = ctx->ip + (u8)(cookie >> COOKIE_NEAR_SHIFT);
    call.begin = cookie & COOKIE_IS_EARLY ? far : cookie & COOKIE_HAS_DETOUR ? near : call.at;
    call.from = call.begin;
    if (cookie & COOKIE_HAS_DETOUR && !holds(ctx->flags, cookie >> COOKIE_CONDITION_SHIFT & COOKIE_CONDITION))
        call.from = cookie & COOKIE_IS_EARLY ? near : far;
    /* This saves the tracer a read. The tracer still reads the code itself if the next page is not mapped. */
    if (call.begin != call.at)
        call.has_code = !bpf_probe_read_user(call.code, sizeof(call.code), (void *)call.begin);
    if (bpf_map_update_elem(&armed, &thread, &call, BPF_ANY)) {
        drop();
        return 0;
    }
    if (bpf_send_signal_thread(signal))
        bpf_map_delete_elem(&armed, &thread); /* otherwise it would be taken for the reason of the next signal */
    return 0;
}

/*
 * A signal of the program's own coalesces with an arming signal of the same number that is still pending. It would be lost when the
 * tracer drops the arming signal. Go's scheduler sends no other before that one has arrived, and would wait for ever.
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
    if (thread == (u32)bpf_get_current_pid_tgid()) { /* this is the arming signal */
        call->own_came_first = 1;
        return 0;
    }
    if (bpf_probe_read_kernel(call->merged, sizeof(call->merged),
                              (void *)ctx->args[1])) { /* not an address: SEND_SIG_PRIV, from the kernel */
        call->merged[0] = signal;
        call->merged[1] = SI_KERNEL;
    }
    return 0;
}

/* The kernel reuses thread ids. */
SEC("raw_tp/sched_process_exit")
int on_sched_process_exit(void)
{
    u32 thread = bpf_get_current_pid_tgid();
    bpf_map_delete_elem(&armed, &thread);
    bpf_map_delete_elem(&syscall_stops, &thread);
    bpf_map_delete_elem(&tracers, &thread);
    return 0;
}
