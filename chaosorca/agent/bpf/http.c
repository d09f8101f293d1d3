/*
 * Follow the HTTP/1.x requests of containers in the kernel, by a socket filter on packet sockets in the network namespace of each
 * one.
 *
 * The sockets have the type SOCK_DGRAM, so every packet starts at its network header whatever the device. The filter always returns
 * 0, so no packet is queued or copied to user space. The payload that is kept stays in maps that user space does not read: for each
 * connection the start of a line that was cut in two, and for each processor the last piece that it has parsed.
 *
 * A request ends with its first final response (any but 1xx, or 101). It ends without one ("none") when the server closes, either
 * side resets, or the request is too old (`sweep`). Bytes are followed by their TCP sequence numbers. Retransmitted bytes are
 * ignored, and a hole within a body does no harm. After any other hole the connection is out of step until a packet begins with a
 * message.
 *
 * Each container has its own filter (http_target.c), which makes a tail call to this program with the container's number in cb[0].
 */

#include "common.h"

#define HTTP_LOAD(source, offset, to, size) bpf_skb_load_bytes(source, offset, to, size)
#include "http_connection.h"

#define OUTGOING 4
#define TCP 6
#define HOP_BY_HOP 0
#define FIN 1
#define SYN 2
#define RST 4
#define ACK 16
#define POLLS_MAX 16384 /* some 50 microseconds */

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, fresh, u32, struct connection, 1);
PROGRAMS(parser, 1); /* this program, for the filters' tail calls */

struct packet {
    struct connection_key key;
    u32 seq;
    u32 at;  /* the offset of the payload */
    u32 end; /* the offset of its end */
    bool from_one;
    u8 flags;
};

/* Read the IP and TCP headers. Return false if the packet has neither payload nor a relevant flag. */
static __always_inline bool read_headers(struct __sk_buff *skb, struct packet *packet)
{
    struct end from = {}, to = {};
    u32 tcp, end;
    if (skb->protocol == bpf_htons(0x0800)) {
        struct {
            u8 version_length, tos;
            u16 total, id, fragment;
            u8 ttl, protocol;
            u16 checksum;
            u32 source, destination;
        } ip;
        if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.protocol != TCP || (ip.fragment & bpf_htons(0x1fff)))
            return false;
        from.low = ip.source;
        to.low = ip.destination;
        tcp = (ip.version_length & 15) * 4;
        end = bpf_ntohs(ip.total);
        if (end == 0)
            end = skb->len; /* a segment over 64 KiB that is split later */
    } else if (skb->protocol == bpf_htons(0x86dd)) {
        struct {
            u32 flow;
            u16 payload;
            u8 next, hops;
            u64 source[2], destination[2];
        } ip;
        if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
            return false;
        tcp = sizeof(ip);
        if (ip.next == HOP_BY_HOP) { /* segments over 64 KiB may have one */
            struct {
                u8 next, length;
            } options;
            if (bpf_skb_load_bytes(skb, tcp, &options, sizeof(options)))
                return false;
            ip.next = options.next;
            tcp += (options.length + 1) * 8;
        }
        if (ip.next != TCP)
            return false;
        from.high = ip.source[0];
        from.low = ip.source[1];
        to.high = ip.destination[0];
        to.low = ip.destination[1];
        end = ip.payload ? sizeof(ip) + bpf_ntohs(ip.payload) : skb->len;
    } else
        return false;

    struct {
        u16 source, destination;
        u32 seq, ack;
        u8 length, flags;
    } header;
    if (bpf_skb_load_bytes(skb, tcp, &header, 14))
        return false;
    packet->flags = header.flags;
    packet->at = tcp + (header.length >> 4) * 4;
    packet->end = end;
    if (packet->at >= end && !(header.flags & (FIN | SYN | RST)))
        return false;
    packet->seq = bpf_ntohl(header.seq);
    packet->from_one = key_of(&packet->key, &from, &to, header.source, header.destination);
    return true;
}

