"""Pure values: durations, `when` expressions, system calls, errnos, faults. No I/O but reading the package's own tables."""
