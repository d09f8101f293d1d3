/* The same for kernels that do not tell their types, or have no storage for each thread. */

#define PLAIN
#include "syscalls.c"
