/* The HTTP/1.x parser finds random messages and parses damaged ones alike, however they are cut into pieces. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#define HTTP_LOAD(source, offset, to, size) (memcpy((to), (const u8 *)(source) + (offset), (size)), 0)
#include "http_parse.h"

enum { ROUNDS = 1500, MOST_MESSAGES = 12, MOST_BYTES = 1 << 18, MOST_EVENTS = 4096 };

static u64 seed = 1;
static int failures;

static unsigned any(unsigned below)
{
    seed = seed * 6364136223846793005 + 1442695040888963407;
    return (unsigned)(seed >> 33) % below;
}

/* the messages that were found, or that are expected */
struct found {
    unsigned count;
    u16 what[MOST_EVENTS]; /* method or code; 0: broken, 1000: HTTP/2 */
};

static u8 text[MOST_BYTES];
static size_t size;
static u8 heads[MOST_EVENTS]; /* which of the answers are to HEAD */

static void put(const char *more)
{
    size_t length = strlen(more);
    memcpy(text + size, more, length);
    size += length;
}

static void put_any(unsigned bytes)
{
    while (bytes--)
        text[size++] = (u8)any(256);
}

static void put_letters(unsigned bytes)
{
    while (bytes--)
        text[size++] = (u8)('a' + any(26));
}

/* Parse a piece of the text, in memory of its exact size, so that the sanitizer finds a read beyond it. */
static bool feed(struct http_stream *s, struct http_window *w, size_t from, size_t bytes, struct found *found, unsigned *finals)
{
    u8 *piece = malloc(bytes + 7);
    unsigned ahead = any(7), steps = 0; /* a packet has headers before its payload */
    memcpy(piece + ahead, text + from, bytes);
    piece = realloc(piece, ahead + bytes);
    http_begin(s, w, ahead, (u32)(ahead + bytes), from);
    bool on = true;
    for (enum http_event event; (event = http_step(s, w, piece)) != HTTP_ALL_READ;) {
        if (++steps > 8 * (bytes + 8)) {
            printf("it does not end\n");
            exit(1);
        }
        if (event == HTTP_REQUEST) {
            found->what[found->count++] = s->method;
        } else if (event == HTTP_ANSWER) {
            found->what[found->count++] = s->code;
            if (s->code >= 200 && heads[(*finals)++])
                s->flags |= HTTP_BODILESS;
        } else if (event == HTTP_BROKEN || event == HTTP_TWO) {
            found->what[found->count++] = event == HTTP_TWO ? 1000 : 0;
            on = false;
            break;
        }
        if (found->count == MOST_EVENTS)
            on = false;
        if (!on)
            break;
    }
    free(piece);
    return on;
}

/* Parse the text in pieces of at most `most` bytes. */
static void follow(bool answers, unsigned most, struct found *found)
{
    static struct http_window w;
    struct http_stream s = {.flags = answers ? HTTP_ANSWERS : 0};
    unsigned finals = 0;
    for (size_t i = 0; i < sizeof(w.bytes); i++)
        w.bytes[i] = "\r\nA1:"[any(5)]; /* bytes of an earlier piece */
    found->count = 0;
    for (size_t at = 0; at < size;) {
        size_t piece = 1 + any(most);
        if (piece > size - at)
            piece = size - at;
        if (!feed(&s, &w, at, piece, found, &finals))
            return;
        at += piece;
    }
}

static void compare(const char *what, const struct found *found, const struct found *wanted)
{
    if (found->count == wanted->count && !memcmp(found->what, wanted->what, wanted->count * sizeof(u16)))
        return;
    failures++;
    printf("%s: found", what);
    for (unsigned i = 0; i < found->count; i++)
        printf(" %u", found->what[i]);
    printf(", wanted");
    for (unsigned i = 0; i < wanted->count; i++)
        printf(" %u", wanted->what[i]);
    printf("\n");
    if (size < 2000)
        printf("%.*s\n", (int)size, text);
}

