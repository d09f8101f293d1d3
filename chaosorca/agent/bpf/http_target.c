/* Tells the HTTP program (http.c) whose packets it is given: there is one such filter for each container, on its packet socket. */

#include "common.h"

const volatile u32 TARGET;

PROGRAMS(parser, 1);

SEC("socket")
int http_target(struct __sk_buff *skb)
{
    skb->cb[0] = TARGET;
    bpf_tail_call(skb, &parser, 0);
    return 0;
}
