#include "sleep.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const uint64_t NEVER = UINT64_MAX;

static sigjmp_buf awake;
static volatile sig_atomic_t sleeps, was_called, had_commands = 1, was_asked_to_end;
static timer_t alarm_timer;
static volatile uint64_t alarm_at = UINT64_MAX;

/* A signal that arrives just before wait(2) must keep the tracer awake, and wait(2) has no signal mask: jump out of the sleep. */
static void on_signal(int signal)
{
    was_called = 1;
    if (signal == SIGIO)
        had_commands = 1;
    else if (signal == SIGALRM)
        alarm_at = NEVER;
    else
        was_asked_to_end = 1;
    if (sleeps) {
        sleeps = 0;
        siglongjmp(awake, 1);
    }
}

int sleep_prepare(void)
{
    /* The handler blocks no signal, so a jump out of it has no mask to restore. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_NODEFER};
    const int signals[] = {SIGIO, SIGALRM, SIGTERM, SIGINT};
    for (int i = 0; i < 4; i++)
        sigaction(signals[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    /* A stop sends no signal. */
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP}, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    if (timer_create(CLOCK_MONOTONIC, &event, &alarm_timer))
        return -1;
    if (fcntl(STDIN_FILENO, F_SETOWN, getpid()))
        return -1;
    return fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK | O_ASYNC);
}

static void set_alarm(uint64_t at)
{
    struct itimerspec when = {.it_value = {(time_t)(at / 1000000000), (long)(at % 1000000000)}};
    if (at == alarm_at)
        return;
    alarm_at = at;
    timer_settime(alarm_timer, TIMER_ABSTIME, at == NEVER ? &(struct itimerspec){0} : &when, NULL);
}

void sleep_until(uint64_t ns)
{
    set_alarm(ns);
    if (!sigsetjmp(awake, 0)) {
        sleeps = 1;
        /* WNOWAIT leaves the stop in place, so a jump out of this call loses none. */
        siginfo_t info;
        if (!was_called && waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOWAIT | __WALL) && errno == ECHILD)
            pause();
    }
    sleeps = 0;
    was_called = 0; /* the caller checks everything now */
}

bool sleep_had_commands(void)
{
    bool had = had_commands;
    had_commands = 0;
    return had;
}

bool sleep_was_asked_to_end(void)
{
    return was_asked_to_end;
}
