"""Pure values: durations, `when` expressions, system calls, errnos, faults. The only I/O is reading the package's own tables."""
