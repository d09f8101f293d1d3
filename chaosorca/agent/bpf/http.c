/*
 * Follows HTTP/1.x requests of a container in the kernel: a socket filter on a packet socket in its network namespace.
 *
 * The socket is of type SOCK_DGRAM, so every packet starts at its network header whatever the device. The filter always returns
 * 0: no packet is ever queued or copied to user space. A request belongs to the connection client -> server, an answer is looked
 * up the other way round. A request ends by the first final answer (no 1xx but 101), or without one ("none") when the server
 * closes, either side resets, or user space finds it too old.
 *
 * One program serves all containers: the filter on each one's socket (http_target.c) puts the container's number into cb[0].
 */

#include "common.h"

#define LOOPBACK 1 /* the loopback device is the first of every network namespace */
#define OTHERHOST 3
#define OUTGOING 4
#define SERVER 0
#define CLIENT 1
#define UNANSWERED 0

enum { UNPARSED_JOINED, UNPARSED_PIPELINED };

struct side {
    u64 high;
    u64 low;
    u64 port; /* wide, so that no padding is left */
};

struct connection_key {
    u64 target;
    struct side client;
    struct side server;
};

struct connection {
    u64 began;
    u32 request_seq;
    u32 answer_seq;
    u8 method;
    u8 role;
    u8 open;     /* a request waits for its answer */
    u8 answered; /* answer_seq is set */
    u32 pad;
};

struct count_key {
    u32 target;
    u16 code;
    u8 role;
    u8 method;
};

struct duration_key {
    u32 target;
    u32 role;
};

struct duration {
    u64 sum;
    u64 slots[SLOTS];
};

struct unparsed_key {
    u32 target;
    u32 reason;
};

LRU_HASH(connections, struct connection_key, struct connection, 65536);
HASH(counts, struct count_key, u64, 16384);
HASH(durations, struct duration_key, struct duration, 2048);
HASH(unparsed, struct unparsed_key, u64, 2048);
PROGRAMS(parser, 1); /* this one, for the filters that go on to it */
DROPS

static __always_inline void add_unparsed(u32 target, u32 reason)
{
    struct unparsed_key key = {.target = target, .reason = reason};
    if (!add_one(&unparsed, &key))
        drop();
}

static __always_inline void end_request(u32 target, struct connection *c, u16 code, u64 now)
{
    struct count_key key = {.target = target, .code = code, .role = c->role, .method = c->method};
    if (!add_one(&counts, &key))
        drop();
    c->open = 0;
    if (code == UNANSWERED)
        return;
    struct duration_key duration_key = {.target = target, .role = c->role};
    struct duration none = {};
    struct duration *d = lookup_or_init(&durations, &duration_key, &none);
    if (!d) {
        drop();
        return;
    }
    u64 took = now - c->began;
    __sync_fetch_and_add(&d->slots[slot_of(took)], 1);
    __sync_fetch_and_add(&d->sum, took);
}

/* 0: no request; else the method's number (see monitors/http.py) */
static __always_inline u8 method_of(const char *p)
{
    if (p[0] == 'G' && p[1] == 'E' && p[2] == 'T' && p[3] == ' ')
        return 1;
    if (p[0] == 'H' && p[1] == 'E' && p[2] == 'A' && p[3] == 'D' && p[4] == ' ')
        return 2;
    if (p[0] == 'P' && p[1] == 'O' && p[2] == 'S' && p[3] == 'T' && p[4] == ' ')
        return 3;
    if (p[0] == 'P' && p[1] == 'U' && p[2] == 'T' && p[3] == ' ')
        return 4;
    if (p[0] == 'D' && p[1] == 'E' && p[2] == 'L' && p[3] == 'E' && p[4] == 'T' && p[5] == 'E' && p[6] == ' ')
        return 5;
    if (p[0] == 'P' && p[1] == 'A' && p[2] == 'T' && p[3] == 'C' && p[4] == 'H' && p[5] == ' ')
        return 6;
    if (p[0] == 'O' && p[1] == 'P' && p[2] == 'T' && p[3] == 'I' && p[4] == 'O' && p[5] == 'N' && p[6] == 'S' && p[7] == ' ')
        return 7;
    if (p[0] == 'C' && p[1] == 'O' && p[2] == 'N' && p[3] == 'N' && p[4] == 'E' && p[5] == 'C' && p[6] == 'T' && p[7] == ' ')
        return 8;
    if (p[0] == 'T' && p[1] == 'R' && p[2] == 'A' && p[3] == 'C' && p[4] == 'E' && p[5] == ' ')
        return 9;
    return 0;
}