/* Begin to follow a connection at a packet from its client. */
static __always_inline struct connection *follow(const struct packet *packet, u8 role, bool joined)
{
    u32 zero = 0;
    struct connection *c = bpf_map_lookup_elem(&fresh, &zero);
    if (!c)
        return NULL;
    c->client_is_one = packet->from_one;
    c->exchange.role = role;
    c->exchange.streams[ANSWERS].flags = HTTP_ANSWERS;
    c->exchange.streams[ANSWERS].phase = joined ? HTTP_OUT_OF_STEP : HTTP_FIRST_LINE;
    if (bpf_map_update_elem(&connections, &packet->key, c, BPF_ANY))
        return NULL;
    return bpf_map_lookup_elem(&connections, &packet->key);
}

/* Whether missing bytes contain more than parts of a body. */
static __always_inline bool matters(const struct http_stream *stream, s32 missed)
{
    return missed > 0 && stream->phase < HTTP_UNTIL_CLOSE && (stream->phase < HTTP_BODY || stream->left < (u32)missed);
}

struct awaited {
    u32 *next;
    u32 seq;
};

static long has_arrived(UNUSED u32 index, struct awaited *awaited)
{
    return (s32)(awaited->seq - *(volatile u32 *)awaited->next) <= 0;
}

enum taken { TAKEN, BUSY, ENDED };

/* Packets that are sent on two processors overtake each other by some microseconds. If the previous packet is still missing,
 * release the lock of the connection and wait until another processor has handled it. */
static __always_inline enum taken take_in_order(struct connection *c, const struct packet *packet, u32 direction)
{
    struct exchange *e = &c->exchange;
    if (!take(e))
        return BUSY;
    if (packet->flags & RST || e->ignored || !c->seq_valid[direction] ||
        !matters(&e->streams[direction], packet->seq - c->next[direction]))
        return TAKEN;
    release(e);
    struct awaited awaited = {&c->next[direction], packet->seq};
    bpf_loop(POLLS_MAX, has_arrived, &awaited, 0);
    if (!take(e))
        return BUSY;
    if (bpf_map_lookup_elem(&connections, &packet->key) == c)
        return TAKEN;
    release(e); /* the entry may belong to another connection now */
    return ENDED;
}

static __always_inline void read_payload(struct __sk_buff *skb, struct reading *reading, struct connection *c,
                                         struct packet *packet)
{
    struct exchange *e = &c->exchange;
    u32 direction = reading->direction & 1;
    struct http_stream *stream = &e->streams[direction];
    u32 at = packet->at, end = packet->end, next = c->next[direction];
    bool is_retransmitted = false;
    if (c->seq_valid[direction]) {
        s32 ahead = (s32)(packet->seq - next);
        if (ahead < 0) { /* retransmitted, but the end of the packet may be new */
            if ((u32)-ahead >= end - at)
                return;
            at += (u32)-ahead;
            is_retransmitted = true;
        } else if (matters(stream, ahead)) {
            lose(reading, REASON_REORDERED);
        } else if (stream->phase == HTTP_BODY || stream->phase == HTTP_CHUNK) {
            stream->left -= (u32)ahead;
        }
    }
    c->next[direction] = packet->seq + (end - packet->at);
    c->seq_valid[direction] = 1;
    if (at >= end)
        return;
    if (stream->phase == HTTP_UNTIL_CLOSE)
        return;
    if ((stream->phase == HTTP_BODY || stream->phase == HTTP_CHUNK) && stream->left > end - at) {
        stream->left -= end - at;
        return;
    }
    if (!e->spoken || stream->phase == HTTP_OUT_OF_STEP) {
        u32 seen = recognise(skb, at, end);
        if (seen == HTTP_TLS && !e->spoken) {
            e->ignored = TLS_UNSEEN;
            stream->began = bpf_ktime_get_ns();
            add_tls_unseen(reading->target, 1);
            return;
        }
        if (stream->phase == HTTP_OUT_OF_STEP) {
            if (is_retransmitted || seen != (direction == REQUESTS ? HTTP_REQUEST : HTTP_ANSWER))
                return;
            stream->phase = HTTP_FIRST_LINE;
        }
    }
    u32 zero = 0;
    reading->window = bpf_map_lookup_elem(&windows, &zero);
    if (reading->window)
        read_piece(reading, at, end, bpf_ktime_get_ns());
}

