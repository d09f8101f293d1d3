/*
 * A parser of HTTP/1.x for one direction of a connection. It finds where messages begin and end, methods and status codes.
 *
 * It does not depend on packets, and is compiled both for the kernel and for its tests. A stream comes in pieces of any size. A
 * piece is read through a window that HTTP_LOAD(source, offset, to, size) fills. `http_step` does a bounded amount of work and is
 * called until the piece is read. Bodies are skipped by arithmetic. The beginning of a line that is cut in two is held for the next
 * piece.
 *
 * Only the first HTTP_HELD bytes of a line are parsed, and the end of a request line, wherever it is cut.
 */

#pragma once

#ifndef HTTP_LOAD
#error "define HTTP_LOAD(source, offset, to, size), which returns 0 on success"
#endif

#define HTTP_HELD 40   /* enough for "Content-Length: " with the longest number, or "Transfer-Encoding: gzip, chunked" */
#define HTTP_TAIL 16   /* enough for " HTTP/1.1\r" */
#define HTTP_SEARCH 64 /* bytes that are searched for the end of a line in one step */
#define HTTP_WINDOW 512
#define HTTP_LINES_AT_ONCE 6      /* irrelevant headers that are skipped in one step */
#define HTTP_LONGEST (1ULL << 59) /* a body or chunk of more bytes is malformed */

enum http_phase {
    HTTP_FIRST_LINE,
    HTTP_REST_OF_REQUEST, /* of its first line */
    HTTP_HEADERS,
    HTTP_CHUNK_SIZE,
    HTTP_TRAILERS,
    HTTP_REST_OF_LINE, /* and then `after` */
    HTTP_BODY,
    HTTP_CHUNK, /* including the line end after it */
    HTTP_UNTIL_CLOSE,
    HTTP_OUT_OF_STEP, /* the caller finds where a message begins */
};

enum http_event {
    HTTP_ON,       /* call again */
    HTTP_ALL_READ, /* the piece is read */
    HTTP_REQUEST,  /* a request has begun: see `method`; call again */
    HTTP_ANSWER,   /* a response has begun: see `code`; set HTTP_BODILESS if it answers HEAD; call again */
    HTTP_BROKEN,   /* this is not HTTP/1.x */
    HTTP_TWO,      /* this is HTTP/2 */
};

enum http_method {
    HTTP_NO_METHOD,
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_DELETE,
    HTTP_PATCH,
    HTTP_OPTIONS,
    HTTP_CONNECT,
    HTTP_TRACE,
    HTTP_OTHER,
    HTTP_PRI
};

struct http_stream {
    u64 began; /* when the first byte of the current message was read */
    u64 left;  /* bytes of the body or chunk that are still missing */
    u16 code;
    u8 phase;
    u8 after;
    u8 kept; /* bytes in `held` */
    u8 method;
    u8 flags;
    u8 pad;
    u8 held[HTTP_HELD];
};

enum { HTTP_ANSWERS = 1 /* this direction has the responses */, HTTP_CHUNKED = 2, HTTP_MEASURED = 4, HTTP_BODILESS = 8 };

struct http_window {
    u64 now;
    u32 at;                  /* the offset in the piece of the next byte that is not in the window */
    u32 end;                 /* the end of the piece */
    u32 from;                /* the offset in the window of the current line */
    u32 searched;            /* the line does not end before this offset */
    u32 to;                  /* the end of the bytes in the window */
    u32 busy;                /* a lock for users that share it */
    u8 bytes[2 * 1024 + 16]; /* more than is used: a bounded place plus a masked length plus a word stay inside, for the verifier */
};

#ifdef __bpf__
#define http_word(p) (*(const u64 *)(p))
#define http_put_word(p, word) (*(u64 *)(p) = (word))
#else
static inline u64 http_word(const u8 *p)
{
    u64 word;
    memcpy(&word, p, 8);
    return word;
}
static inline void http_put_word(u8 *p, u64 word)
{
    memcpy(p, &word, 8);
}
#endif

