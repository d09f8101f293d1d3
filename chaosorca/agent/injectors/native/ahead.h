/*
 * Emulation of the few instructions between the address at which a uprobe stops a thread and the `syscall` that it is about to
 * make.
 *
 * A uprobe costs least on an instruction that the kernel can emulate itself, such as a jump. The nearest one is often some
 * instructions before `syscall`. When the call is skipped, the thread needs the registers that it would have had there.
 */
#ifndef AHEAD_H
#define AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#if defined(__x86_64__)

#include <sys/user.h>

enum { AHEAD_BYTES = 64 }; /* as AHEAD in bpf/arm.c */

/*
 * Emulate a thread's instructions up to an address on a copy of its registers. Instructions that move, load and compute numbers are
 * emulated; return false at any other. Flags are not changed, since no compiler expects them to outlive a system call. The code is
 * read from the thread's memory if it is NULL.
 */
bool emulate_until(pid_t tid, const uint8_t code[AHEAD_BYTES], struct user_regs_struct *registers, uint64_t until);

/* Emulate the given code, with a function that reads the thread's memory. */
typedef bool read_memory(pid_t tid, uint64_t address, void *into, size_t size);
bool emulate(const uint8_t *code, size_t size, struct user_regs_struct *registers, pid_t tid, read_memory *read);

#endif
#endif
