/*
 * Requests and their responses on one connection, and the counters for them. http_parse.h finds the messages.
 *
 * Requests wait for their responses in a ring, in the order in which they were sent. Messages that cannot be followed are counted
 * by reason. After that, both directions are out of step until a message begins in one of them.
 */

#pragma once

#include "http_parse.h"

#define HTTP_WAITING 32       /* requests that may wait for their responses on a connection */
#define HTTP_MOST_STEPS 65536 /* for a piece: the smallest possible chunks in a packet of 256 KiB */
#define TARGETS 512
#define BY_TLS TARGETS /* requests over TLS count for a target with a number higher by this */
#define WINDOWS 5      /* of each processor: the first for packets, the others for threads, which may preempt each other */
#define UNANSWERED 0
#define TRIES_MAX 65536 /* at most a millisecond: the host may suspend a virtual processor that holds the lock */

enum role { SERVER, CLIENT };
enum direction { REQUESTS, ANSWERS };
enum reason { REASON_JOINED, REASON_PIPELINED, REASON_REORDERED, REASON_MALFORMED, REASON_HTTP_2, REASON_TLS, REASONS };

/* Why a connection is not followed: it is not HTTP/1.x, or no longer; it is TLS, and its plaintext was not seen yet. */
enum { IGNORED = 1, TLS_UNSEEN };

/* A waiting request is one number, so that it can be exchanged atomically: the time at which it began, and in the lowest bits */
#define WAITING_METHOD 15
#define WAITING_GIVEN_UP 16 /* it is too old, and has been counted */
#define WAITING_BITS 31

/* Fields that the processors of both directions write are together at the beginning, and each stream has a cache line of its own in
 * the map of connections (http.c). Cache lines that move between processors are most of what a request costs. */
struct exchange {
    u32 busy; /* a spin lock */
    u8 role;
    u8 ignored;    /* why it is not followed; 0: it is */
    u8 spoken;     /* there has been a message */
    u8 first;      /* the index of the first waiting request in the ring, modulo 256 */
    u8 last;       /* the index after the last one */
    u8 unfollowed; /* requests after the waiting ones, for which the ring had no room */
    u8 abandoned;  /* requests that were counted as not followed, but whose responses may still come */
    u8 pad[5];
    u64 waiting[HTTP_WAITING];
    u64 pad2;
    struct http_stream streams[2];
};

struct count_key {
    u32 target;
    u16 code;
    u8 role;
    u8 method;
};

struct duration {
    u64 sum;
    u64 slots[SLOTS];
};

struct figures {
    u64 begun[2]; /* by role: requests that were put into a ring */
    u64 ended[2]; /* requests that left it; the others are in flight, or were evicted with their connection */
    u64 swept[2]; /* requests that all sweeps together have found in rings */
    u64 unparsed[REASONS];
    u64 dropped; /* events without room in a map, or of a connection that another processor had locked */
    struct duration durations[2];
};

_Static_assert(sizeof(struct exchange) == 408, "monitors/http.py and monitors/tls.py");
_Static_assert(sizeof(struct count_key) == 8 && offsetof(struct count_key, target) == 0, "`counts` in monitors/http.py");
_Static_assert(offsetof(struct count_key, code) == 4 && offsetof(struct count_key, role) == 6, "`counts` in monitors/http.py");
_Static_assert(offsetof(struct count_key, method) == 7, "`counts` in monitors/http.py");
_Static_assert(sizeof(struct duration) == 8 + SLOTS * 8 && offsetof(struct duration, slots) == 8, "monitors/http.py");
_Static_assert(sizeof(struct figures) == 7 * 8 + REASONS * 8 + 2 * sizeof(struct duration), "`per_target` in monitors/http.py");
_Static_assert(offsetof(struct figures, begun) == 0 && offsetof(struct figures, ended) == 16, "`per_target` in monitors/http.py");
_Static_assert(offsetof(struct figures, swept) == 32 && offsetof(struct figures, unparsed) == 48,
               "`per_target` in monitors/http.py");
_Static_assert(offsetof(struct figures, dropped) == 96 && offsetof(struct figures, durations) == 104, "as above");

/* Per-processor maps: a connection moves between processors, but its counters need not. */
MAP(BPF_MAP_TYPE_PERCPU_HASH, counts, struct count_key, u64, 4096);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, per_target, u32, struct figures, 2 * TARGETS);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, windows, u32, struct http_window, WINDOWS);

