#include "thread.h"

#include <assert.h>
#include <stdlib.h>

enum { BUCKETS = 4096 };

static struct thread *table[BUCKETS];
static size_t threads;

static struct thread **bucket(pid_t tid)
{
    return &table[(unsigned)tid % BUCKETS];
}

struct thread *thread_find(pid_t tid)
{
    struct thread *found = *bucket(tid);
    while (found && found->tid != tid)
        found = found->next;
    return found;
}

struct thread *thread_get(pid_t tid)
{
    struct thread *thread = thread_find(tid);
    if (thread || !(thread = calloc(1, sizeof(*thread))))
        return thread;
    thread->tid = tid;
    thread->next = *bucket(tid);
    *bucket(tid) = thread;
    threads++;
    return thread;
}

void thread_remove(struct thread *thread)
{
    assert(thread->state == RUNNING && !thread->rule && !thread->pending && !thread->attachment);
    struct thread **at = bucket(thread->tid);
    while (*at != thread)
        at = &(*at)->next;
    *at = thread->next;
    free(thread->counts);
    free(thread);
    threads--;
}

void thread_each(void (*visit)(struct thread *))
{
    for (int i = 0; i < BUCKETS; i++) {
        for (struct thread *thread = table[i], *next; thread; thread = next) {
            next = thread->next;
            visit(thread);
        }
    }
}

size_t thread_count(void)
{
    return threads;
}

uint32_t thread_count_call(struct thread *thread, int nr, uint32_t rule)
{
    if (!thread->counts && !(thread->counts = calloc(NR_MAX, sizeof(*thread->counts))))
        return 0;
    struct count *count = &thread->counts[nr];
    if (count->rule != rule || !count->calls)
        *count = (struct count){.rule = rule};
    return ++count->calls;
}
