/*
 * What differs between architectures: how a stopped thread's system call is left out, and how its result is set.
 * Both return 0, or -1 when the thread is gone.
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

#if defined(__x86_64__)

#define NATIVE_ARCH AUDIT_ARCH_X86_64

static inline int set_result(pid_t tid, int64_t result)
{
    return (int)ptrace(PTRACE_POKEUSER, tid, offsetof(struct user_regs_struct, rax), result);
}

static inline int leave_out_call(pid_t tid)
{
    return (int)ptrace(PTRACE_POKEUSER, tid, offsetof(struct user_regs_struct, orig_rax), -1L);
}

#elif defined(__aarch64__)

#define NATIVE_ARCH AUDIT_ARCH_AARCH64

static inline int set_result(pid_t tid, int64_t result)
{
    struct user_regs_struct regs;
    struct iovec io = {&regs, sizeof(regs)};
    if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &io))
        return -1;
    regs.regs[0] = (uint64_t)result;
    return (int)ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &io);
}

static inline int leave_out_call(pid_t tid)
{
    int none = -1;
    struct iovec io = {&none, sizeof(none)};
    return (int)ptrace(PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, &io);
}

#else
#error "this architecture is not supported"
#endif

#endif
