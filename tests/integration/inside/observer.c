/* A program that makes system calls and records each one: its result or errno, its duration, the number of signals.
 *
 *     observer BOARD [TEXT]
 *
 * It waits for SIGUSR1, prepares the round that the board (board.h) describes, and waits for SIGUSR1 again, so that a fault can
 * begin meanwhile. Then it makes the calls: first in its main thread, then in other threads, then in forked children.
 *
 *     observer BOARD worker INDEX TEXT
 *
 * is how a child executes itself: as one worker, under a command line that contains TEXT.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifndef BARE
#include <pthread.h>
#endif

#include "board.h"

enum { CONTINUE_SIGNAL = SIGUSR1, LENGTH = 64, MOST_THREADS = 1024, FUTEX_WAIT_ON = 0, FUTEX_WAKE_UP = 1, REAL = 1, READY = -1 };

static volatile struct board *board;
static const char *board_path, *own_path;

#ifdef BARE
static struct worker *me;
#else
static __thread struct worker *me;
static pthread_t threads[MOST_THREADS];
#endif

/* The steps of a round, with the descriptors and paths that are prepared before. */
struct kind;
static struct {
    const struct kind *kind;
    int fd;
    const char *path;
} plan[STEPS];

static char buffer[LENGTH];

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* The system calls, by the functions of the libc where these make exactly that call. */

/* clang-format off */
static long make_getppid(int fd, const char *path) { (void)fd; (void)path; return getppid(); }
static long make_openat(int fd, const char *path) { return openat(fd, path, O_RDONLY); }
static long make_open(int fd, const char *path) { (void)fd; return syscall(SYS_open, path, O_RDONLY); }
static long make_creat(int fd, const char *path) { (void)fd; return syscall(SYS_creat, path, 0644); }
static long make_read(int fd, const char *path) { (void)path; return read(fd, buffer, LENGTH); }
static long make_pread64(int fd, const char *path) { (void)path; return pread(fd, buffer, LENGTH, 0); }
static long make_write(int fd, const char *path) { (void)path; return write(fd, buffer, LENGTH); }
static long make_lseek(int fd, const char *path) { (void)path; return lseek(fd, 0, SEEK_SET); }
static long make_dup(int fd, const char *path) { (void)path; return dup(fd); }
static long make_chdir(int fd, const char *path) { (void)fd; return chdir(path); }
static long make_socket(int fd, const char *path) { (void)fd; (void)path; return socket(AF_UNIX, SOCK_STREAM, 0); }
static long make_fcntl(int fd, const char *path) { (void)path; return syscall(SYS_fcntl, fd, F_GETFL) < 0 ? -1 : 0; }
static long make_faccessat(int fd, const char *path) { return syscall(SYS_faccessat, fd, path, R_OK); }
static long make_mkdirat(int fd, const char *path) { return syscall(SYS_mkdirat, fd, path, 0755); }
static long make_unlinkat(int fd, const char *path) { return syscall(SYS_unlinkat, fd, path, 0); }
static long make_sched_yield(int fd, const char *path) { (void)fd; (void)path; return syscall(SYS_sched_yield); }
static long make_execve(int fd, const char *path) { (void)fd; return syscall(SYS_execve, path, 0, 0); }
static long make_getrandom(int fd, const char *path) { (void)fd; (void)path; return syscall(SYS_getrandom, buffer, LENGTH, 0); }
static long make_getpriority(int fd, const char *path) { (void)fd; (void)path; return syscall(SYS_getpriority, 0, 0); }
/* clang-format on */

static long make_openat2(int fd, const char *path)
{
    struct {
        uint64_t flags, mode, resolve;
    } how = {O_RDONLY, 0, 0};
    return syscall(SYS_openat2, fd, path, &how, sizeof how);
}

static long make_readv(int fd, const char *path)
{
    struct iovec part = {buffer, LENGTH};
    (void)path;
    return readv(fd, &part, 1);
}

static long make_writev(int fd, const char *path)
{
    struct iovec part = {buffer, LENGTH};
    (void)path;
    return writev(fd, &part, 1);
}

