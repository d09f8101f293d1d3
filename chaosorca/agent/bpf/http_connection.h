/*
 * TCP connections in the network namespaces of containers, as the HTTP program (http.c) follows them by their packets.
 *
 * The packets of a TLS connection are encrypted. The program for OpenSSL's library (tls.c) finds the connection here when its
 * process receives from it.
 */

#pragma once

#include "http_exchange.h"

struct end {
    u64 high;
    u64 low;
};

/* The same key for both directions: `one` is the end with the lower address, or with the lower port if both addresses are equal. */
struct connection_key {
    struct end one;
    struct end other;
    u16 one_port;
    u16 other_port;
    u32 target;
};

struct connection {
    u32 next[2];     /* by direction: the next sequence number */
    u8 seq_valid[2]; /* whether `next` is valid */
    u8 closed[2];    /* a FIN was seen */
    u8 client_is_one;
    u8 pad[3];
    struct exchange exchange;
};

_Static_assert(sizeof(struct connection_key) == 40 && offsetof(struct connection_key, target) == 36, "monitors/http.py");
_Static_assert(sizeof(struct connection) == 424, "`connections` in monitors/http.py");

LRU_HASH(connections, struct connection_key, struct connection, 32768);
ARRAY(tls_unseen, u64, TARGETS); /* TLS connections whose plaintext was not seen so far */

/* Make a key. Ports are in network byte order. Return whether `from` is `one`. */
static __always_inline bool key_of(struct connection_key *key, const struct end *from, const struct end *to, u16 source,
                                   u16 destination)
{
    bool from_one = from->high != to->high ? from->high < to->high
                    : from->low != to->low ? from->low < to->low
                                           : source < destination;
    if (from_one)
        *key = (struct connection_key){*from, *to, source, destination, 0};
    else
        *key = (struct connection_key){*to, *from, destination, source, 0};
    return from_one;
}

static __always_inline void add_tls_unseen(u32 target, s64 number)
{
    u64 *count = bpf_map_lookup_elem(&tls_unseen, &target);
    if (count)
        __sync_fetch_and_add(count, number);
}
