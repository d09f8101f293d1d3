/*
 * What differs between architectures: how to skip or cancel a stopped thread's system call, and how to set its result.
 * The functions return 0, or -1 if the thread has ended.
 */
#ifndef ARCH_H
#define ARCH_H

#include <elf.h>
#include <linux/audit.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "ahead.h"

#if defined(__x86_64__)

#define NATIVE_ARCH AUDIT_ARCH_X86_64
#define CAN_BE_ARMED 1

enum { SYSCALL_BYTES = 2 };

/* The registers of a thread at its `syscall` instruction. */
typedef struct user_regs_struct registers;

/*
 * Find the registers, the number and the arguments of a call that a thread is about to make. The thread is stopped at `from`, and
 * would make the call at `at` if it continued at `begin`; `from` is `begin`, or lies on a detour to the same call. `code` is the
 * code from `begin` on; NULL: it is read from the thread. Return -1 if the thread has ended or is not at `from`. The number is -2
 * if the code between `begin` and `at` cannot be emulated.
 */
static inline int registers_at_call(pid_t tid, uint64_t from, uint64_t begin, const uint8_t *code, uint64_t at, registers *there,
                                    int64_t *nr, uint64_t arguments[6])
{
    if (ptrace(PTRACE_GETREGS, tid, 0, there) || there->rip != from)
        return -1;
    there->rip = begin;
    *nr = there->rip == at || emulate_until(tid, code, there, at) ? (int64_t)(uint32_t)there->rax : -2;
    uint64_t given[6] = {there->rdi, there->rsi, there->rdx, there->r10, there->r8, there->r9};
    __builtin_memcpy(arguments, given, sizeof(given));
    return 0;
}

/*
 * Make a thread continue after the `syscall` instruction at `at`, as if it had come from `begin` and the call had returned this
 * result. `there` are the registers from `registers_at_call`; NULL: they are computed again.
 */
static inline int skip_call(pid_t tid, uint64_t begin, uint64_t at, const registers *there, int64_t result)
{
    registers regs;
    if (there) {
        regs = *there;
    } else {
        if (ptrace(PTRACE_GETREGS, tid, 0, &regs))
            return -1;
        regs.rip = begin;
        if (begin != at && !emulate_until(tid, NULL, &regs, at))
            return -1;
    }
    regs.rip = at + SYSCALL_BYTES;
    regs.rax = (uint64_t)result;
    return (int)ptrace(PTRACE_SETREGS, tid, 0, &regs);
}

static inline int set_result(pid_t tid, int64_t result)
{
    return (int)ptrace(PTRACE_POKEUSER, tid, offsetof(struct user_regs_struct, rax), result);
}

/* Give the call number -1, so that the kernel runs no call. */
static inline int cancel_call(pid_t tid)
{
    return (int)ptrace(PTRACE_POKEUSER, tid, offsetof(struct user_regs_struct, orig_rax), -1L);
}

#elif defined(__aarch64__)

#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#define CAN_BE_ARMED 0

enum { SYSCALL_BYTES = 4 };

typedef struct user_regs_struct registers;

static inline int registers_at_call(pid_t tid, uint64_t from, uint64_t begin, const uint8_t *code, uint64_t at, registers *there,
                                    int64_t *nr, uint64_t arguments[6])
{
    (void)tid, (void)from, (void)begin, (void)code, (void)at, (void)there, (void)nr, (void)arguments;
    return -1;
}

static inline int skip_call(pid_t tid, uint64_t begin, uint64_t at, const registers *there, int64_t result)
{
    (void)tid, (void)begin, (void)at, (void)there, (void)result;
    return -1;
}

static inline int set_result(pid_t tid, int64_t result)
{
    struct user_regs_struct regs;
    struct iovec io = {&regs, sizeof(regs)};
    if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &io))
        return -1;
    regs.regs[0] = (uint64_t)result;
    return (int)ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &io);
}

static inline int cancel_call(pid_t tid)
{
    int none = -1;
    struct iovec io = {&none, sizeof(none)};
    return (int)ptrace(PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, &io);
}

#else
#error "this architecture is not supported"
#endif

#endif
