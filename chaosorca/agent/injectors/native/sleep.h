/*
 * The tracer sleeps until a traced thread has stopped, a command has arrived, or a deadline has passed.
 *
 * It sleeps in wait(2), not in poll(2). The kernel then wakes it on the processor of the stopped thread, which is about to become
 * free. A stop costs a tenth of what it would cost with a signal (SIGCHLD) to another processor.
 */
#ifndef SLEEP_H
#define SLEEP_H

#include <stdbool.h>
#include <stdint.h>

/* Set up signal handlers, the timer and standard input. Return -1 (errno) on failure. */
int sleep_prepare(void);

/* Sleep until this time of the monotonic clock (UINT64_MAX: for ever), or until there is something to do. */
void sleep_until(uint64_t ns);

/* Whether commands may have arrived since the last call of this function. */
bool sleep_had_commands(void);

/* Whether a signal has asked the process to end. */
bool sleep_was_asked_to_end(void);

#endif
