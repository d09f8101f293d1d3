/*
 * A rule: one fault, as the tracer is told it, and the decision which calls it hits. Nothing here touches a traced thread.
 */
#ifndef RULE_H
#define RULE_H

#include <stdbool.h>
#include <stdint.h>

#include "report.h"

enum { NR_MAX = 1024, ARGUMENTS_MAX = 3, SLOTS = 64 };

enum effect {
    DELAY_ENTER = 1,
    ERROR = 2,
    RETVAL = 4,
    SIGNAL = 8,
    DELAY_EXIT = 16,
};

/* An argument that names a file: see model/arguments.py. */
struct file_argument {
    int index;
    bool is_path;
    bool follows;
    int directory; /* -1: the working directory */
    int flags;     /* -1: none */
};

struct call {
    int nr;
    int arguments;
    struct file_argument argument[ARGUMENTS_MAX];
};

struct rule {
    uint32_t id;
    uint32_t slot;
    struct call *calls;
    int call_count;
    unsigned effects;
    int error;
    int64_t retval;
    int signal;
    uint64_t enter_ns, exit_ns;
    uint32_t first, last, step; /* last 0: no last one */
    uint64_t threshold;         /* of 2^64; 0: every call */
    uint64_t budget;            /* 0: no limit */
    uint64_t deadline_ms;       /* from when it was added */
    bool placebo;
    char *path;
    char *process;
};

/* What all tracers of a container share, and has to outlive one that is killed: the agent keeps this memory. */
struct state {
    struct slot {
        uint64_t used;   /* of its budget: calls that are hit, or are to be */
        uint64_t hit;    /* calls hit so far */
        uint64_t random; /* the generator's state */
    } slots[SLOTS];
    uint64_t seen[NR_MAX]; /* calls made, of any kind, by number */
};

/* What one tracer leaves to the agent, however it ends. */
struct ring {
    uint64_t taken; /* calls hit */
    struct record last_calls[KEPT];
};

/*
 * Read a rule's words, as in `7 slot=0 deadline_ms=1000 calls=257/p1@0,0/f0 error=13`. Return NULL, with a reason, if they make no
 * sense. The text is changed.
 */
struct rule *rule_parse(char *words, const char **reason);
void rule_free(struct rule *rule);

/* The rule's entry for a system call, NULL if it is not on it. */
const struct call *rule_call(const struct rule *rule, int nr);

/* Whether the rule acts on a thread's call of this number, from 1 on. */
bool rule_when(const struct rule *rule, uint32_t number);

/* Whether the dice let the rule act on a call. */
bool rule_draw(const struct rule *rule, struct slot *slot);

/* Whether the budget lets the rule act on a call; if so, it is taken from it. Never for a placebo. */
bool rule_take(const struct rule *rule, struct slot *slot);

/* The call that was taken from the budget is not made, and another one may be hit in its place. */
void rule_give_back(struct slot *slot);

/* The result that the rule forges. */
int64_t rule_result(const struct rule *rule);

#endif
