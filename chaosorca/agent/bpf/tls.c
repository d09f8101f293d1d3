/*
 * Follow HTTP/1.x inside TLS, by uprobes on SSL_read, SSL_write and similar functions of the OpenSSL libraries that containers use.
 *
 * The arguments of a thread's call are noted when the function begins. When it returns, the plaintext is read from the program's
 * memory in the way that http.c reads packets. A connection is an SSL object of a process. The side that may read a request before
 * it has written anything is the server. The connection ends with SSL_free or with its process.
 *
 * http.c sees the same connections as encrypted. This program shares its maps. When a process that calls these functions receives
 * from such a connection, its plaintext has been seen; the other TLS connections count as not followed.
 *
 * x86-64 only, because of the registers. Of the kernel's structures only `sock_common` is read. Its first members have had the same
 * offsets since Linux 3.14; the offsets of the others come from the running kernel's own BTF.
 */

#include "common.h"

#define HTTP_READ_BY_THREADS
#define HTTP_LOAD(source, offset, to, size) bpf_probe_read_user(to, size, (char *)(source) + (offset))
#include "http_connection.h"

const volatile u32 SOCK_FAMILY;
const volatile u32 SOCK_V6_DADDR;
const volatile u32 SOCK_V6_RCV_SADDR;

#define SOCK_DADDR 0
#define SOCK_RCV_SADDR 4
#define SOCK_DPORT 12
#define SOCK_NUM 14
#define IPV4 2
#define IPV6 10
#define MAPPED bpf_htonl(0xffff)
#define LONGEST (1u << 30) /* bytes of one read or write */

/* The cookie of a uprobe: the kind of its function. As in code/openssl.py. */
enum { WRITES = 1, LENGTH_APART = 2, IS_FREE = 4, IS_HANDSHAKE = 8 };

/* `struct pt_regs` of x86-64. */
struct registers {
    u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

enum { IN_FLIGHT = 1, NESTED };

/* A thread's call of such a function. */
struct call {
    u64 ssl;
    u64 buffer;
    u64 length_at; /* the address to which the function writes the length */
    u64 began;     /* the time at which a write began */
    u64 stack;     /* the stack pointer at the entry */
    u32 target;
    u16 cookie;
    u16 in_flight; /* 0: it has returned */
};

struct ssl_key {
    u64 ssl;
    u32 process;
    u32 target;
};

struct secured {
    u8 spoken; /* its role is valid */
    u8 missed; /* some plaintext was not read */
    u8 pad[6];
    struct exchange exchange;
};

struct unprobed_key {
    u32 target;
    u32 process;
};

struct unprobed {
    char name[16];
};

_Static_assert(sizeof(struct call) == 48 && offsetof(struct call, target) == 40, "`calls` in monitors/tls.py");
_Static_assert(offsetof(struct call, cookie) == 44 && offsetof(struct call, in_flight) == 46, "`calls` in monitors/tls.py");
_Static_assert(sizeof(struct ssl_key) == 16 && offsetof(struct ssl_key, ssl) == 0, "`secured` in monitors/tls.py");
_Static_assert(offsetof(struct ssl_key, process) == 8 && offsetof(struct ssl_key, target) == 12, "`secured` in monitors/tls.py");
_Static_assert(sizeof(struct secured) == 416, "`secured` in monitors/tls.py");
_Static_assert(sizeof(struct unprobed_key) == 8 && offsetof(struct unprobed_key, target) == 0, "`unprobed` in monitors/tls.py");
_Static_assert(offsetof(struct unprobed_key, process) == 4 && sizeof(struct unprobed) == 16, "`unprobed` in monitors/tls.py");

HASH(tls_cgroups, u64, u32, 4096);
LRU_HASH(calls, u32, struct call, 16384);
LRU_HASH(outer_calls, u32, struct call, 1024); /* TLS inside TLS: the call around the one in `calls` */
LRU_HASH(secured, struct ssl_key, struct secured, 16384);
LRU_HASH(processes, u32, u32, 8192);                             /* processes that have called these functions */
LRU_HASH(unprobed, struct unprobed_key, struct unprobed, 1024);  /* processes that receive by TLS, but have not called them */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, nothing, u32, struct secured, 1); /* zeros, the initial value */

static __always_inline struct secured *begin(const struct ssl_key *key)
{
    u32 zero = 0;
    struct secured *none = bpf_map_lookup_elem(&nothing, &zero);
    return none ? lookup_or_init(&secured, key, none) : NULL;
}

static __always_inline bool reading_for(struct reading *reading, struct secured *c, u32 target)
{
    reading->target = target + BY_TLS;
    reading->figures = bpf_map_lookup_elem(&per_target, &reading->target);
    reading->exchange = &c->exchange;
    return reading->figures;
}

static __always_inline void end(const struct ssl_key *key, struct secured *c)
{
    struct reading reading = {};
    if (reading_for(&reading, c, key->target) && take(&c->exchange)) {
        abandon(&reading);
        release(&c->exchange);
    }
    bpf_map_delete_elem(&secured, key);
}