/* No packet preempts the handling of another packet on the same processor. A thread may preempt another thread. */
static __always_inline void add(u64 *counter, u64 number)
{
#ifdef HTTP_READ_BY_THREADS
    __sync_fetch_and_add(counter, number);
#else
    *counter += number;
#endif
}

static __always_inline u64 *count_of(u32 target, u8 role, u64 waiting, u16 code)
{
    struct count_key key = {.target = target, .code = code, .role = role, .method = waiting & WAITING_METHOD};
    u64 zero = 0;
    return lookup_or_init(&counts, &key, &zero);
}

static __always_inline void count_request(struct figures *figures, u32 target, u8 role, u64 waiting, u16 code)
{
    u64 *count = count_of(target, role, waiting, code);
    add(count ? count : &figures->dropped, 1);
    add(&figures->ended[role & 1], 1);
}

/* A piece that is being read, and its connection and target. */
struct reading {
    void *source;
    struct figures *figures;
    struct exchange *exchange;
    struct http_window *window;
    u32 target;
    u32 direction;
    u64 given_up; /* requests that `lose` has taken from the ring */
};

static long try_to_take(UNUSED u32 index, struct exchange **e)
{
    return __sync_val_compare_and_swap(&(*e)->busy, 0, 1) == 0;
}

/* Lock a connection. A processor that does not get the lock drops its packet, which is found as a hole later. */
static __always_inline bool take(struct exchange *e)
{
    if (__sync_val_compare_and_swap(&e->busy, 0, 1) == 0)
        return true;
    return bpf_loop(TRIES_MAX, try_to_take, &e, 0) < TRIES_MAX;
}

static __always_inline void release(struct exchange *e)
{
    __sync_lock_test_and_set(&e->busy, 0);
}

static __always_inline u64 take_first(struct exchange *e)
{
    u64 one = __sync_lock_test_and_set(&e->waiting[e->first % HTTP_WAITING], 0);
    e->first++;
    return one & WAITING_GIVEN_UP ? 0 : one;
}

static long abandon_one(UNUSED u32 index, struct reading *reading)
{
    struct exchange *e = reading->exchange;
    if (e->first == e->last)
        return 1;
    u64 one = take_first(e);
    if (one)
        count_request(reading->figures, reading->target, e->role, one, UNANSWERED);
    return 0;
}

/* End all waiting requests without a response. */
static __noinline void abandon(struct reading *reading)
{
    struct exchange *e = reading->exchange;
    if (e->first != e->last)
        bpf_loop(HTTP_WAITING, abandon_one, reading, 0);
    e->unfollowed = e->abandoned = 0;
}

static long lose_one(UNUSED u32 index, struct reading *reading)
{
    struct exchange *e = reading->exchange;
    if (e->first == e->last)
        return 1;
    if (take_first(e))
        reading->given_up++;
    return 0;
}

static __always_inline void fall_out_of_step(struct http_stream *stream)
{
    stream->phase = HTTP_OUT_OF_STEP;
    stream->kept = 0;
}

/* Give up on all waiting requests, since the next response cannot be assigned to one of them. */
static __noinline void lose(struct reading *reading, u32 reason)
{
    struct exchange *e = reading->exchange;
    reading->given_up = 0;
    bpf_loop(HTTP_WAITING, lose_one, reading, 0);
    u64 lost = reading->given_up;
    add(&reading->figures->ended[e->role & 1], lost);
    u64 unparsed = lost + (reading->direction == REQUESTS);
    if (reason < REASONS && (unparsed || !e->abandoned)) /* otherwise all of them have been counted before */
        add(&reading->figures->unparsed[reason], unparsed ? unparsed : 1);
    e->abandoned = (u8)(e->abandoned + e->unfollowed + unparsed);
    e->unfollowed = 0;
    fall_out_of_step(&e->streams[REQUESTS]);
    fall_out_of_step(&e->streams[ANSWERS]);
}

static __always_inline void on_request(struct reading *reading)
{
    struct figures *figures = reading->figures;
    struct exchange *e = reading->exchange;
    u8 method = e->streams[REQUESTS].method;
    e->spoken = 1;
    if (e->unfollowed || (u8)(e->last - e->first) >= HTTP_WAITING) {
        /* Responses to HEAD and CONNECT have no body, so the end of one can only be found with its method. */
        if (method == HTTP_HEAD || method == HTTP_CONNECT || e->unfollowed == 255) {
            lose(reading, REASON_PIPELINED);
        } else {
            e->unfollowed++;
            add(&figures->unparsed[REASON_PIPELINED], 1);
        }
        return;
    }
    if (e->first == e->last) {
        e->first = e->last = 0; /* this keeps to the cache line that both processors write anyway */
        e->abandoned = 0;
    }
    e->waiting[e->last % HTTP_WAITING] = (e->streams[REQUESTS].began & ~(u64)WAITING_BITS) | method;
    e->last++;
    add(&figures->begun[e->role & 1], 1);
}

