/* The functions of a libc that observer.c needs, for a program without one: no start files, no wrappers, a syscall instruction of
 * its own. For x86-64. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the observer without a libc is written for x86-64"
#endif

int main(int count, char **arguments);

static int last_errno;

int *__errno_location(void)
{
    return &last_errno;
}

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long fourth __asm__("r10") = d;
    register long fifth __asm__("r8") = e;
    register long sixth __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    if (result < 0 && result >= -4095) {
        last_errno = -result;
        return -1;
    }
    return result;
}

long syscall(long number, ...)
{
    va_list rest;
    long argument[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(rest, long);
    va_end(rest);
    return call(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}

/* clang-format off */
int openat(int fd, const char *path, int flags, ...) { return call(SYS_openat, fd, (long)path, flags, 0, 0, 0); }
int close(int fd) { return call(SYS_close, fd, 0, 0, 0, 0, 0); }
ssize_t read(int fd, void *to, size_t length) { return call(SYS_read, fd, (long)to, length, 0, 0, 0); }
ssize_t pread(int fd, void *to, size_t length, off_t at) { return call(SYS_pread64, fd, (long)to, length, at, 0, 0); }
ssize_t write(int fd, const void *from, size_t length) { return call(SYS_write, fd, (long)from, length, 0, 0, 0); }
ssize_t readv(int fd, const struct iovec *parts, int count) { return call(SYS_readv, fd, (long)parts, count, 0, 0, 0); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return call(SYS_writev, fd, (long)parts, count, 0, 0, 0); }
off_t lseek(int fd, off_t to, int from) { return call(SYS_lseek, fd, to, from, 0, 0, 0); }
int dup(int fd) { return call(SYS_dup, fd, 0, 0, 0, 0, 0); }
int chdir(const char *path) { return call(SYS_chdir, (long)path, 0, 0, 0, 0, 0); }
int socket(int domain, int type, int protocol) { return call(SYS_socket, domain, type, protocol, 0, 0, 0); }
pid_t getpid(void) { return call(SYS_getpid, 0, 0, 0, 0, 0, 0); }
pid_t getppid(void) { return call(SYS_getppid, 0, 0, 0, 0, 0, 0); }
pid_t fork(void) { return call(SYS_fork, 0, 0, 0, 0, 0, 0); }
pid_t waitpid(pid_t pid, int *status, int flags) { return call(SYS_wait4, pid, (long)status, flags, 0, 0, 0); }
int munmap(void *at, size_t length) { return call(SYS_munmap, (long)at, length, 0, 0, 0, 0); }
int nanosleep(const struct timespec *time, struct timespec *left) { return call(SYS_nanosleep, (long)time, (long)left, 0, 0, 0, 0); }
int clock_gettime(clockid_t clock, struct timespec *time) { return call(SYS_clock_gettime, clock, (long)time, 0, 0, 0, 0); }
/* clang-format on */

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return (void *)call(SYS_mmap, (long)at, length, protection, flags, fd, offset);
}

int execve(const char *path, char *const arguments[], char *const environment[])
{
    return call(SYS_execve, (long)path, (long)arguments, (long)environment, 0, 0, 0);
}

void _exit(int status)
{
    for (;;)
        call(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

void back_from_signal(void);
__asm__("back_from_signal: mov $15, %eax\n syscall\n"); /* rt_sigreturn */

int sigaction(int signal, const struct sigaction *wanted, struct sigaction *before)
{
    struct {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } action = {wanted->sa_handler, wanted->sa_flags | 0x04000000 /* SA_RESTORER */, back_from_signal, 0};
    (void)before;
    return call(SYS_rt_sigaction, signal, (long)&action, 0, 8, 0, 0);
}

size_t strlen(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

int strcmp(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *(const unsigned char *)one - *(const unsigned char *)other;
}

void *memset(void *to, int byte, size_t length)
{
    for (char *at = to; length--; at++)
        *at = byte;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t length)
{
    for (char *at = to; length--; at++, from = (const char *)from + 1)
        *at = *(const char *)from;
    return to;
}

void begin(long *stack)
{
    _exit(main(stack[0], (char **)(stack + 1)));
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
