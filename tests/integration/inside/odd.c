/*
 * Programs in which system calls are hard to find, or whose threads are hard to stop by signals.
 *
 *     odd loads    makes its calls in a library that it loads when it begins
 *     odd makes    makes them in code that it has written into memory
 *     odd now      makes them in its own code, from its start on
 *     odd blocks   makes them in two threads, one of which blocks all signals
 *     odd asks     has one thread that sends signals to another, each after the previous one has arrived
 *
 * With OLD the program contains a system call of 32-bit programs, but never makes it.
 *
 * All calls are getppid. At the first SIGUSR1 it begins. At each further one it makes a hundred calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef long made_call(void);

enum { MORE = 100, ASKED = 20000 };
static const double LASTS = 2, PAUSE = 0.002, LOST_AFTER = 10;

static atomic_int is_asked, is_over;
static atomic_long answers;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void pause_for(double seconds)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

static void wait_for_begin(void)
{
    sigset_t begin;
    int signal;
    sigemptyset(&begin);
    sigaddset(&begin, SIGUSR1);
    sigwait(&begin, &signal);
}

static long libc_call(void)
{
    return getppid();
}

static made_call *loaded(void)
{
    void *library = dlopen("/observer/late.so", RTLD_NOW);
    return library ? (made_call *)dlsym(library, "call_of_its_own") : NULL;
}

static made_call *made(void)
{
    static const unsigned char code[] = {0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xc3}; /* mov $110,%eax; syscall; ret */
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    memcpy(memory, code, sizeof(code));
    return mprotect(memory, 4096, PROT_READ | PROT_EXEC) ? NULL : (made_call *)memory;
}

#ifdef OLD
__attribute__((used, noinline)) static long old_call(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(64) : "memory");
    return result;
}
#endif

static int hits(made_call *call, int calls)
{
    int hit = 0;
    for (int i = 0; i < calls; i++)
        hit += call() < 0;
    return hit;
}

/* Make calls for a while. Print how many have passed, when the last of them did in milliseconds, and how many were hit. */
static void print_hits(made_call *call)
{
    double began = now(), last = 0;
    int passed = 0, hit = 0;
    for (double at = began; at - began < LASTS; at = now()) {
        if (call() < 0) {
            hit++;
        } else {
            passed++;
            last = at - began;
        }
        pause_for(PAUSE);
    }
    printf("%d %d %d\n", passed, (int)(last * 1000), hit);
}

static void *block_signals(void *unused)
{
    sigset_t all;
    (void)unused;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (;;) {
        while (!atomic_exchange(&is_asked, 0))
            pause_for(PAUSE);
        atomic_store(&answers, hits(libc_call, MORE));
        atomic_store(&is_over, 1);
    }
    return NULL;
}

static void be_asked(int signal, siginfo_t *info, void *unused)
{
    (void)signal, (void)unused;
    atomic_fetch_add(&answers, info->si_code == SI_TKILL && info->si_pid == getpid());
    atomic_store(&is_asked, 0);
}

static void do_nothing(int signal)
{
    (void)signal;
}

static void *make_calls(void *hit)
{
    while (!atomic_load(&is_over))
        *(long *)hit += libc_call() < 0;
    return NULL;
}

/* Send each signal after the previous one was handled, as Go's scheduler does. A signal that is lost is awaited for ever. */
static void ask(void)
{
    pthread_t asked;
    long hit = 0, sent = 0;
    atomic_store(&answers, 0);
    atomic_store(&is_asked, 0);
    atomic_store(&is_over, 0);
    struct sigaction action = {.sa_sigaction = be_asked, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGURG, &action, NULL);
    signal(SIGALRM, do_nothing);
    pthread_create(&asked, NULL, make_calls, &hit);
    for (double end = now() + LOST_AFTER; sent < ASKED && now() < end;) {
        if (!atomic_exchange(&is_asked, 1)) {
            sent++;
            pthread_kill(asked, SIGALRM); /* another signal, which is delivered first */
            pthread_kill(asked, SIGURG);
            end = now() + LOST_AFTER;
        }
    }
    pause_for(0.1);
    atomic_store(&is_over, 1);
    pthread_join(asked, NULL);
    printf("%ld %ld %ld\n", sent, atomic_load(&answers), hit);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t begin;
    sigemptyset(&begin);
    sigaddset(&begin, SIGUSR1);
    sigprocmask(SIG_BLOCK, &begin, NULL);
    if (!strcmp(kind, "now")) {
        print_hits(libc_call);
        return 0;
    }
    pthread_t blocking;
    if (!strcmp(kind, "blocks"))
        pthread_create(&blocking, NULL, block_signals, NULL);
    printf("ready\n");
    for (made_call *call = NULL;;) {
        wait_for_begin();
        if (!strcmp(kind, "asks")) {
            ask();
        } else if (!strcmp(kind, "blocks")) {
            atomic_store(&is_asked, 1);
            while (!atomic_exchange(&is_over, 0))
                pause_for(PAUSE);
            printf("%ld %d\n", atomic_load(&answers), hits(libc_call, MORE));
        } else if (call) {
            printf("%d\n", hits(call, MORE));
        } else {
            call = !strcmp(kind, "loads") ? loaded() : made();
            if (!call)
                return 1;
            print_hits(call);
        }
    }
}
