/*
 * orca-tracer: injects system call faults into the threads of one container, or of some of its processes.
 *
 *     orca-tracer PARENT STATE RING
 *
 * PARENT is the process that starts the tracer; the tracer dies with it. STATE is a descriptor of memory shared with the agent and
 * the container's other tracers (struct state), and RING one of memory that the tracer leaves to the agent (struct ring). Commands
 * arrive on standard input (commands.c), records leave by standard output (report.h), and errors go to standard error. With
 * CHAOSORCA_TRACE=1 in the environment each decision is a line on standard error, too.
 *
 * Threads are seized, never stopped for long: each stop is handled at once, or when a delay is over. A call is injected at its
 * entry, which decides it, and at its exit, which makes the result final. Detaching waits until no thread is in a replaced call, so
 * that no program sees a result other than the real or the injected one.
 *
 * A thread stops either at each call, or only when it is armed (armed.c): it runs freely, and a uprobe stops it just before a call
 * to inject.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "report.h"
#include "sleep.h"
#include "tracer.h"

/* Stops that are collected at once; every how many rounds; stops in one PERIOD from which on the tracer yields the processors. */
enum { STOPS_AT_ONCE = 128, ROUNDS = 8, MANY_STOPS = 250 };

static const uint64_t PERIOD = 25 * MILLISECOND, YIELDED = 1 * MILLISECOND;
static const uint64_t WITHOUT_RULES = 1000 * MILLISECOND, INSPECTED_WITHIN = 100 * MILLISECOND;

static bool is_unsupported;    /* by this kernel */
static unsigned stops_handled; /* in this PERIOD */
static bool had_rule;
static uint64_t without_rules_since = FOREVER;

/* ---- stops ---- */

static bool is_stop_signal(int signal)
{
    return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

static void at_call(struct thread *thread)
{
    struct __ptrace_syscall_info info;
    errno = 0;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread->tid, sizeof(info), &info) > 0) {
        if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            at_entry(thread, &info);
            return;
        }
        if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
            at_exit(thread, info.exit.rval);
            return;
        }
    }
    if (errno == EIO) {
        fprintf(stderr, "this kernel does not report the system call of a stopped thread; Linux 5.3 or later does\n");
        is_unsupported = true;
    }
    next_call(thread, 0);
}

static void at_stop(pid_t tid, int status)
{
    struct thread *thread = thread_get(tid); /* a new child is traced already, and this is its first stop */
    int signal = WSTOPSIG(status), event = status >> 16;
    if (!thread) {
        ptrace(PTRACE_DETACH, tid, 0, 0);
        return;
    }
    first_stop(thread);
    if (event == PTRACE_EVENT_EXEC)
        thread = at_exec(thread);
    if (signal == (SIGTRAP | 0x80)) {
        at_call(thread);
        return;
    }
    int pass_on = event ? 0 : signal;
    if (armed >= 0 && !event && at_signal(thread, signal))
        return;
    if (armed >= 0 && event == PTRACE_EVENT_EXEC && !is_detaching) {
        TRACE(tid, "exec", -1, 0, "hold until the agent has inspected the program");
        report(&(struct record){.kind = EXEC, .thread = tid});
        hold(thread, HELD_EXEC, INSPECTED_WITHIN);
        return;
    }
    if (is_detaching && !thread->is_replaced) {
        detach_thread(thread, pass_on);
    } else if (event == PTRACE_EVENT_STOP && is_stop_signal(signal)) {
        TRACE(tid, "group stop", -1, 0, "leave stopped");
        ptrace(PTRACE_LISTEN, tid, 0, 0); /* the program itself has stopped it, and may continue it */
    } else {
        TRACE(tid, event ? "event" : "signal", -1, 0, "pass");
        next_call(thread, pass_on);
    }
}

/*
 * Handle stops. Return whether there may be more, so that commands and deadlines are handled in between. The kernel reports
 * stops in the order of its list, so a thread that stops again at once could starve the others. Therefore one round in ROUNDS
 * collects all stops before it resumes any thread.
 */
