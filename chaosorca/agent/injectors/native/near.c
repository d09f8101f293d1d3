#include "near.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

enum {
    STOPS_IN_A_ROW = 3, /* of one thread, before the tracer follows it to its processor */
    ROUND = 4096,       /* stops of a round */
    TRIAL = 16,         /* stops of the first round without yielding */
    MIGRATIONS_MAX = 8, /* of the thread in a round without yielding */
};

/* A yield longer than this has let something else run too, and other stopped threads should not have waited for it: back off. */
static const uint64_t YIELD_MAX = 300000, BACKOFF_MIN = 50000000, BACKOFF_MAX = 2000000000; /* nanoseconds */

static pid_t last; /* the thread that stopped last */
static int stops;  /* its stops in a row */
static int processor_of_last;
static bool is_bound;    /* the tracer's affinity is one processor */
static bool is_settled;  /* the thread stays on its processor, or that is being tried: the tracer does not yield */
static int left = ROUND; /* stops of this round that are still to come */
static int migrations;   /* of the thread, in this round */
static uint64_t yielded_at, backoff_until, backoff = BACKOFF_MIN;

/* Leaving SCHED_IDLE again needs CAP_SYS_NICE. */
static bool may_return(void)
{
    static int answer = -1;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {0};
    if (answer < 0)
        answer = !syscall(SYS_capget, &header, sets) && sets[0].effective >> CAP_SYS_NICE & 1;
    return answer;
}

static void unbind(void)
{
    static cpu_set_t all;
    if (!is_bound)
        return;
    is_bound = false;
    for (int i = 0; i < CPU_SETSIZE; i++)
        CPU_SET(i, &all); /* the kernel ignores processors that do not exist or are not allowed */
    sched_setaffinity(0, sizeof(all), &all);
}

static void bind_to(int processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    is_bound |= !sched_setaffinity(0, sizeof(one), &one);
}

/* After a round of yielding, try a few stops without it, and continue so while the thread does not migrate. */
static void count_round(bool has_migrated)
{
    migrations += has_migrated;
    left--;
    bool migrates = is_settled && migrations > MIGRATIONS_MAX;
    if (left > 0 && !migrates)
        return;
    left = is_settled ? ROUND : TRIAL;
    is_settled = !migrates;
    migrations = 0;
}

void near_on_stop(pid_t tid, int processor)
{
    count_round(tid == last && processor != processor_of_last);
    stops = tid == last ? stops + 1 : 1;
    last = tid;
    processor_of_last = processor;
    if (stops < STOPS_IN_A_ROW)
        unbind();
    else if (may_return() && processor != sched_getcpu() && now() >= backoff_until)
        bind_to(processor);
}

bool near_yield(pid_t tid)
{
    if (is_settled || !may_return() || tid != last || stops < STOPS_IN_A_ROW || processor_of_last != sched_getcpu())
        return false;
    yielded_at = now();
    return yielded_at >= backoff_until && !sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
}

void near_resume(void)
{
    sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
    uint64_t time = now();
    if (time - yielded_at > YIELD_MAX) {
        unbind();
        backoff_until = time + backoff;
        backoff = backoff * 2 < BACKOFF_MAX ? backoff * 2 : BACKOFF_MAX;
    } else if (backoff > BACKOFF_MIN) {
        backoff -= backoff / 1000;
    }
}
