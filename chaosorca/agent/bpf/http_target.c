/* Tells the HTTP program (http.c) whose packets it is given: there is one such filter for each container, on its packet socket. */

#include "common.h"

#define LOOPBACK 1 /* the loopback device is the first of every network namespace */
#define OTHERHOST 3
#define OUTGOING 4

const volatile u32 TARGET;

PROGRAMS(parser, 1);

SEC("socket")
int http_target(struct __sk_buff *skb)
{
    if (skb->pkt_type == OTHERHOST || (skb->ifindex == LOOPBACK && skb->pkt_type == OUTGOING))
        return 0; /* loopback shows every packet twice */
    skb->cb[0] = TARGET;
    bpf_tail_call(skb, &parser, 0);
    return 0;
}