static __always_inline void on_answer(struct reading *reading)
{
    struct figures *figures = reading->figures;
    struct exchange *e = reading->exchange;
    struct http_stream *stream = &e->streams[ANSWERS];
    u16 code = stream->code;
    e->spoken = 1;
    if (code < 200 && code != 101)
        return; /* not a final response */
    if (e->first == e->last) {
        if (e->unfollowed)
            e->unfollowed--;
        else if (e->abandoned)
            e->abandoned--;
        else
            add(&figures->unparsed[REASON_JOINED], 1);
        return;
    }
    u64 one = __sync_lock_test_and_set(&e->waiting[e->first % HTTP_WAITING], 0);
    u8 method = one & WAITING_METHOD;
    e->first++;
    if (method == HTTP_HEAD)
        stream->flags |= HTTP_BODILESS;
    if (code == 101 || (method == HTTP_CONNECT && code < 300))
        e->ignored = IGNORED; /* the connection switches to another protocol */
    if (one & WAITING_GIVEN_UP)
        return;
    count_request(figures, reading->target, e->role, one, code);
    u64 began = one & ~(u64)WAITING_BITS;
    u64 took = stream->began > began ? stream->began - began : 0;
    struct duration *duration = &figures->durations[e->role & 1];
    add(&duration->slots[slot_of(took)], 1);
    add(&duration->sum, took);
}

static long read_on(UNUSED u32 index, struct reading *reading)
{
    struct exchange *e = reading->exchange;
    struct figures *figures = reading->figures;
    enum http_event event = http_step(&e->streams[reading->direction & 1], reading->window, reading->source);
    if (event == HTTP_ON)
        return 0;
    if (event == HTTP_ALL_READ)
        return 1;
    if (event == HTTP_REQUEST) {
        on_request(reading);
        return 0;
    }
    if (event == HTTP_ANSWER) {
        on_answer(reading);
        return e->ignored ? 1 : 0;
    }
    if (event == HTTP_TWO) {
        add(&figures->unparsed[REASON_HTTP_2], 1);
        e->ignored = IGNORED;
    } else if (e->spoken) {
        lose(reading, REASON_MALFORMED);
    } else {
        e->ignored = IGNORED; /* this is not HTTP */
    }
    return 1;
}

/* Read a piece of one direction of a connection: bytes `at` to `end` of the source of HTTP_LOAD. */
static __always_inline void read_piece(struct reading *reading, u32 at, u32 end, u64 now)
{
    http_begin(&reading->exchange->streams[reading->direction & 1], reading->window, at, end, now);
    if (bpf_loop(HTTP_MOST_STEPS, read_on, reading, 0) == HTTP_MOST_STEPS)
        lose(reading, REASON_MALFORMED);
}

/* The header of a frame of HTTP/2 (RFC 9113). */
enum { HTTP_FRAME_HEADER = 9, HTTP_OF_PRIORITY = 5, HTTP_LONGEST_FRAME = 1 << 14, HTTP_LAST_STREAM = (1 << 24) - 1 };
enum { HTTP_DATA, HTTP_HEADERS_FRAME, HTTP_PING = 6, HTTP_WINDOW_UPDATE = 8 };
enum { HTTP_END_STREAM = 1, HTTP_END_HEADERS = 4, HTTP_PRIORITY = 0x20, HTTP_OF_HEADERS = 0x25 };

struct http_frame {
    u32 length; /* of its payload */
    u32 stream;
    u8 type;
    u8 flags;
};

static __always_inline struct http_frame http_frame_of(const u8 *header)
{
    return (struct http_frame){
        .length = header[0] << 16 | header[1] << 8 | header[2],
        .type = header[3],
        .flags = header[4],
        .stream = (u32)header[5] << 24 | header[6] << 16 | header[7] << 8 | header[8],
    };
}

