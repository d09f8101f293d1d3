#include "near.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

enum { IN_A_ROW = 3, ROUND = 4096, TRIAL = 16, FEW = 8 };

/* The thread ran on, or something else did: then others who are stopped should not have waited for that. */
static const uint64_t TOO_LONG = 300000, AT_REST = 50000000, LONGEST_REST = 2000000000;

static pid_t last;
static int stops; /* of the same thread, in a row */
static int where; /* its processor */
static bool is_bound;
static bool is_free; /* threads stay where they are, or that is being tried: no need to give way */
static int left = ROUND;     /* stops of this round */
static int moved;            /* times that the thread was elsewhere in it */
static uint64_t gave_way_at, rests_until, rest = AT_REST;

static bool comes_back(void)
{
    static int answer = -1;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {0};
    if (answer < 0)
        answer = !syscall(SYS_capget, &header, sets) && sets[0].effective >> CAP_SYS_NICE & 1;
    return answer;
}

static void roam(void)
{
    static cpu_set_t all;
    if (!is_bound)
        return;
    is_bound = false;
    for (int i = 0; i < CPU_SETSIZE; i++)
        CPU_SET(i, &all); /* the kernel takes those that there are, and that we may use */
    sched_setaffinity(0, sizeof(all), &all);
}

static void bind(int processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    is_bound |= !sched_setaffinity(0, sizeof(one), &one);
}

/* Having given way for a round, see what becomes of some stops without that; go on so while the thread stays. */
static void count_round(bool has_moved)
{
    moved += has_moved;
    left--;
    bool does_not_stay = is_free && moved > FEW;
    if (left > 0 && !does_not_stay)
        return;
    left = is_free ? ROUND : TRIAL;
    is_free = !does_not_stay;
    moved = 0;
}

void near_stopped(pid_t tid, int processor)
{
    count_round(tid == last && processor != where);
    stops = tid == last ? stops + 1 : 1;
    last = tid;
    where = processor;
    if (stops < IN_A_ROW)
        roam();
    else if (comes_back() && processor != sched_getcpu() && now() >= rests_until)
        bind(processor);
}

bool near_give_way(pid_t tid)
{
    if (is_free || !comes_back() || tid != last || stops < IN_A_ROW || where != sched_getcpu())
        return false;
    gave_way_at = now();
    return gave_way_at >= rests_until && !sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
}

void near_back(void)
{
    sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
    uint64_t time = now();
    if (time - gave_way_at > TOO_LONG) {
        roam();
        rests_until = time + rest;
        rest = rest * 2 < LONGEST_REST ? rest * 2 : LONGEST_REST;
    } else if (rest > AT_REST) {
        rest -= rest / 1000;
    }
}