static __always_inline struct http_window *take_window(void)
{
    for (u32 i = 1; i < WINDOWS; i++) {
        u32 index = i;
        struct http_window *window = bpf_map_lookup_elem(&windows, &index);
        if (window && __sync_val_compare_and_swap(&window->busy, 0, 1) == 0)
            return window;
    }
    return NULL;
}

SEC("uprobe")
int on_call(struct registers *ctx)
{
    u64 cgroup = bpf_get_current_cgroup_id();
    u32 *target = bpf_map_lookup_elem(&tls_cgroups, &cgroup);
    if (!target)
        return 0;
    u64 cookie = bpf_get_attach_cookie(ctx), both = bpf_get_current_pid_tgid();
    u32 thread = both, process = both >> 32, one = 1;
    struct ssl_key key = {.ssl = ctx->di, .process = process, .target = *target};
    if (cookie == IS_FREE) {
        struct secured *c = bpf_map_lookup_elem(&secured, &key);
        if (c)
            end(&key, c);
        return 0;
    }
    if (!bpf_map_lookup_elem(&processes, &process)) {
        struct unprobed_key not_unprobed = {.target = *target, .process = process};
        bpf_map_update_elem(&processes, &process, &one, BPF_ANY);
        bpf_map_delete_elem(&unprobed, &not_unprobed);
    }
    if (cookie == IS_HANDSHAKE) {
        begin(&key);
        return 0;
    }
    struct call call = {.ssl = ctx->di, .buffer = ctx->si, .target = *target, .cookie = cookie, .stack = ctx->sp};
    call.length_at = ctx->cx;
    call.in_flight = IN_FLIGHT;
    if (cookie & WRITES)
        call.began = bpf_ktime_get_ns();
    struct call *noted = bpf_map_lookup_elem(&calls, &thread);
    if (!noted) {
        bpf_map_update_elem(&calls, &thread, &call, BPF_ANY);
        return 0;
    }
    if (noted->in_flight && call.stack < noted->stack) {
        bpf_map_update_elem(&outer_calls, &thread, noted, BPF_ANY);
        call.in_flight = NESTED;
    } else if (call.stack == noted->stack && noted->in_flight) { /* the same call, at another probe */
        call.in_flight = noted->in_flight;
    }
    *noted = call; /* cheaper than an update of the map */
    return 0;
}

static __always_inline void read_text(struct reading *reading, const struct call *call, u32 length)
{
    struct exchange *e = reading->exchange;
    u32 direction = reading->direction & 1;
    struct http_stream *stream = &e->streams[direction];
    if (e->ignored || stream->phase == HTTP_UNTIL_CLOSE)
        return;
    if ((stream->phase == HTTP_BODY || stream->phase == HTTP_CHUNK) && stream->left > length) {
        stream->left -= length;
        return;
    }
    if (stream->phase == HTTP_OUT_OF_STEP) {
        if (recognise(reading->source, 0, length) != (direction == REQUESTS ? HTTP_REQUEST : HTTP_ANSWER))
            return;
        stream->phase = HTTP_FIRST_LINE;
    }
    reading->window = take_window();
    if (!reading->window) {
        lose(reading, REASON_REORDERED);
        return;
    }
    read_piece(reading, 0, length, call->cookie & WRITES ? call->began : bpf_ktime_get_ns());
    __sync_lock_test_and_set(&reading->window->busy, 0);
}

SEC("uprobe")
int on_return(struct registers *ctx)
{
    u64 both = bpf_get_current_pid_tgid();
    u32 thread = both;
    struct call *noted = bpf_map_lookup_elem(&calls, &thread);
    if (!noted || !noted->in_flight || ctx->sp != noted->stack + sizeof(u64))
        return 0;
    struct call call = *noted;
    noted->in_flight = 0; /* several probes may be on one file if containers have it under different names */
    if (call.in_flight == NESTED) {
        struct call *outer = bpf_map_lookup_elem(&outer_calls, &thread);
        if (outer)
            *noted = *outer;
        bpf_map_delete_elem(&outer_calls, &thread);
    }
    s32 result = ctx->ax;
    if (result <= 0)
        return 0;
    u64 length = result;
    if (call.cookie & LENGTH_APART && bpf_probe_read_user(&length, sizeof(length), (void *)call.length_at))
        return 0;
    if (length == 0 || length > LONGEST)
        return 0;

    struct ssl_key key = {.ssl = call.ssl, .process = both >> 32, .target = call.target};
    struct secured *c = bpf_map_lookup_elem(&secured, &key);
    struct reading reading = {.source = (void *)call.buffer};
    if (!c) { /* the connection predates the probes */
        u32 seen = recognise(reading.source, 0, length), target = call.target + BY_TLS;
        struct figures *figures = bpf_map_lookup_elem(&per_target, &target);
        if (figures && seen == HTTP_ANSWER)
            add(&figures->unparsed[REASON_JOINED], 1);
        if (seen != HTTP_REQUEST && seen != HTTP_TWO)
            return 0;
        c = begin(&key);
        if (c && figures && seen == HTTP_TWO) {
            add(&figures->unparsed[REASON_HTTP_2], 1);
            c->exchange.ignored = IGNORED;
            return 0;
        }
    }
    if (!c || !reading_for(&reading, c, call.target))
        return 0;
    struct exchange *e = &c->exchange;
    if (!take(e)) {
        c->missed = 1;
        return 0;
    }
    bool writes = call.cookie & WRITES;
    if (!c->spoken) {
        u8 first = 0;
        bpf_probe_read_user(&first, 1, (void *)call.buffer);
        if (first < 'A' || first > 'Z') { /* an HTTP/2 server may write before it has read anything */
            release(e);
            return 0;
        }
        c->spoken = 1;
        e->role = writes ? CLIENT : SERVER;
        e->streams[ANSWERS].flags = HTTP_ANSWERS;
    }
    reading.direction = writes == (e->role == CLIENT) ? REQUESTS : ANSWERS;
    if (c->missed) {
        c->missed = 0;
        lose(&reading, REASON_REORDERED);
    }
    read_text(&reading, &call, length);
    release(e);
    return 0;
}