/*
 * Bound a place in a window by a constant, which changes no place. Before Linux 6.8 the verifier learns no bound from comparing two
 * registers, and the compiler would drop a mask that it can prove to be needless.
 */
#ifdef __bpf__
#define http_bound(place) asm volatile("%0 &= 1023" : "+r"(place))
#else
#define http_bound(place) ((place) &= 1023)
#endif

#ifdef __bpf__
#define HTTP_VERIFIED_ONCE __noinline /* a global function is not verified again for each call */
#else
#define HTTP_VERIFIED_ONCE static inline
#endif

/* A word of text with the first letter in the lowest byte, as in the memory of both architectures. */
#define HTTP_BYTE(c, n) ((u64)(u8)(c) << (8 * (n)))
#define HTTP_TEXT(a, b, c, d, e, f, g, h)                                                                                          \
    (HTTP_BYTE(a, 0) | HTTP_BYTE(b, 1) | HTTP_BYTE(c, 2) | HTTP_BYTE(d, 3) | HTTP_BYTE(e, 4) | HTTP_BYTE(f, 5) | HTTP_BYTE(g, 6) | \
     HTTP_BYTE(h, 7))
#define HTTP_EVERY(byte) (0x0101010101010101ULL * (byte))
#define HTTP_FIRST(bytes) (~0ULL >> (64 - 8 * (bytes)))

/* Find the first line feed in a window at or after an offset. Return the offset plus HTTP_SEARCH if it is not in between. */
HTTP_VERIFIED_ONCE u32 http_find_line_feed(const struct http_window *w, u32 place)
{
    if (!w || place > HTTP_HELD + HTTP_WINDOW)
        return 0;
    for (u32 i = 0; i < HTTP_SEARCH; i += 8) {
        u64 different = http_word(w->bytes + place + i) ^ HTTP_EVERY('\n');
        u64 found = (different - HTTP_EVERY(1)) & ~different & HTTP_EVERY(0x80);
        if (found) /* its lowest bit belongs to the first line feed: count the bytes below */
            return place + i + (u32)(((((found & -found) - 1) & HTTP_EVERY(1)) * HTTP_EVERY(1)) >> 56) - 1;
    }
    return place + HTTP_SEARCH;
}

