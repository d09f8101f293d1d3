/*
 * Whether a system call is on a certain file, as the program that makes it sees files: from its root and working directory on,
 * links followed as the call follows them, and descriptors by what they refer to.
 */
#ifndef FILE_H
#define FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rule.h"

/* Whether one of a stopped thread's arguments names the file of a path, which is absolute in the thread's root. */
bool file_matches(pid_t tid, const struct call *call, const uint64_t arguments[6], const char *path);

/* Whether the command line of a thread's process contains a text, with its words separated by spaces. */
bool process_matches(pid_t tid, const char *text);

#endif