/* 0: no answer; else its status code */
static __always_inline u16 code_of(const char *p)
{
    if (p[0] != 'H' || p[1] != 'T' || p[2] != 'T' || p[3] != 'P' || p[4] != '/' || p[5] != '1' || p[6] != '.' || p[8] != ' ')
        return 0;
    if (p[9] < '1' || p[9] > '9' || p[10] < '0' || p[10] > '9' || p[11] < '0' || p[11] > '9')
        return 0;
    return (p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0');
}

static __always_inline void reset(struct connection_key *key)
{
    struct connection *c = bpf_map_lookup_elem(&connections, key);
    if (!c)
        return;
    if (c->open)
        end_request(key->target, c, UNANSWERED, 0);
    bpf_map_delete_elem(&connections, key);
}

static __always_inline void on_request(struct connection_key *key, u8 method, u8 role, u32 seq, u64 now)
{
    struct connection next = {.began = now, .request_seq = seq, .method = method, .role = role, .open = 1};
    struct connection *c = bpf_map_lookup_elem(&connections, key);
    if (c) {
        if ((s32)(seq - c->request_seq) <= 0)
            return; /* sent again */
        if (c->open) {
            c->request_seq = seq;
            add_unparsed(key->target, UNPARSED_PIPELINED);
            return;
        }
        next.answer_seq = c->answer_seq;
        next.answered = c->answered;
    }
    if (bpf_map_update_elem(&connections, key, &next, BPF_ANY))
        drop();
}

static __always_inline void on_answer(struct connection_key *key, u16 code, u32 seq, u64 now)
{
    struct connection *c = bpf_map_lookup_elem(&connections, key);
    if (!c) {
        add_unparsed(key->target, UNPARSED_JOINED);
        return;
    }
    if (c->answered && (s32)(seq - c->answer_seq) <= 0)
        return; /* sent again */
    if (code < 200 && code != 101)
        return; /* not final: the answer is still to come */
    if (!c->open)
        return;
    c->answer_seq = seq;
    c->answered = 1;
    end_request(key->target, c, code, now);
}

SEC("socket")
int http(struct __sk_buff *skb)
{
    if (skb->pkt_type == OTHERHOST || (skb->ifindex == LOOPBACK && skb->pkt_type == OUTGOING))
        return 0; /* loopback shows every packet twice */

    struct connection_key forth = {.target = skb->cb[0]}, back = forth;
    struct side from = {}, to = {};
    u32 tcp, end;
    if (skb->protocol == bpf_htons(0x0800)) {
        struct {
            u8 version_length, tos;
            u16 total, id, fragment;
            u8 ttl, protocol;
            u16 checksum;
            u32 source, destination;
        } ip;
        if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.protocol != 6 || (ip.fragment & bpf_htons(0x1fff)))
            return 0;
        from.low = ip.source;
        to.low = ip.destination;
        tcp = (ip.version_length & 15) * 4;
        end = bpf_ntohs(ip.total);
        if (end == 0)
            end = skb->len; /* a segment over 64 KiB that is cut up later */
    } else if (skb->protocol == bpf_htons(0x86dd)) {
        struct {
            u32 flow;
            u16 payload;
            u8 next, hops;
            u64 source[2], destination[2];
        } ip;
        if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.next != 6)
            return 0;
        from.high = ip.source[0];
        from.low = ip.source[1];
        to.high = ip.destination[0];
        to.low = ip.destination[1];
        tcp = sizeof(ip);
        end = ip.payload ? tcp + bpf_ntohs(ip.payload) : skb->len;
    } else
        return 0;

    struct {
        u16 source, destination;
        u32 seq, ack;
        u8 length, flags;
    } header;
    if (bpf_skb_load_bytes(skb, tcp, &header, 14))
        return 0;
    u8 fin = header.flags & 1, syn = header.flags & 2, rst = header.flags & 4;
    u32 payload = tcp + (header.length >> 4) * 4;
    char text[12] = {};
    u8 method = 0;
    u16 code = 0;
    if (end >= payload + sizeof(text) && !bpf_skb_load_bytes(skb, payload, text, sizeof(text))) {
        method = method_of(text);
        if (!method)
            code = code_of(text);
    }
    if (!method && !code && !fin && !syn && !rst)
        return 0;

    from.port = header.source;
    to.port = header.destination;
    forth.client = from;
    forth.server = to;
    back.client = to;
    back.server = from;
    u64 now = bpf_ktime_get_ns();
    u32 seq = bpf_ntohl(header.seq);
    if (method)
        on_request(&forth, method, skb->pkt_type == OUTGOING ? CLIENT : SERVER, seq, now);
    else if (code)
        on_answer(&back, code, seq, now);
    if (rst || syn) {
        reset(&forth); /* a new connection takes the place of an old one with the same ports */
        reset(&back);
    } else if (fin) {
        reset(&back); /* the server closes */
        struct connection *c = bpf_map_lookup_elem(&connections, &forth);
        if (c && !c->open)
            bpf_map_delete_elem(&connections, &forth);
    }
    return 0;
}
