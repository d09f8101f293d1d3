/* The same programs for kernels without type information (BTF) or without task storage. */

#define PLAIN
#include "syscalls.c"
