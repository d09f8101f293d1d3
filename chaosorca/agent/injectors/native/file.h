/*
 * Whether a system call acts on a certain file, as the calling program sees it: paths start at its root and working directory,
 * links are followed as the call follows them, and a descriptor is the file that it refers to.
 */
#ifndef FILE_H
#define FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rule.h"

/* Whether one of a stopped thread's arguments names the file at a path, which is absolute in the thread's root. */
bool file_matches(pid_t tid, const struct call *call, const uint64_t arguments[6], const char *path);

/* Whether the command line of a thread's process contains a text. Its words are separated by spaces. */
bool process_matches(pid_t tid, const char *text);

#endif