static __always_inline void read_end(struct end *end, const char *sock, bool v6, u32 v4_at, u32 v6_at)
{
    struct {
        u64 high;
        u32 middle, last;
    } address = {};
    if (v6)
        bpf_probe_read_kernel(&address, sizeof(address), sock + v6_at);
    if (!v6 || (address.high == 0 && address.middle == MAPPED)) {
        bpf_probe_read_kernel(&address.last, sizeof(address.last), sock + v4_at);
        *end = (struct end){0, address.last};
    } else {
        *end = (struct end){address.high, (u64)address.last << 32 | address.middle};
    }
}

/* A thread receives from a TCP connection. */
SEC("raw_tp/tcp_rcv_space_adjust")
int on_receive(struct bpf_raw_tracepoint_args *ctx)
{
    u64 cgroup = bpf_get_current_cgroup_id();
    u32 *target = bpf_map_lookup_elem(&tls_cgroups, &cgroup);
    if (!target)
        return 0;
    u64 *count = bpf_map_lookup_elem(&tls_unseen, target);
    if (!count || (s64)*count <= 0)
        return 0;
    const char *sock = (const char *)ctx->args[0];
    u16 family = 0, own_port = 0, port = 0;
    bpf_probe_read_kernel(&family, sizeof(family), sock + SOCK_FAMILY);
    bpf_probe_read_kernel(&own_port, sizeof(own_port), sock + SOCK_NUM);
    bpf_probe_read_kernel(&port, sizeof(port), sock + SOCK_DPORT);
    if (family != IPV4 && family != IPV6)
        return 0;
    struct end own = {}, other = {};
    read_end(&own, sock, family == IPV6, SOCK_RCV_SADDR, SOCK_V6_RCV_SADDR);
    read_end(&other, sock, family == IPV6, SOCK_DADDR, SOCK_V6_DADDR);
    struct connection_key key = {};
    key_of(&key, &own, &other, bpf_htons(own_port), port);
    key.target = *target;
    struct connection *c = bpf_map_lookup_elem(&connections, &key);
    if (!c || c->exchange.ignored != TLS_UNSEEN)
        return 0;
    u32 process = bpf_get_current_pid_tgid() >> 32;
    if (!bpf_map_lookup_elem(&processes, &process)) {
        struct unprobed_key unprobed_key = {.target = *target, .process = process};
        struct unprobed process_name = {};
        bpf_get_current_comm(process_name.name, sizeof(process_name.name));
        bpf_map_update_elem(&unprobed, &unprobed_key, &process_name, BPF_ANY);
        return 0;
    }
    if (__sync_val_compare_and_swap(&c->exchange.busy, 0, 1)) /* try again at the next receive */
        return 0;
    if (c->exchange.ignored == TLS_UNSEEN) {
        c->exchange.ignored = IGNORED;
        add_tls_unseen(*target, -1);
    }
    release(&c->exchange);
    return 0;
}

static long end_of_process(UNUSED void *map, struct ssl_key *key, struct secured *c, u32 *process)
{
    if (key->process == *process) {
        struct ssl_key ended = *key;
        end(&ended, c);
    }
    return 0;
}

SEC("raw_tp/sched_process_exit")
int on_sched_process_exit(void)
{
    u64 both = bpf_get_current_pid_tgid();
    u32 thread = both, process = both >> 32;
    bpf_map_delete_elem(&calls, &thread);
    if (thread == process && bpf_map_lookup_elem(&processes, &process)) {
        bpf_for_each_map_elem(&secured, end_of_process, &process, 0);
        bpf_map_delete_elem(&processes, &process);
    }
    return 0;
}

static long sweep_secured(UNUSED void *map, struct ssl_key *key, struct secured *c, struct sweep *sweep)
{
    sweep_exchange(&c->exchange, key->target + BY_TLS, sweep);
    return 0;
}

/* Give up on the old requests of all SSL objects. */
SEC("syscall")
int sweep_tls(struct sweep *asked)
{
    struct sweep sweep = *asked;
    bpf_for_each_map_elem(&secured, sweep_secured, &sweep, 0);
    asked->connections = sweep.connections;
    return 0;
}
