/*
 * Requests and their answers on one connection, and what is counted of them. See http_parse.h for how messages are found.
 *
 * Requests wait for their answers in a ring, in the order in which they were sent. What cannot be followed is counted by reason;
 * then both directions are out of step until one of them is seen to begin a message again.
 */

#pragma once

#include "http_parse.h"

#define HTTP_WAITING 32      /* requests that may wait for their answers on a connection */
#define HTTP_MOST_STEPS 65536 /* for a piece: the smallest chunks there are, in a packet of 256 KiB */
#define TARGETS 512
#define BY_TLS TARGETS /* what came by TLS is counted as if for another target, by this much higher */
#define WINDOWS 5      /* of each processor: the first for packets, the others for threads that may interrupt each other */
#define UNANSWERED 0
#define MOST_TRIES 65536 /* a millisecond at most: a virtual machine's processor may have to wait for its host while it has something */

enum role { SERVER, CLIENT };
enum direction { REQUESTS, ANSWERS };
enum reason { REASON_JOINED, REASON_PIPELINED, REASON_REORDERED, REASON_MALFORMED, REASON_HTTP_2, REASON_TLS, REASONS };

/* Why a connection is not followed: it is no HTTP/1.x, or no longer; it is TLS, and nobody has said yet that its library tells of it. */
enum { IGNORED = 1, TLS_UNSEEN };

/* A request that waits, as one number that is taken as a whole: when it began, and in the lowest bits */
#define WAITING_METHOD 15
#define WAITING_GIVEN_UP 16 /* it is too old, and counted already */
#define WAITING_BITS 31

/* What the processors of both directions write lies together at the beginning, and each stream in a cache line of its own, as the
 * kernel's map of connections (http.c) has them: lines that go back and forth between processors are most of what a request costs. */
struct exchange {
    u32 busy; /* one processor at a time */
    u8 role;
    u8 ignored; /* why it is not followed, if it is not */
    u8 spoken;  /* there has been a message */
    u8 first;   /* of those waiting: where in the ring, modulo 256 */
    u8 last;
    u8 unfollowed; /* requests after those waiting that the ring had no room for */
    u8 abandoned;   /* requests that were counted as not followed, but whose answers may still come */
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
    u64 begun[2]; /* by role: requests that were put into a ring, */
    u64 ended[2]; /* and that left it; the rest is in flight, or gone with a connection that made room for another */
    u64 swept[2]; /* and that were found in one, in all that was looked */
    u64 unparsed[REASONS];
    u64 dropped; /* events without room in a map, or that two processors had at once */
    struct duration durations[2];
};

/* Each processor counts for itself: what belongs to a connection goes back and forth between them, what is counted need not. */
MAP(BPF_MAP_TYPE_PERCPU_HASH, counts, struct count_key, u64, 4096);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, per_target, u32, struct figures, 2 * TARGETS);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, windows, u32, struct http_window, WINDOWS);

/* No packet interrupts the reading of another on the same processor. A thread does. */
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

/* What is being read, and for whom. */
struct reading {
    void *source;
    struct figures *figures;
    struct exchange *exchange;
    struct http_window *window;
    u32 target;
    u32 direction;
    u64 given_up; /* requests of the ring, since it was last asked */
};

static long try_to_take(UNUSED u32 index, struct exchange **e)
{
    return __sync_val_compare_and_swap(&(*e)->busy, 0, 1) == 0;
}

/* One processor at a time reads a connection's packets. Who does not get it leaves his packet out, which is found as a hole. */
static __always_inline bool take(struct exchange *e)
{
    if (__sync_val_compare_and_swap(&e->busy, 0, 1) == 0)
        return true;
    return bpf_loop(MOST_TRIES, try_to_take, &e, 0) < MOST_TRIES;
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

/* Nothing that waits will be answered. */
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

/* From here on it is not known which request an answer belongs to. */
static __noinline void lose(struct reading *reading, u32 reason)
{
    struct exchange *e = reading->exchange;
    reading->given_up = 0;
    bpf_loop(HTTP_WAITING, lose_one, reading, 0);
    u64 lost = reading->given_up;
    add(&reading->figures->ended[e->role & 1], lost);
    u64 told = lost + (reading->direction == REQUESTS);
    if (reason < REASONS && (told || !e->abandoned)) /* else all that waited was told of before */
        add(&reading->figures->unparsed[reason], told ? told : 1);
    e->abandoned = (u8)(e->abandoned + e->unfollowed + told);
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
        /* Answers to HEAD end where others do not. */
        if (method == HTTP_HEAD || method == HTTP_CONNECT || e->unfollowed == 255) {
            lose(reading, REASON_PIPELINED);
        } else {
            e->unfollowed++;
            add(&figures->unparsed[REASON_PIPELINED], 1);
        }
        return;
    }
    if (e->first == e->last) {
        e->first = e->last = 0; /* where the rest of what both processors write is */
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
        return; /* not final: the answer is still to come */
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
        e->ignored = IGNORED; /* another protocol from here on */
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
        e->ignored = IGNORED; /* it never was HTTP */
    }
    return 1;
}

/* Read a piece of one direction of a connection: bytes `at` to `end` of what HTTP_LOAD reads. */
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
    u32 length; /* of what is behind its header */
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

/* Whether it is of a kind that is sent again and again, and can hardly be anything else: without padding, and of a stream of less than
 * 16 million. */
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

/* Whether a piece of a connection that was not seen to begin is HTTP/2: a frame, and nothing behind it or another one. */
static __always_inline bool http_is_two(void *source, u32 at, u32 end, const u8 *bytes)
{
    struct http_frame frame = http_frame_of(bytes);
    if (!http_is_frame(&frame))
        return false;
    u8 first = frame.flags & HTTP_PRIORITY ? bytes[HTTP_FRAME_HEADER + HTTP_OF_PRIORITY] : bytes[HTTP_FRAME_HEADER];
    if (frame.type == HTTP_HEADERS_FRAME && first < 0x40) /* its method or status is one of HPACK's tables, or goes there (RFC 7541) */
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

/* What the first bytes of a piece say that begins here; HTTP_ON: nothing. */
enum { HTTP_BEGINNING = 32, HTTP_TLS = 16 };

static __always_inline u32 look(void *source, u32 at, u32 end)
{
    u8 bytes[HTTP_BEGINNING] = {};
    u32 length = end - at;
    if (at >= end)
        return HTTP_ON;
    if (length > sizeof(bytes))
        length = sizeof(bytes);
    length = ((length - 1) & (sizeof(bytes) - 1)) + 1; /* the same, but the verifier sees that it is not 0 */
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

/* What user space asks `sweep` and `sweep_tls` for, and is told. */
struct sweep {
    u64 oldest;      /* requests that began before are given up on, */
    u64 oldest_tls;  /* and so are connections that are TLS since before */
    u64 connections; /* that there are */
};

/* Gives up on old requests of a connection. As what ends one may come now, who changes it first counts it. */
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
            __sync_fetch_and_add(count ? count : &figures->dropped, 1); /* packets do interrupt this */
            __sync_fetch_and_add(&figures->ended[role], 1);
        } else {
            figures->swept[role]++;
        }
    }
}
