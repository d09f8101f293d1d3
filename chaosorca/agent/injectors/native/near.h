/*
 * Processor affinity: the tracer stays on the processor of the thread that it acts on, as long as that is the same thread.
 *
 * To wake another processor, which may be idle, costs ten times as much as everything else in a stop, most of all in a virtual
 * machine. The kernel avoids it when it wakes the tracer. When the tracer resumes the thread, however, the kernel sees a processor
 * that is busy with the tracer, and moves the thread to an idle one. Therefore the tracer yields to the thread for that moment by
 * SCHED_IDLE, if it may return from it (CAP_SYS_NICE). Yielding costs as much as a stop's other system calls. Where all processors
 * are busy the thread is not moved anyway, so the tracer does without yielding; it tries that now and then.
 */
#ifndef NEAR_H
#define NEAR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Note that a thread has stopped on a processor. */
void near_on_stop(pid_t tid, int processor);

/* Call this just before a thread is resumed. Return whether to call `near_resume` just after. */
bool near_yield(pid_t tid);
void near_resume(void);

#endif