static long make_fstat(int fd, const char *path)
{
    char room[512];
    (void)path;
    return syscall(SYS_fstat, fd, room);
}

static long make_stat(int fd, const char *path)
{
    char room[512];
    (void)fd;
    return syscall(SYS_stat, path, room);
}

static long make_lstat(int fd, const char *path)
{
    char room[512];
    (void)fd;
    return syscall(SYS_lstat, path, room);
}

static long make_newfstatat(int fd, const char *path)
{
    char room[512];
    return syscall(SYS_newfstatat, fd, path, room, 0);
}

static long make_statx(int fd, const char *path)
{
    char room[512];
    return syscall(SYS_statx, fd, path, 0, 0x7ff, room);
}

static long make_readlinkat(int fd, const char *path)
{
    char room[512];
    return syscall(SYS_readlinkat, fd, path, room, sizeof room);
}

static long make_mmap(int fd, const char *path)
{
    (void)fd;
    (void)path;
    return (long)mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static long make_clock_nanosleep(int fd, const char *path)
{
    struct timespec time = {0, 5000000}; /* longer than a time slice, so that a signal arrives before the wait is over */
    (void)fd;
    (void)path;
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &time, 0);
}

static long make_ppoll(int fd, const char *path)
{
    struct timespec time = {0, 1000000};
    (void)fd;
    (void)path;
    return syscall(SYS_ppoll, 0, 0, &time, 0, 8);
}

static long make_fork(int fd, const char *path)
{
    pid_t child = fork();
    (void)fd;
    (void)path;
    if (child == 0)
        _exit(0);
    return child;
}

#ifndef BARE
static long make_vfork(int fd, const char *path)
{
    pid_t child = vfork();
    (void)fd;
    (void)path;
    if (child == 0)
        _exit(0);
    return child;
}
#endif

/* Release a real result and record it as 1, since the kernel's number is arbitrary. Record a forged result unchanged. */

/* clang-format off */
static long settle_descriptor(long result) { return result > 2 && close(result) == 0 ? REAL : result; }
static long settle_memory(long result) { return result > 65535 && munmap((void *)result, 4096) == 0 ? REAL : result; }
/* clang-format on */

static long settle_child(long result)
{
    pid_t found;
    do
        found = result > 1 ? waitpid(result, 0, 0) : -1;
    while (found < 0 && result > 1 && errno == EINTR);
    return found > 0 ? REAL : result;
}

static const struct kind {
    const char *name;
    long (*make)(int fd, const char *path);
    long (*settle)(long result);
    const char *file; /* the file of its descriptor unless the step names one */
    const char *path;
} kinds[] = {
    {"getppid", make_getppid, 0, 0, 0},
    {"openat", make_openat, settle_descriptor, 0, "/etc/hostname"},
    {"openat2", make_openat2, settle_descriptor, 0, "/etc/hostname"},
    {"open", make_open, settle_descriptor, 0, "/etc/hostname"},
    {"creat", make_creat, settle_descriptor, 0, "/tmp/created"},
    {"read", make_read, 0, "/dev/zero", 0},
    {"pread64", make_pread64, 0, "/dev/zero", 0},
    {"readv", make_readv, 0, "/dev/zero", 0},
    {"write", make_write, 0, "/dev/null", 0},
    {"writev", make_writev, 0, "/dev/null", 0},
    {"lseek", make_lseek, 0, "/dev/zero", 0},
    {"dup", make_dup, settle_descriptor, "/dev/zero", 0},
    {"fcntl", make_fcntl, 0, "/dev/zero", 0},
    {"fstat", make_fstat, 0, "/dev/zero", 0},
    {"stat", make_stat, 0, 0, "/etc/hostname"},
    {"lstat", make_lstat, 0, 0, "/etc/hostname"},
    {"newfstatat", make_newfstatat, 0, 0, "/etc/hostname"},
    {"statx", make_statx, 0, 0, "/etc/hostname"},
    {"readlinkat", make_readlinkat, 0, 0, "/etc/hostname"},
    {"faccessat", make_faccessat, 0, 0, "/etc/hostname"},
    {"mkdirat", make_mkdirat, 0, 0, "/etc"},
    {"unlinkat", make_unlinkat, 0, 0, "/etc/there-is-none"},
    {"chdir", make_chdir, 0, 0, "/"},
    {"socket", make_socket, settle_descriptor, 0, 0},
    {"mmap", make_mmap, settle_memory, 0, 0},
    {"sched_yield", make_sched_yield, 0, 0, 0},
    {"clock_nanosleep", make_clock_nanosleep, 0, 0, 0},
    {"ppoll", make_ppoll, 0, 0, 0},
    {"getrandom", make_getrandom, 0, 0, 0},
    {"getpriority", make_getpriority, 0, 0, 0},
    {"execve", make_execve, 0, 0, "/etc/there-is-none"},
    {"fork", make_fork, settle_child, 0, 0},
#ifndef BARE
    {"vfork", make_vfork, settle_child, 0, 0},
#endif
};

