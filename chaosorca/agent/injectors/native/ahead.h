/*
 * The few instructions between the place where a thread was stopped and the system call that it is about to make.
 *
 * A probe costs least on an instruction that the kernel can carry out itself, as a jump, and the nearest one is often some
 * instructions before `syscall`. To leave the call out, the thread has to have the registers that it would have had there.
 */
#ifndef AHEAD_H
#define AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#if defined(__x86_64__)

#include <sys/user.h>

enum { MOST_AHEAD = 64 }; /* bytes */

/*
 * Carry out a thread's instructions up to an address on a copy of its registers. Known are those that move, load and compute
 * numbers; return false where there is another. Flags are left as they are: no compiler expects them to outlive a system call.
 * The code is read from the thread's memory if it is not given (NULL).
 */
bool run_ahead(pid_t tid, const uint8_t code[MOST_AHEAD], struct user_regs_struct *registers, uint64_t until);

/* The same on given code, with a way to read the thread's memory. */
typedef bool read_memory(pid_t tid, uint64_t address, void *into, size_t size);
bool run_code(const uint8_t *code, size_t size, struct user_regs_struct *registers, pid_t tid, read_memory *read);

#endif
#endif
