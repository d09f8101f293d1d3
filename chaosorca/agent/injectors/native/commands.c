/*
 * The agent's commands: lines on standard input. Each has a number, with which its answer refers to it.
 *
 *     N add ID slot=… deadline_ms=… calls=… …   add a rule (rule.h)
 *     N remove ID                               end a rule; answered when no thread is in a call that it has replaced
 *     N attach PID                              trace all threads of a process; answered when each of them has stopped
 *     N marks ID                                mark threads in this eBPF map while the tracer times their call
 *     N arm ID                                  stop threads only when this eBPF map says so (armed.c), not at each call
 *     N syscall-stops TID                       stop this thread at each call nevertheless: it blocks the arming signals
 *     N go TID                                  resume a thread that has executed another program
 *     N ping                                    answer
 *     N detach                                  detach from everything, and exit
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "report.h"
#include "tracer.h"

enum { LINE_MAX_BYTES = 1 << 20 };

static const uint64_t DETACH_WITHIN = 300 * MILLISECOND;

bool is_detaching;
uint64_t detach_deadline;
static uint32_t detach_command;

static void remove_rule(uint32_t command, uint32_t id)
{
    struct active_rule *active = rules;
    while (active && (active->rule->id != id || active->command))
        active = active->next;
    if (!active) {
        answer(command, 0);
        return;
    }
    active->calls++; /* a reference that keeps the rule until the end of this function */
    active->command = command;
    cut_rule(active);
    active->calls--;
    rule_check_ended(active);
}

static void add_rule(uint32_t command, char *words)
{
    const char *reason;
    struct rule *rule = rule_parse(words, &reason);
    struct active_rule *active = rule ? calloc(1, sizeof(*active)) : NULL;
    int error = rule ? active ? 0 : ENOMEM : EINVAL;
    for (int i = 0; active && i < rule->call_count; i++)
        error = by_nr[rule->calls[i].nr].rule ? EEXIST : error;
    if (error) {
        if (error == EINVAL)
            fprintf(stderr, "a rule was refused because of its %s\n", reason);
        free(active);
        rule_free(rule);
        answer(command, error);
        return;
    }
    active->rule = rule;
    active->slot = &state->slots[rule->slot];
    active->deadline = now() + rule->deadline_ms * MILLISECOND;
    active->next = rules;
    rules = active;
    for (int i = 0; i < rule->call_count; i++) {
        by_nr[rule->calls[i].nr].rule = active;
        by_nr[rule->calls[i].nr].call = &rule->calls[i];
    }
    answer(command, 0);
}

static void begin_to_detach(struct thread *thread)
{
    if (thread->state == HELD_EXEC) {
        resume_new_program(thread);
        return;
    }
    bool is_over = thread->state == HELD_EXIT;
    if (thread->state != RUNNING)
        release(thread);
    if (!is_over && !thread->is_replaced && armed < 0)
        ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0);
}

void detach(uint32_t command)
{
    detach_command = command ? command : detach_command;
    if (is_detaching)
        return;
    is_detaching = true;
    detach_deadline = now() + DETACH_WITHIN;
    thread_each(begin_to_detach);
}

/* An armed thread that is in no replaced call resumes unharmed when the tracer exits. */
bool has_detached(void)
{
    for (struct active_rule *active = rules; armed >= 0 && active; active = active->next) {
        if (active->replaced || active->held_entry.first || active->held_exit.first)
            return false;
    }
    return armed >= 0 || !thread_count();
}

/* A thread from which only the exit of the tracer detaches may be in a call that was delayed. */
static void report_call(struct thread *thread)
{
    cancel_pending(thread);
    leave_new_programs(thread);
    end_call(thread, false, 0);
}

void report_end(void)
{
    thread_each(report_call);
    if (detach_command)
        answer(detach_command, 0);
}

static int open_map(uint32_t id)
{
    union bpf_attr attr = {.map_id = id};
    return (int)syscall(SYS_bpf, BPF_MAP_GET_FD_BY_ID, &attr, sizeof(attr));
}

static void run_command(char *line)
{
    unsigned command, number;
    int used = 0;
    char what[16];
    if (sscanf(line, "%u %15s %n", &command, what, &used) < 2 || !command) {
        fprintf(stderr, "this is not a command: %.60s\n", line);
        return;
    }
    TRACE(0, "command", -1, 0, what);
    bool has_number = sscanf(line + used, "%u", &number) == 1;
    if (!strcmp(what, "add")) {
        add_rule(command, line + used);
    } else if (!strcmp(what, "remove") && has_number) {
        remove_rule(command, number);
    } else if (!strcmp(what, "attach") && has_number && (pid_t)number > 1) {
        attach(command, (pid_t)number);
    } else if (!strcmp(what, "marks") && has_number) {
        if (marks >= 0)
            close(marks);
        marks = open_map(number);
        answer(command, marks < 0 ? errno : 0);
    } else if (!strcmp(what, "arm") && has_number && CAN_BE_ARMED) {
        armed = open_map(number);
        answer(command, armed < 0 ? errno : 0);
    } else if (!strcmp(what, "go") && has_number) {
        struct thread *thread = thread_find((pid_t)number);
        if (thread && thread->state == HELD_EXEC)
            resume_new_program(thread);
        answer(command, 0);
    } else if (!strcmp(what, "syscall-stops") && has_number) {
        struct thread *thread = thread_find((pid_t)number);
        if (thread && !thread->stops_at_calls) {
            thread->stops_at_calls = true;
            wake_at_calls(thread);
        }
        answer(command, thread ? 0 : ESRCH);
    } else if (!strcmp(what, "ping")) {
        answer(command, 0);
    } else if (!strcmp(what, "detach")) {
        detach(command);
    } else {
        answer(command, EINVAL);
    }
}

bool read_commands(void)
{
    static char *line;
    static size_t size, used;
    if (size - used < 4096) {
        size_t larger = size ? size * 2 : 1 << 14;
        char *grown = larger > LINE_MAX_BYTES ? NULL : realloc(line, larger);
        if (grown) {
            line = grown;
            size = larger;
        }
    }
    ssize_t n = line && used < size ? read(STDIN_FILENO, line + used, size - used) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) { /* the agent has ended */
        free(line);
        line = NULL;
        size = used = 0;
        detach(0);
        return false;
    }
    used += (size_t)n;
    char *begin = line;
    for (char *end; (end = memchr(begin, '\n', used - (size_t)(begin - line))); begin = end + 1) {
        *end = 0;
        run_command(begin);
    }
    used -= (size_t)(begin - line);
    memmove(line, begin, used);
    return true;
}
