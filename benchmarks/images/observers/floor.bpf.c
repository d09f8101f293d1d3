/* Empty programs: the least that observing system calls can cost. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("raw_tp/sys_enter")
int on_sys_enter(void *ctx)
{
    (void)ctx;
    return 0;
}

SEC("raw_tp/sys_exit")
int on_sys_exit(void *ctx)
{
    (void)ctx;
    return 0;
}

char licence[] SEC("license") = "GPL";