static const char *const METHODS[] = {"",      "GET",     "HEAD",    "POST",  "PUT",     "DELETE",
                                      "PATCH", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"};

static const char *line_end(void)
{
    return any(20) ? "\r\n" : "\n";
}

static void put_headers(void)
{
    static const char *const OTHERS[] = {
        "Host: x",
        "Content-Type: text/html",
        "Content-Lengths: 77",
        "transfer: encoding",
        "X: Content-Length: 5",
        "Connection: keep-alive",
        "Content-Language: de",
        "Transfer-Encodings: chunked",
        "Accept: */*",
        "A:",
        "Content-Length-X: 3",
        "\tfolded",
    };
    for (unsigned n = any(6); n; n--) {
        put(OTHERS[any(sizeof(OTHERS) / sizeof(*OTHERS))]);
        if (!any(8)) {
            put(" ");
            put_letters(any(any(4) ? 60 : 1500));
        }
        put(line_end());
    }
}

static void put_chunks(void)
{
    char line[64];
    for (unsigned n = any(6); n; n--) {
        unsigned bytes = 1 + any(any(3) ? 40 : 3000);
        snprintf(line, sizeof(line), any(2) ? "%x" : "%04X", bytes);
        put(line);
        if (!any(5)) {
            put(";name=");
            put_letters(any(80));
        }
        put(line_end());
        put_any(bytes);
        put("\r\n");
    }
    put(any(2) ? "0" : "000");
    put(line_end());
    if (!any(4))
        put_headers();
    put(line_end());
}

static void put_body(void)
{
    char line[64];
    static const char *const LENGTHS[] = {"Content-Length: %u", "content-length:%u", "CONTENT-LENGTH:  %u ",
                                          "Content-Length:\t0%u"};
    put_headers();
    if (any(2)) {
        put(any(2) ? "Transfer-Encoding: chunked" : "transfer-encoding:gzip, chunked");
        put(line_end());
        put_headers();
        put(line_end());
        put_chunks();
    } else {
        unsigned bytes = any(3) ? any(100) : any(10000);
        snprintf(line, sizeof(line), LENGTHS[any(4)], bytes);
        put(line);
        put(line_end());
        put_headers();
        put(line_end());
        put_any(bytes);
    }
}

static void put_requests(struct found *wanted)
{
    size = 0;
    wanted->count = 0;
    for (unsigned n = 1 + any(MOST_MESSAGES); n; n--) {
        u16 method = (u16)(1 + any(10));
        if (!any(20))
            put("\r\n");
        put(METHODS[method]);
        put(" /");
        put_letters(any(any(6) ? 20 : 3000));
        put(any(4) ? " HTTP/1.1" : " HTTP/1.0");
        put(line_end());
        wanted->what[wanted->count++] = method;
        if (method != HTTP_CONNECT && any(2)) {
            put_body();
        } else {
            put_headers();
            put(line_end());
        }
    }
}

static void put_answers(struct found *wanted)
{
    static const u16 CODES[] = {200, 201, 204, 304, 404, 500, 599, 100, 103};
    char line[64];
    unsigned finals = 0;
    size = 0;
    wanted->count = 0;
    for (unsigned n = 1 + any(MOST_MESSAGES); n; n--) {
        u16 code = CODES[any(9)];
        bool head = code >= 200 && !any(4);
        snprintf(line, sizeof(line), "HTTP/1.%u %u ", any(2), code);
        put(line);
        put_letters(any(any(6) ? 20 : 3000));
        put(line_end());
        wanted->what[wanted->count++] = code;
        if (code >= 200)
            heads[finals++] = head;
        if (head || code < 200 || code == 204 || code == 304) {
            put_headers();
            if (any(2))
                put(any(2) ? "Content-Length: 1234\r\n" : "Transfer-Encoding: chunked\r\n");
            put(line_end());
        } else if (n == 1 && any(2)) {
            put_headers();
            put(line_end());
            put_any(any(3000)); /* until it is closed */
        } else {
            put_body();
        }
    }
}

/* Change a few bytes. The meaning of the text does not depend on where it is cut. */
static void damage(void)
{
    for (unsigned n = 1 + any(4); n; n--) {
        size_t at = any((unsigned)size);
        text[at] = any(2) ? (u8) "\r\n :0aH"[any(7)] : (u8)any(256);
    }
}

static void test_at_random(void)
{
    static struct found wanted, found;
    static const unsigned MOST[] = {1, 3, 20, 100, 700, 5000, 65536};
    for (unsigned round = 0; round < ROUNDS; round++) {
        bool answers = any(2);
        answers ? put_answers(&wanted) : put_requests(&wanted);
        for (unsigned i = 0; i < 2; i++) {
            follow(answers, MOST[any(7)], &found);
            compare("at random", &found, &wanted);
        }
        if (round % 2)
            continue;
        damage();
        put("\n"); /* a malformed line is detected at its end */
        follow(answers, MOST[any(7)], &wanted);
        for (unsigned i = 0; i < 3; i++) {
            follow(answers, MOST[any(7)], &found);
            compare("damaged", &found, &wanted);
        }
    }
}

static void expect(const char *what, bool answers, unsigned count, ...)
{
    static struct found wanted, found;
    __builtin_va_list list;
    __builtin_va_start(list, count);
    wanted.count = 0;
    while (count--)
        wanted.what[wanted.count++] = (u16) __builtin_va_arg(list, int);
    __builtin_va_end(list);
    memset(heads, 0, sizeof(heads));
    size = 0;
    put(what);
    for (unsigned most = 1; most < 3000; most *= 3) {
        follow(answers, most, &found);
        compare("by hand", &found, &wanted);
    }
}

static void test_by_hand(void)
{
    expect("GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nGETGET / HTTP/1.0\r\n\r\n", false, 3, 1,
           3, 1);
    expect("\r\nBREW /pot HTTP/1.1\r\n\r\nGET / HTTP/1.1\n\n", false, 2, HTTP_OTHER, 1);
    expect("GET key\r\n", false, 1, 0); /* Redis */
    expect("*1\r\n$4\r\nPING\r\n", false, 1, 0);
    expect("get / HTTP/1.1\r\n", false, 1, 0);
    expect("GET / HTTP/2.0\r\n", false, 1, 0);
    expect("EHLO there\r\n", false, 1, 0);
    expect("SSH-2.0-OpenSSH_9.2p1\r\n", false, 1, 0);
    expect("SSH-2.0-OpenSSH_9.2p1\r\n", true, 1, 0);
    expect("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, 1, 1000);
    expect("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", false, 2, 3, 0);
    expect("POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", false, 2, 3, 0);
    expect("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", false, 2, 3, 0);
    expect("POST / HTTP/1.1\r\nContent-Length: 9999999999999999\r\n\r\nGET / HTTP/1.1\r\n\r\n", false, 1, 3);
    expect("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", false, 2, 3, 0);
    expect("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n", false, 2, 3, 0);
    expect("POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\r\n\r\n", false, 2, 3, 1);
    expect("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 404 No\r\n\r\n", true, 3, 100, 200,
           404);
    expect("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 \r\n\r\nHTTP/1.0 304 X\r\nContent-Length: 7\r\n\r\nHTTP/1.1 500 "
           "\r\n",
           true, 4, 200, 204, 304, 500);
    expect("HTTP/1.1 20 OK\r\n", true, 1, 0);
    expect("HTTP/1.1 2", true, 0);
    expect("HTTP/2 200\r\n", true, 1, 0);
    expect("ICY 200 OK\r\n", true, 1, 0);
}

int main(void)
{
    test_by_hand();
    test_at_random();
    printf("%s\n", failures ? "failed" : "passed");
    return failures != 0;
}
