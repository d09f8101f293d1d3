/* The filter on the packet sockets of one container. It passes the container's number to the HTTP program (http.c). */

#include "common.h"

#define LOOPBACK 1 /* the index of the loopback device in every network namespace */
#define OTHERHOST 3
#define OUTGOING 4

const volatile u32 TARGET;

PROGRAMS(parser, 1);

SEC("socket")
int http_target(struct __sk_buff *skb)
{
    if (skb->pkt_type == OTHERHOST || (skb->ifindex == LOOPBACK && skb->pkt_type == OUTGOING))
        return 0; /* a packet socket sees every loopback packet twice */
    skb->cb[0] = TARGET;
    bpf_tail_call(skb, &parser, 0);
    return 0;
}