/* Whether bytes are a frame of a frequent type, in a form that other protocols hardly have: no padding, a low stream. */
static __always_inline bool http_is_frame(const struct http_frame *frame)
{
    if (frame->length == 0 || frame->length > HTTP_LONGEST_FRAME || frame->stream > HTTP_LAST_STREAM)
        return false;
    switch (frame->type) {
    case HTTP_HEADERS_FRAME:
        return frame->stream & 1 && frame->flags & HTTP_END_HEADERS && !(frame->flags & ~HTTP_OF_HEADERS);
    case HTTP_PING:
        return frame->stream == 0 && frame->length == 8 && frame->flags <= 1;
    case HTTP_WINDOW_UPDATE:
        return frame->length == 4 && frame->flags == 0;
    }
    return false;
}

/* Whether a piece of a connection that predates monitoring is HTTP/2: one frame, and then the end or another frame. */
static __always_inline bool http_is_two(void *source, u32 at, u32 end, const u8 *bytes)
{
    struct http_frame frame = http_frame_of(bytes);
    if (!http_is_frame(&frame))
        return false;
    u8 first = frame.flags & HTTP_PRIORITY ? bytes[HTTP_FRAME_HEADER + HTTP_OF_PRIORITY] : bytes[HTTP_FRAME_HEADER];
    /* The method or status is indexed in a table of HPACK or is added to one (RFC 7541). */
    if (frame.type == HTTP_HEADERS_FRAME && first < 0x40)
        return false;
    at += HTTP_FRAME_HEADER + frame.length;
    if (at == end)
        return true;
    u8 header[HTTP_FRAME_HEADER];
    if (at > end || end - at < HTTP_FRAME_HEADER || HTTP_LOAD(source, at, header, sizeof(header)))
        return false;
    struct http_frame next = http_frame_of(header);
    if (frame.type == HTTP_HEADERS_FRAME && next.type == HTTP_DATA)
        return next.stream == frame.stream && next.flags <= HTTP_END_STREAM && next.length <= HTTP_LONGEST_FRAME &&
               (next.length || next.flags);
    return http_is_frame(&next);
}

/* Recognise a piece by its first bytes. HTTP_ON means that they match nothing. */
enum { HTTP_BEGINNING = 32, HTTP_TLS = 16 };

static __always_inline u32 recognise(void *source, u32 at, u32 end)
{
    u8 bytes[HTTP_BEGINNING] = {};
    u32 length = end - at;
    if (at >= end)
        return HTTP_ON;
    if (length > sizeof(bytes))
        length = sizeof(bytes);
    length = ((length - 1) & (sizeof(bytes) - 1)) + 1; /* no change, but shows the verifier that it is not 0 */
    if (HTTP_LOAD(source, at, bytes, length))
        return HTTP_ON;
    if (bytes[0] >= 0x14 && bytes[0] <= 0x17 && bytes[1] == 3 && bytes[2] <= 4)
        return HTTP_TLS;
    if (length >= 12 && http_code_of(bytes))
        return HTTP_ANSWER;
    if (length >= 16 && http_method_of(bytes))
        return HTTP_REQUEST;
    if (length > HTTP_FRAME_HEADER && http_is_two(source, at, end, bytes))
        return HTTP_TWO;
    return HTTP_ON;
}

/* The argument and the result of `sweep` and `sweep_tls`. */
struct sweep {
    u64 oldest;      /* give up on requests that began earlier */
    u64 oldest_tls;  /* give up on TLS connections that began earlier and whose plaintext was not seen */
    u64 connections; /* result: the number of connections */
};

_Static_assert(sizeof(struct sweep) == 24 && offsetof(struct sweep, oldest) == 0, "`SWEEP` in monitors/tls.py");
_Static_assert(offsetof(struct sweep, oldest_tls) == 8 && offsetof(struct sweep, connections) == 16, "`SWEEP` in monitors/tls.py");

/* Give up on the old requests of a connection. A response may arrive meanwhile: the side that exchanges the entry counts it. */
static __always_inline void sweep_exchange(struct exchange *e, u32 target, struct sweep *sweep)
{
    struct figures *figures = bpf_map_lookup_elem(&per_target, &target);
    sweep->connections++;
    if (!figures)
        return;
    for (u32 i = 0; i < HTTP_WAITING; i++) {
        u64 one = e->waiting[i];
        if (one == 0 || one & WAITING_GIVEN_UP)
            continue;
        u8 role = e->role & 1;
        if (one < sweep->oldest && __sync_val_compare_and_swap(&e->waiting[i], one, one | WAITING_GIVEN_UP) == one) {
            u64 *count = count_of(target, role, one, UNANSWERED);
            __sync_fetch_and_add(count ? count : &figures->dropped, 1); /* a packet may preempt this */
            __sync_fetch_and_add(&figures->ended[role], 1);
        } else {
            figures->swept[role]++;
        }
    }
}
