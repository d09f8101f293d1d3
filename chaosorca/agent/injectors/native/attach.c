/*
 * How threads come and go: attach, detach, a new program, the end.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "report.h"
#include "tracer.h"

/* An `attach` command. */
struct attachment {
    uint32_t command;
    int waiting; /* threads that have not stopped yet, and one while threads are still being seized */
};

static void check_attached(struct attachment *attachment)
{
    assert(attachment->waiting > 0);
    if (--attachment->waiting == 0) {
        answer(attachment->command, 0);
        free(attachment);
    }
}

void first_stop(struct thread *thread)
{
    struct attachment *attachment = thread->attachment;
    thread->attachment = NULL;
    if (attachment)
        check_attached(attachment);
}

/* A thread that a traced thread has created cannot be seized, since it is traced from its first moment on. */
static bool is_ours_or_gone(pid_t tid)
{
    char path[64], line[128], letter = 'X';
    int tracer = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", tid);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof(line), status)) {
        sscanf(line, "State: %c", &letter);
        sscanf(line, "TracerPid: %d", &tracer);
    }
    if (status)
        fclose(status);
    return letter == 'Z' || letter == 'X' || tracer == getpid();
}

static bool seize(pid_t tid, struct attachment *attachment)
{
    if (thread_find(tid))
        return false;
    forget_armed(tid);
    if (ptrace(PTRACE_SEIZE, tid, 0, OPTIONS)) {
        int error = errno;
        if (!is_ours_or_gone(tid)) {
            TRACE(tid, "attach", -1, 0, "refused");
            report(&(struct record){.kind = REFUSED, .id = attachment->command, .thread = tid, .value = error});
        }
        return false;
    }
    struct thread *thread = thread_get(tid);
    if (!thread)
        return false; /* no memory: it runs on, and its next stop adds it or detaches from it */
    TRACE(tid, "attach", -1, 0, stops_at_calls(thread) ? "seized, stops at each call" : "seized, waits to be armed");
    if (wake_at_calls(thread)) {
        thread->attachment = attachment;
        attachment->waiting++;
    }
    return true;
}

void attach(uint32_t command, pid_t pid)
{
    char path[64];
    struct attachment *attachment = calloc(1, sizeof(*attachment));
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    if (!attachment) {
        answer(command, ENOMEM);
        return;
    }
    *attachment = (struct attachment){.command = command, .waiting = 1};
    /* A thread that is not seized yet may create another one, so list the threads until there is no new one. */
    for (bool more = true; more;) {
        DIR *tasks = opendir(path);
        more = false;
        for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
            pid_t tid = atoi(entry->d_name);
            more |= tid > 0 && seize(tid, attachment);
        }
        if (tasks)
            closedir(tasks);
    }
    check_attached(attachment);
}

void detach_thread(struct thread *thread, int signal)
{
    cancel_pending(thread);
    end_call(thread, false, 0);
    TRACE(thread->tid, "detach", -1, 0, "detach");
    if (ptrace(PTRACE_DETACH, thread->tid, 0, signal) == 0 || errno == ESRCH)
        thread_remove(thread);
}

void leave_new_programs(struct thread *thread)
{
    if (thread->state == HELD_EXEC) {
        queue_remove(&new_programs, thread);
        thread->state = RUNNING;
    }
}

void resume_new_program(struct thread *thread)
{
    leave_new_programs(thread);
    next_call(thread, 0);
}

void thread_ended(struct thread *thread)
{
    TRACE(thread->tid, "end of thread", -1, 0, "forget");
    cancel_pending(thread);
    first_stop(thread);
    leave_new_programs(thread);
    end_call(thread, false, 0);
    thread_remove(thread);
}

/* The thread that called exec continues under the leader's number, and all others have ended: move its state to the leader. */
struct thread *at_exec(struct thread *leader)
{
    unsigned long before = 0;
    bool is_reported = !ptrace(PTRACE_GETEVENTMSG, leader->tid, 0, &before);
    struct thread *caller = is_reported && (pid_t)before != leader->tid ? thread_find((pid_t)before) : NULL;
    if (!caller) {
        if (leader->state != RUNNING) { /* an unknown thread called exec while the leader was held */
            leave_new_programs(leader);
            end_call(leader, false, 0);
        }
        return leader;
    }
    struct count *counts = leader->counts;
    leader->counts = caller->counts;
    caller->counts = counts;
    first_stop(leader);
    end_call(leader, false, 0);
    cancel_pending(leader);
    leader->stops_at_next_call = caller->stops_at_next_call;
    leader->stops_at_calls = false; /* the eBPF program has dropped it too: whether it blocks the signals is checked again */
    struct active_rule *active = caller->rule;
    if (active) { /* a rule acts on its exec, whose exit will be reported under the leader's number */
        leader->rule = active;
        leader->nr = caller->nr;
        leader->is_marked = false;
        leader->done = caller->done;
        leader->began = caller->began;
        leader->held = caller->held;
        mark(caller, false);
        caller->rule = NULL;
    }
    thread_ended(caller);
    return leader;
}