static void give_up(const char *what, const char *name)
{
    ssize_t written = write(2, what, strlen(what)) + write(2, name, strlen(name)) + write(2, "\n", 1);
    _exit(written > 0 ? 2 : 3);
}

static void plan_steps(void)
{
    if (board->directory[0] && chdir((const char *)board->directory))
        give_up("no such directory: ", (const char *)board->directory);
    for (int i = 0; i < board->steps; i++) {
        const struct step *step = (const struct step *)&board->step[i];
        plan[i].kind = 0;
        for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++)
            if (!strcmp(kinds[k].name, step->name))
                plan[i].kind = &kinds[k];
        if (!plan[i].kind)
            give_up("no such step: ", step->name);
        const char *file = step->file[0] ? step->file : plan[i].kind->file;
        plan[i].path = step->path[0] ? step->path : plan[i].kind->path;
        plan[i].fd = AT_FDCWD;
        if (file && (plan[i].fd = openat(AT_FDCWD, file, !strcmp(file, "/dev/null") ? O_WRONLY : O_RDONLY)) < 0)
            give_up("cannot be opened: ", file);
    }
}

static void close_plan(void)
{
    for (int i = 0; i < board->steps; i++)
        if (plan[i].fd >= 0)
            close(plan[i].fd);
}

/* A worker makes the calls of the plan. */

static struct worker *worker(int index)
{
    int64_t length = WORKER_HEAD + (int64_t)board->recorded * sizeof(struct call);
    return (struct worker *)((char *)board + WORKERS_AT + index * length);
}

static void keep(struct worker *worker, long result, int64_t nanoseconds)
{
    if (worker->calls < board->recorded) {
        struct call *calls = (struct call *)((char *)worker + WORKER_HEAD);
        calls[worker->calls].result = result;
        calls[worker->calls].nanoseconds = nanoseconds;
    }
    worker->calls++;
    for (int i = 0; i < TALLIES; i++)
        if (worker->tally[i].times == 0 || worker->tally[i].result == result) {
            worker->tally[i].result = result;
            worker->tally[i].times++;
            break;
        }
}

static void work(struct worker *worker)
{
    worker->pid = getpid();
    me = worker;
    for (int64_t repeat = 0; board->repeats ? repeat < board->repeats : !board->stop; repeat++)
        for (int i = 0; i < board->steps; i++) {
            int64_t begin = now();
            long result = plan[i].kind->make(plan[i].fd, plan[i].path);
            if (result == -1)
                result = -errno;
            int64_t nanoseconds = now() - begin;
            if (plan[i].kind->settle)
                result = plan[i].kind->settle(result);
            keep(worker, result, nanoseconds);
        }
    me = 0;
    worker->ended = 1;
}

static void count_signal(int signal)
{
    int before = errno;
    (void)signal;
    if (me)
        me->signals++;
    else
        __atomic_add_fetch(&board->strays, 1, __ATOMIC_SEQ_CST);
    errno = before;
}

static void wait_for_turn(int turn)
{
    int32_t now_it_is;
    while ((now_it_is = board->turn) < turn)
        syscall(SYS_futex, &board->turn, FUTEX_WAIT_ON, now_it_is, 0, 0, 0);
}

