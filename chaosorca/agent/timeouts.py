"""Every deadline and polling interval of the agent, in seconds. Code reads them as `timeouts.X`, so that tests can replace them."""

# Injectors

ANSWER_WITHIN = 0.5
"""A working tracer answers a command within this time."""

TRACER_HUNG_AFTER = 2.0
"""A tracer that leaves a command unanswered for this long is replaced."""

TRACER_ENDS_WITHIN = 0.6
"""A tracer that was asked to detach ends within this time, unless the agent has not yet read all of its records."""

TRACER_READ_WITHIN = 0.5
"""After a tracer's last sign of life, the agent reads the records and errors in the tracer's pipes within this time."""

PRIORITY_RESTORED_EVERY = 0.02
"""While the agent waits for a tracer, it restores the tracer's scheduling priority this often."""

RESTART_LOOP_WITHIN = 10.0
"""If a container's tracers are replaced several times within this time, the container's faults are ended."""

RULE_GRACE = 0.5
"""A tracer ends a fault by itself this long after the agent should have ended it."""

STRACE_GRACE = 5.0
"""`strace` is killed this long after the agent should have ended its fault."""

STRACE_ENDS_WITHIN = 0.5
"""`strace` ends within this time after SIGTERM; otherwise it is killed."""

STRACE_POLLED_EVERY = 0.002
"""How often the agent polls whether `strace` has attached to all threads."""

DISARMED_WITHIN = 0.1
"""Threads that a fault has armed reach their tracer within this time after the fault's end."""

DISARMED_POLLED_EVERY = 0.001
"""How often the agent polls the map of armed threads at a fault's end."""

PROBES_CLOSED_AFTER = 1.0
"""Uprobes that no fault uses are detached after this time."""

NEW_CODE_POLLED_EVERY = 0.02
"""How often the agent polls whether a target has mapped new code."""

ALL_CODE_CHECKED_EVERY = 2.0
"""How often the agent checks the mapped code of all processes of a target, not only of new ones."""

SIGNAL_HANDLER_WITHIN = 0.005
"""A thread that still blocks the arming signals after this time is not merely running a signal handler."""

# Faults

ATTACH_WITHIN = 3.0
"""When a fault starts, it attaches to all processes of its container within this time."""

ATTACH_NEW_WITHIN = 0.5
"""When a new process starts during a fault, the fault attaches to the process within this time."""

RETRY_ATTACH_AFTER = 1.0
"""A failed attach is retried after this time. Each further pause is twice as long as the last."""

RETRY_ATTACH_AFTER_MOST = 60.0
"""The longest pause between two retries of a failed attach."""

NEW_PROCESSES_POLLED_EVERY = 0.02
"""How often the agent polls for processes that have no traced parent."""

RELEASED_WITHIN = 2.0
"""After a container's last fault has ended, the tracers detach from the container within this time."""

FAULTS_TICK_EVERY = 0.1
"""How often the agent checks whether a fault is over."""

FIRST_CALLS_WITHIN = 3.0
"""A fault that has not fired within this time gets a warning, if the container makes sibling calls instead."""

# Targets and monitoring

TARGETS_POLLED_EVERY = 0.2
"""How often the agent checks whether a monitored container was restarted."""

RETIRED_FOR = 15.0
"""A retired agent refuses work for this time. It then accepts work again, because its removal may have failed."""

ENGINE_ANSWERS_WITHIN = 5.0
"""The Docker Engine answers within this time."""

ENGINE_RECONNECTED_AFTER = 0.5
"""The stream of the engine's events is opened again after this time."""

ENGINE_FIRST_TRY_WITHIN = 2.0
"""A request for the state of the stream of events waits at most this long for the first connection."""

# Monitors

REQUEST_UNANSWERED_AFTER = 60.0
"""A request without an answer is counted as unanswered (`code="none"`) after this time."""

TLS_UNSEEN_AFTER = 5.0
"""A TLS connection whose plaintext no probe has seen is counted as unparsed after this time."""

SWEEP_EVERY = 5.0
"""The least time between two sweeps over the HTTP connections in the kernel."""

TLS_LIBRARIES_POLLED_EVERY = 0.5
"""How often the agent polls whether processes of targets have loaded TLS libraries."""

# Doctor

DOCTOR_ANSWER_WITHIN = 5.0
"""A process or server that the doctor uses in a trial answers within this time."""

DOCTOR_REQUEST_SEEN_WITHIN = 2.0
"""The HTTP monitor shows the doctor's own request within this time."""

DOCTOR_REQUEST_POLLED_EVERY = 0.01
"""How often the doctor polls whether the HTTP monitor shows its request."""

SECURITYFS_READ_WITHIN = 5.0
"""The doctor reads securityfs within this time."""