static bool handle_stops(void)
{
    static struct {
        pid_t tid;
        int status;
    } stops[STOPS_AT_ONCE];
    static unsigned round;
    int count = 0, most = ++round % ROUNDS ? 1 : STOPS_AT_ONCE;
    while (count < most && (stops[count].tid = waitpid(-1, &stops[count].status, WNOHANG | __WALL)) > 0)
        count++;
    stops_handled += (unsigned)count;
    for (int i = 0; i < count; i++) {
        struct thread *thread = thread_find(stops[i].tid);
        if (WIFSTOPPED(stops[i].status))
            at_stop(stops[i].tid, stops[i].status);
        else if (thread)
            thread_ended(thread);
    }
    return count == most;
}

/*
 * Threads that are hit all the time and the tracer hand the processors to each other so fast that nothing else may run: neither the
 * agent, which wants to end the fault, nor kernel threads (observed for minutes). While the tracer sleeps these threads stop, and
 * everything else runs. All tracers sleep at the same time.
 */
static void yield_processors(void)
{
    static uint64_t last;
    uint64_t period = now() / PERIOD, until = period * PERIOD + YIELDED;
    if (period == last)
        return;
    bool is_hot = stops_handled > MANY_STOPS && period == last + 1;
    last = period;
    stops_handled = 0;
    struct timespec time = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
    if (is_hot && !is_detaching)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* ---- time ---- */

/* Release the threads whose delay is over and end the rules whose deadline has passed. Return the time of the next deadline. */
static uint64_t keep_time(void)
{
    uint64_t time = now(), next = FOREVER;
    for (struct active_rule *active = rules, *after; active; active = after) {
        active->calls++; /* a reference that keeps the rule in this round */
        if (!active->is_cut && time >= active->deadline) {
            active->why = active->why ? active->why : EXPIRED;
            cut_rule(active);
        }
        struct queue *queues[] = {&active->held_entry, &active->held_exit};
        for (int i = 0; i < 2; i++) {
            while (queues[i]->first && queues[i]->first->due <= time)
                release(queues[i]->first);
            if (queues[i]->first && queues[i]->first->due < next)
                next = queues[i]->first->due;
        }
        if (!active->is_cut && active->deadline < next)
            next = active->deadline;
        active->calls--;
        after = active->next;
        rule_check_ended(active);
    }
    while (new_programs.first && new_programs.first->due <= time)
        resume_new_program(new_programs.first);
    if (new_programs.first && new_programs.first->due < next)
        next = new_programs.first->due;
    /* A tracer without rules is of no use. The agent detaches it soon, unless the agent hangs. */
    had_rule |= rules != NULL;
    without_rules_since = rules || !had_rule ? FOREVER : without_rules_since == FOREVER ? time : without_rules_since;
    uint64_t last = is_detaching ? detach_deadline : without_rules_since == FOREVER ? FOREVER : without_rules_since + WITHOUT_RULES;
    if (!is_detaching && time >= last)
        detach(0);
    return last < next ? last : next;
}

/* ---- the process ---- */

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "orca-tracer is started by the agent of chaosorca, not by hand\n");
        return 2;
    }
    prctl(PR_SET_NAME, "orca-tracer");
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != atoi(argv[1])) {
        fprintf(stderr, "the process that started the tracer has ended\n");
        return 1;
    }
    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
    ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[3]), 0);
    if (state == MAP_FAILED || ring == MAP_FAILED) {
        perror("mapping the memory shared with the agent");
        return 1;
    }
    report_keep(ring->last_calls);
    trace_prepare();
    fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK);
    if (sleep_prepare()) {
        perror("preparing to sleep");
        return 1;
    }
    for (;;) {
        bool may_be_more = handle_stops();
        while (sleep_had_commands()) {
            while (read_commands())
                ;
        }
        if (is_unsupported || sleep_was_asked_to_end())
            detach(0);
        uint64_t next = keep_time(), flush_by = report_flush(now());
        if (is_detaching && (has_detached() || now() >= detach_deadline))
            break;
        yield_processors();
        if (!may_be_more)
            sleep_until(flush_by < next ? flush_by : next);
    }
    report_end();
    /* No thread waits for the tracer any more, so writing may block until the agent reads. */
    fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) & ~O_NONBLOCK);
    report_all();
    report_free();
    return 0; /* the kernel detaches from threads that could not be detached in time because they are frozen */
}
