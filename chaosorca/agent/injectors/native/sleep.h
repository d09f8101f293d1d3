/*
 * How the tracer sleeps: until a thread that it traces has stopped, a command has come, or something is due.
 *
 * It sleeps in wait(2) and not in poll(2). Then the kernel wakes it on the processor on which the thread has stopped, knowing that
 * that thread is about to give it up, and one stop costs a tenth of what a signal (SIGCHLD) to another processor does.
 */
#ifndef SLEEP_H
#define SLEEP_H

#include <stdbool.h>
#include <stdint.h>

/* Take care of signals, and of what arrives on standard input; -1 (errno) if that is impossible. */
int sleep_prepare(void);

/* Sleep until the monotonic clock says this (UINT64_MAX: never), or until there is something to do. */
void sleep_until(uint64_t ns);

/* Whether commands may have come since this was asked before. */
bool sleep_had_commands(void);

/* Whether the process has been asked to end, by a signal. */
bool sleep_was_asked_to_end(void);

#endif