/* Count a TLS connection that ends before its plaintext was seen. */
static __always_inline void end_tls_unseen(struct reading *reading)
{
    if (reading->exchange->ignored != TLS_UNSEEN)
        return;
    reading->exchange->ignored = IGNORED;
    add(&reading->figures->unparsed[REASON_TLS], 1);
    add_tls_unseen(reading->target, -1);
}

SEC("socket")
int http(struct __sk_buff *skb)
{
    struct packet packet;
    if (!read_headers(skb, &packet))
        return 0;
    u32 target = packet.key.target = skb->cb[0];
    u8 role = skb->pkt_type == OUTGOING ? CLIENT : SERVER;
    struct figures *figures = bpf_map_lookup_elem(&per_target, &target);
    if (!figures)
        return 0;
    struct reading reading = {.source = skb, .figures = figures, .target = target};
    struct connection *c = bpf_map_lookup_elem(&connections, &packet.key);
    if ((packet.flags & (SYN | ACK)) == SYN) {
        if (c && take(&c->exchange)) { /* it replaces an old connection with the same ports */
            reading.exchange = &c->exchange;
            abandon(&reading);
            end_tls_unseen(&reading);
            release(&c->exchange);
        }
        c = follow(&packet, role, false);
    } else if (!c) {
        u32 seen = recognise(skb, packet.at, packet.end);
        if (seen == HTTP_ANSWER)
            add(&figures->unparsed[REASON_JOINED], 1);
        if (seen != HTTP_REQUEST && seen != HTTP_TLS && seen != HTTP_TWO)
            return 0;
        c = follow(&packet, role, true);
        if (c && seen == HTTP_TWO) {
            add(&figures->unparsed[REASON_HTTP_2], 1);
            c->exchange.ignored = IGNORED;
        }
    }
    if (packet.flags & SYN) /* it occupies one sequence number */
        packet.seq++;
    u32 direction = reading.direction = c && packet.from_one == c->client_is_one ? REQUESTS : ANSWERS;
    enum taken taken = c ? take_in_order(c, &packet, direction) : BUSY;
    if (taken == ENDED)
        return 0; /* its waiting requests have been counted */
    if (taken == BUSY) {
        add(&figures->dropped, 1);
        return 0;
    }

    struct exchange *e = reading.exchange = &c->exchange;
    bool over = packet.flags & RST;
    if (!e->ignored && !over)
        read_payload(skb, &reading, c, &packet);
    if (packet.flags & FIN) {
        c->closed[direction] = 1;
        over |= c->closed[!direction];
    }
    if (over || (packet.flags & FIN && direction == ANSWERS))
        abandon(&reading);
    if (over)
        end_tls_unseen(&reading);
    release(e);
    if (over)
        bpf_map_delete_elem(&connections, &packet.key);
    return 0;
}

static long sweep_connection(UNUSED void *map, struct connection_key *key, struct connection *c, struct sweep *sweep)
{
    struct exchange *e = &c->exchange;
    u32 target = key->target;
    sweep_exchange(e, target, sweep);
    if (e->ignored != TLS_UNSEEN || e->streams[REQUESTS].began >= sweep->oldest_tls || __sync_val_compare_and_swap(&e->busy, 0, 1))
        return 0;
    struct figures *figures = bpf_map_lookup_elem(&per_target, &target);
    if (figures && e->ignored == TLS_UNSEEN) {
        e->ignored = IGNORED;
        __sync_fetch_and_add(&figures->unparsed[REASON_TLS], 1);
        add_tls_unseen(target, -1);
    }
    release(e);
    return 0;
}

/* Give up on the old requests of all connections, and on TLS connections whose plaintext was not seen in time. */
SEC("syscall")
int sweep(struct sweep *asked)
{
    struct sweep sweep = *asked;
    bpf_for_each_map_elem(&connections, sweep_connection, &sweep, 0);
    asked->connections = sweep.connections;
    return 0;
}