static __always_inline u8 http_method_of(const u8 *line)
{
    u64 word = http_word(line);
    switch ((u32)word) {
    case HTTP_TEXT('G', 'E', 'T', ' ', 0, 0, 0, 0):
        return HTTP_GET;
    case HTTP_TEXT('P', 'U', 'T', ' ', 0, 0, 0, 0):
        return HTTP_PUT;
    case HTTP_TEXT('P', 'R', 'I', ' ', 0, 0, 0, 0):
        return HTTP_PRI;
    }
    if ((word & HTTP_FIRST(5)) == HTTP_TEXT('P', 'O', 'S', 'T', ' ', 0, 0, 0))
        return HTTP_POST;
    if ((word & HTTP_FIRST(5)) == HTTP_TEXT('H', 'E', 'A', 'D', ' ', 0, 0, 0))
        return HTTP_HEAD;
    if ((word & HTTP_FIRST(7)) == HTTP_TEXT('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
        return HTTP_DELETE;
    if ((word & HTTP_FIRST(6)) == HTTP_TEXT('P', 'A', 'T', 'C', 'H', ' ', 0, 0))
        return HTTP_PATCH;
    if (word == HTTP_TEXT('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '))
        return HTTP_OPTIONS;
    if (word == HTTP_TEXT('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
        return HTTP_CONNECT;
    if ((word & HTTP_FIRST(6)) == HTTP_TEXT('T', 'R', 'A', 'C', 'E', ' ', 0, 0))
        return HTTP_TRACE;
    for (u32 i = 0; i < 24; i++) { /* other methods that nginx accepts: PROPFIND, M-SEARCH, ... */
        u8 c = line[i];
        if (c == ' ' && i)
            return HTTP_OTHER;
        if ((c < 'A' || c > 'Z') && c != '-' && c != '_')
            return HTTP_NO_METHOD;
    }
    return HTTP_NO_METHOD;
}

/* Return the status code of a response; 0: this is not one. */
static __always_inline u16 http_code_of(const u8 *line)
{
    if ((http_word(line) & HTTP_FIRST(7)) != HTTP_TEXT('H', 'T', 'T', 'P', '/', '1', '.', 0) || line[8] != ' ')
        return 0;
    if (line[9] < '1' || line[9] > '9' || line[10] < '0' || line[10] > '9' || line[11] < '0' || line[11] > '9')
        return 0;
    return (u16)((line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0'));
}

static __always_inline bool http_is_version(u64 word)
{
    return word == HTTP_TEXT('H', 'T', 'T', 'P', '/', '1', '.', '1') || word == HTTP_TEXT('H', 'T', 'T', 'P', '/', '1', '.', '0');
}

static __always_inline enum http_event http_content_length(struct http_stream *s, const u8 *line)
{
    u64 number = 0;
    bool begun = false;
    for (u32 i = 15; i < HTTP_HELD; i++) {
        u8 c = line[i];
        if (c >= '0' && c <= '9') {
            begun = true;
            number = number * 10 + (c - '0');
            if (number > HTTP_LONGEST)
                return HTTP_BROKEN;
        } else if (begun || (c != ' ' && c != '\t')) {
            if (!begun)
                return HTTP_BROKEN;
            s->left = number;
            s->flags |= HTTP_MEASURED;
            return HTTP_ON;
        }
    }
    return HTTP_BROKEN;
}

static __always_inline enum http_event http_header(struct http_stream *s, const u8 *line)
{
    u64 word = http_word(line) | HTTP_EVERY(0x20);
    if (word == HTTP_TEXT('c', 'o', 'n', 't', 'e', 'n', 't', '-')) {
        word = (http_word(line + 8) | HTTP_EVERY(0x20)) & HTTP_FIRST(7);
        if (word == HTTP_TEXT('l', 'e', 'n', 'g', 't', 'h', ':', 0))
            return http_content_length(s, line);
    } else if (word == HTTP_TEXT('t', 'r', 'a', 'n', 's', 'f', 'e', 'r')) {
        word = http_word(line + 8) | HTTP_EVERY(0x20);
        if (word == HTTP_TEXT('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n') && (line[16] | 0x20) == 'g' && line[17] == ':') {
            u8 first = line[18] == ' ' ? line[19] : line[18];
            if ((first | 0x20) != 'i') /* not "identity", so the last coding must be "chunked" */
                s->flags |= HTTP_CHUNKED;
        }
    }
    return HTTP_ON;
}

static __always_inline enum http_event http_chunk_size(struct http_stream *s, const u8 *line)
{
    u64 number = 0;
    for (u32 i = 0; i < HTTP_HELD; i++) {
        u8 c = line[i], letter = c | 0x20;
        if (c >= '0' && c <= '9')
            number = number * 16 + (c - '0');
        else if (letter >= 'a' && letter <= 'f')
            number = number * 16 + (letter - 'a' + 10);
        else {
            if (i == 0)
                return HTTP_BROKEN;
            s->left = number + 2;
            s->phase = number ? HTTP_CHUNK : HTTP_TRAILERS;
            return HTTP_ON;
        }
        if (number > HTTP_LONGEST)
            return HTTP_BROKEN;
    }
    return HTTP_BROKEN;
}

static __always_inline void http_end_message(struct http_stream *s, u64 now)
{
    s->phase = HTTP_FIRST_LINE;
    s->began = now;
}

static __always_inline void http_end_headers(struct http_stream *s, u64 now)
{
    if (s->flags & HTTP_BODILESS)
        http_end_message(s, now);
    else if (s->flags & HTTP_CHUNKED)
        s->phase = HTTP_CHUNK_SIZE;
    else if ((s->flags & HTTP_ANSWERS) && !(s->flags & HTTP_MEASURED))
        s->phase = HTTP_UNTIL_CLOSE;
    else if (s->left)
        s->phase = HTTP_BODY;
    else
        http_end_message(s, now);
}

static __always_inline enum http_event http_first_line(struct http_stream *s, const u8 *line, u32 length, bool whole)
{
    s->flags &= HTTP_ANSWERS;
    s->left = 0;
    s->phase = HTTP_HEADERS;
    if (s->flags & HTTP_ANSWERS) {
        s->code = length >= 12 ? http_code_of(line) : 0;
        if (s->code < 200 || s->code == 204 || s->code == 304)
            s->flags |= HTTP_BODILESS;
        return s->code ? HTTP_ANSWER : HTTP_BROKEN;
    }
    s->method = http_method_of(line);
    if (s->method == HTTP_NO_METHOD)
        return HTTP_BROKEN;
    if (s->method == HTTP_PRI)
        return http_word(line + 4) == HTTP_TEXT('*', ' ', 'H', 'T', 'T', 'P', '/', '2') ? HTTP_TWO : HTTP_BROKEN;
    if (s->method == HTTP_CONNECT)
        s->flags |= HTTP_BODILESS;
    if (!whole) {
        s->phase = HTTP_REST_OF_REQUEST;
        return HTTP_ON;
    }
    return length > 8 && http_is_version(http_word(line + ((length - 8) & 1023))) ? HTTP_REQUEST : HTTP_BROKEN;
}

/* Whether a header is relevant, or the headers end. */
static __always_inline bool http_matters(const u8 *line)
{
    u64 word = http_word(line) | HTTP_EVERY(0x20);
    return word == HTTP_TEXT('c', 'o', 'n', 't', 'e', 'n', 't', '-') || word == HTTP_TEXT('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') ||
           line[0] == '\r' || line[0] == '\n';
}

/* Parse a line without its line end, or the beginning of one (at least HTTP_HELD bytes). */
HTTP_VERIFIED_ONCE enum http_event http_line(struct http_stream *s, const struct http_window *w, u32 from, u32 length, bool whole)
{
    if (!s || !w || from > HTTP_HELD + HTTP_WINDOW)
        return HTTP_BROKEN;
    const u8 *line = w->bytes + from;
    enum http_event event = HTTP_ON;
    u8 phase = s->phase;
    if (phase == HTTP_HEADERS) {
        if (length)
            event = http_header(s, line);
        else
            http_end_headers(s, w->now);
    } else if (phase == HTTP_FIRST_LINE) {
        if (length) /* ignore empty lines before it */
            event = http_first_line(s, line, length, whole);
    } else if (phase == HTTP_CHUNK_SIZE) {
        event = http_chunk_size(s, line);
    } else if (phase == HTTP_TRAILERS) {
        if (!length)
            http_end_message(s, w->now);
    }
    if (!whole && s->phase != HTTP_REST_OF_REQUEST) {
        s->after = s->phase;
        s->phase = HTTP_REST_OF_LINE;
    }
    return event;
}

/* Begin to read a piece. It continues the bytes that are held of the previous one. */
static __always_inline void http_begin(struct http_stream *s, struct http_window *w, u32 at, u32 end, u64 now)
{
    w->now = now;
    w->at = at;
    w->end = end;
    w->from = 0;
    w->searched = w->to = s->kept;
    if (s->kept)
        for (u32 i = 0; i < HTTP_HELD; i += 8)
            http_put_word(w->bytes + i, http_word(s->held + i));
    else if (s->phase == HTTP_FIRST_LINE)
        s->began = now;
}

static __always_inline enum http_event http_skip(struct http_stream *s, struct http_window *w)
{
    u32 inside = w->to - w->from;
    u64 have = (u64)inside + (w->end - w->at);
    u64 taken = s->left < have ? s->left : have;
    s->left -= taken;
    if (taken <= inside) {
        w->from += (u32)taken;
    } else {
        w->at += (u32)taken - inside;
        w->from = w->to = 0;
    }
    w->searched = w->from;
    if (s->left == 0) {
        if (s->phase == HTTP_CHUNK)
            s->phase = HTTP_CHUNK_SIZE;
        else
            http_end_message(s, w->now);
    }
    return HTTP_ON;
}

static __always_inline enum http_event http_step(struct http_stream *s, struct http_window *w, void *source)
{
    u8 phase = s->phase;
    u32 from = w->from, to = w->to, searched = w->searched, at = w->at;
    if ((from >= to && at >= w->end) || phase >= HTTP_UNTIL_CLOSE) {
        s->kept = 0;
        return HTTP_ALL_READ;
    }
    if (phase >= HTTP_BODY)
        return http_skip(s, w);

    if (from > HTTP_HELD + HTTP_WINDOW || searched > HTTP_HELD + HTTP_WINDOW || to > HTTP_HELD + HTTP_WINDOW)
        return HTTP_BROKEN; /* unreachable, for the verifier */
    if (searched < to) {
        u32 place = http_find_line_feed(w, searched);
        http_bound(from);
        http_bound(place);
        for (u32 i = 0; i < HTTP_LINES_AT_ONCE && place < to && place < searched + HTTP_SEARCH; i++) {
            if (phase != HTTP_HEADERS || http_matters(w->bytes + from))
                break;
            from = searched = place + 1;
            place = http_find_line_feed(w, searched);
            http_bound(place);
        }
        w->from = from;
        w->searched = searched + HTTP_SEARCH < to ? searched + HTTP_SEARCH : to;
        if (place < to && place < searched + HTTP_SEARCH) {
            u8 *line = w->bytes + from;
            w->from = w->searched = place + 1;
            u32 length = place - from;
            if (length && w->bytes[(place - 1) & 1023] == '\r')
                length--;
            if (phase == HTTP_REST_OF_LINE) {
                s->phase = s->after;
                return HTTP_ON;
            }
            if (phase == HTTP_REST_OF_REQUEST) {
                s->phase = HTTP_HEADERS;
                return length > 8 && http_is_version(http_word(line + ((length - 8) & 1023))) ? HTTP_REQUEST : HTTP_BROKEN;
            }
            return http_line(s, w, from, length, true);
        }
        if (searched + HTTP_SEARCH < to)
            return HTTP_ON;
    }

    /* The line does not end in the window. */
    u32 kept = to - from;
    if (phase == HTTP_REST_OF_LINE)
        kept = 0;
    else if (phase == HTTP_REST_OF_REQUEST)
        kept = kept < HTTP_TAIL ? kept : HTTP_TAIL;
    else if (kept >= HTTP_HELD)
        return http_line(s, w, from, kept, false);
    if (kept > HTTP_HELD)
        return HTTP_BROKEN; /* unreachable, for the verifier */
    u8 *begin = w->bytes + ((to - kept) & 1023);
    if (at >= w->end) {
        if (phase == HTTP_FIRST_LINE && kept && *begin != '\r' &&
            (s->flags & HTTP_ANSWERS ? *begin != 'H' : *begin < 'A' || *begin > 'Z'))
            return HTTP_BROKEN;
        for (u32 i = 0; i < HTTP_HELD; i += 8)
            http_put_word(s->held + i, http_word(begin + i));
        s->kept = (u8)kept;
        return HTTP_ALL_READ;
    }
    if (kept) {
        u64 words[HTTP_HELD / 8];
        for (u32 i = 0; i < HTTP_HELD / 8; i++)
            words[i] = http_word(begin + 8 * i);
        for (u32 i = 0; i < HTTP_HELD / 8; i++)
            http_put_word(w->bytes + 8 * i, words[i]);
    }
    u32 size = w->end - at;
    if (size > HTTP_WINDOW)
        size = HTTP_WINDOW;
    size = ((size - 1) & (HTTP_WINDOW - 1)) + 1; /* no change, but shows the verifier that it is not 0 */
    if (HTTP_LOAD(source, at, w->bytes + kept, size))
        return HTTP_BROKEN;
    w->at = at + size;
    w->from = 0;
    w->searched = kept;
    w->to = kept + size;
    return HTTP_ON;
}
