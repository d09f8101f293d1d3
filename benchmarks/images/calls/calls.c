/* Make and time calls of getppid or poll: `calls BOARD`. The board is a file that the benchmark maps too; it describes each round.
 * ../../parts/calls.py has the same layout. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BATCHES = 65536, MOST_THREADS = 64 };

struct board {
    int64_t asked, done; /* the number of the requested round, and of the last complete one */
    int64_t stop;        /* ends a round early */
    int64_t how;         /* 0: getppid; 1: getppid by the libc's `syscall`, whose code does not contain the number; 2: poll;
                          * 3: poll of a program that has had a second thread, for which glibc has a second `syscall` */
    int64_t batch, batches, milliseconds; /* a round ends after that many batches, or after that time */
    int64_t threads;
    int64_t pause;                                            /* microseconds between batches */
    int64_t calls, errors, first_error, last_error, recorded; /* of all threads, but recorded of the first only */
    int64_t nanoseconds[MOST_BATCHES];                        /* of each batch */
};

static volatile struct board *board;

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void *work(void *first)
{
    int64_t batch = board->batch, how = board->how, pause = board->pause;
    int64_t end = now() + board->milliseconds * 1000000;
    for (int64_t i = 0; i < board->batches && !board->stop; i++) {
        int64_t failed = 0, begin = now(), after;
        if (how == 1)
            for (int64_t n = 0; n < batch; n++)
                failed += syscall(SYS_getppid) < 0;
        else if (how >= 2)
            for (int64_t n = 0; n < batch; n++)
                failed += poll(0, 0, 0) < 0;
        else
            for (int64_t n = 0; n < batch; n++)
                failed += getppid() < 0;
        after = now();
        __atomic_add_fetch(&board->calls, batch, __ATOMIC_RELAXED);
        if (failed) {
            __atomic_add_fetch(&board->errors, failed, __ATOMIC_RELAXED);
            if (!board->first_error)
                board->first_error = after;
            board->last_error = after;
        }
        if (first && i < MOST_BATCHES) {
            board->nanoseconds[i] = after - begin;
            board->recorded = i + 1;
        }
        if (after > end)
            break;
        if (pause) {
            struct timespec time = {0, pause * 1000};
            nanosleep(&time, 0);
        }
    }
    return 0;
}

static void *rest(void *nothing)
{
    pause();
    return nothing;
}

int main(int count, char **arguments)
{
    pthread_t threads[MOST_THREADS], other;
    int has_other = 0;
    int fd = count == 2 ? open(arguments[1], O_RDWR) : -1;
    board = mmap(0, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || (void *)board == MAP_FAILED)
        return 1;
    for (;;) {
        struct timespec millisecond = {0, 1000000};
        int64_t round = board->asked;
        if (round == board->done) {
            nanosleep(&millisecond, 0);
            continue;
        }
        if (board->how == 3 && !has_other && pthread_create(&other, 0, rest, 0))
            return 1;
        has_other |= board->how == 3;
        int more = board->threads - 1;
        for (int i = 0; i < more; i++)
            if (i >= MOST_THREADS || pthread_create(&threads[i], 0, work, 0))
                return 1;
        work(&fd);
        for (int i = 0; i < more; i++)
            pthread_join(threads[i], 0);
        board->done = round;
    }
}