static void give_turn(int turn)
{
    board->turn = turn;
    syscall(SYS_futex, &board->turn, FUTEX_WAKE_UP, MOST_THREADS, 0, 0, 0);
}

static void wait_for_signal(void)
{
    uint64_t which = 1ULL << (CONTINUE_SIGNAL - 1);
    while (syscall(SYS_rt_sigtimedwait, &which, 0, 0, 8) != CONTINUE_SIGNAL)
        ;
}

#ifndef BARE
static void *run_thread(void *argument)
{
    wait_for_turn(1);
    work(argument);
    return 0;
}
#endif

static void start_threads(int first)
{
#ifndef BARE
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 << 10);
    for (int i = 0; i < board->threads; i++)
        if (i >= MOST_THREADS || pthread_create(&threads[i], &small, run_thread, worker(first + i)))
            give_up("no more threads", "");
    pthread_attr_destroy(&small);
#else
    (void)first;
    if (board->threads)
        give_up("no threads without a libc", "");
#endif
}

static void join_threads(void)
{
#ifndef BARE
    for (int i = 0; i < board->threads; i++)
        pthread_join(threads[i], 0);
#endif
}

static void run_child(int index, int number)
{
    const char *text = (const char *)board->become[number % 2];
    wait_for_turn(2);
    work(worker(index));
    if (text[0]) {
        char digits[12], *digit = digits + sizeof digits;
        int next = index + board->children;
        *--digit = 0;
        do
            *--digit = '0' + next % 10;
        while (next /= 10);
        char *arguments[] = {(char *)own_path, (char *)board_path, "worker", digit, (char *)text, 0}, *nothing[] = {0};
        execve(own_path, arguments, nothing);
        give_up("cannot be executed: ", own_path);
    }
    _exit(0);
}

static void start_children(int first)
{
    struct timespec pause = {board->pause / 1000000, board->pause % 1000000 * 1000};
    for (int i = 0; i < board->children; i++) {
        pid_t child = fork();
        if (child == 0)
            run_child(first + i, i);
        if (child < 0)
            give_up("no more children", "");
        if (board->pause) {
            nanosleep(&pause, 0);
            while (waitpid(-1, 0, WNOHANG) > 0)
                ;
        }
    }
}

static void wait_for_children(void)
{
    while (waitpid(-1, 0, 0) > 0 || errno == EINTR)
        ;
}

static void run_round(void)
{
    int first_thread = board->alone ? 1 : 0, first_child = first_thread + board->threads;
    board->turn = 0;
    plan_steps();
    if (board->early) {
        start_threads(first_thread);
        start_children(first_child);
    }
    board->prepared = board->round;
    wait_for_signal();
    if (board->alone)
        work(worker(0));
    give_turn(1);
    if (!board->early)
        start_threads(first_thread);
    join_threads();
    give_turn(2);
    if (!board->early)
        start_children(first_child);
    wait_for_children();
    close_plan();
    board->done = board->round;
}

static int number(const char *digits)
{
    int result = 0;
    while (*digits)
        result = result * 10 + *digits++ - '0';
    return result;
}

int main(int count, char **arguments)
{
    static const int counted[] = {SIGUSR2, SIGALRM, SIGWINCH, SIGURG, SIGIO, SIGHUP};
    uint64_t blocked = 1ULL << (CONTINUE_SIGNAL - 1);
    if (count < 2)
        give_up("say which board: ", arguments[0]);
    own_path = arguments[0];
    board_path = arguments[1];
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &blocked, 0, 8);
    int fd = openat(AT_FDCWD, board_path, O_RDWR);
    board = mmap(0, BOARD_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || board == MAP_FAILED)
        give_up("cannot be mapped: ", board_path);
    close(fd);
    struct sigaction action = {0};
    action.sa_handler = count_signal;
    action.sa_flags = SA_RESTART;
    for (unsigned i = 0; i < sizeof counted / sizeof *counted; i++)
        sigaction(counted[i], &action, 0);
    if (count > 3 && !strcmp(arguments[2], "worker")) {
        plan_steps();
        work(worker(number(arguments[3])));
        return 0;
    }
    board->turn = READY;
    for (;;) {
        wait_for_signal();
        run_round();
    }
}
