/*
 * Keeping the tracer on the processor of the thread that it acts on, while it is one and the same.
 *
 * Waking another processor, which may sleep, costs ten times as much as all else that a stop needs, in a virtual machine most of
 * all. The kernel avoids it when it wakes the tracer; but when the tracer lets the thread go on, the kernel sees a processor that is
 * busy, with the tracer, and sends the thread to one that is not. So the tracer gives way to it for that moment (SCHED_IDLE), if it
 * is allowed to come back from that (CAP_SYS_NICE). Where all processors are busy there is none to send it to, and giving way, which
 * costs as much as a stop's other calls, is left off: that is tried now and then.
 */
#ifndef NEAR_H
#define NEAR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A thread has stopped on a processor. */
void near_stopped(pid_t tid, int processor);

/* Call just before a thread is let go on. Returns whether `near_back` has to be called just after. */
bool near_give_way(pid_t tid);
void near_back(void);

#endif
