/*
 * A rule: one fault in the agent's words, and the decision which calls it hits. Nothing here touches a traced thread.
 */
#ifndef RULE_H
#define RULE_H

#include <stdbool.h>
#include <stddef.h>
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
    int directory; /* the argument with the descriptor of the directory; -1: the working directory */
    int flags;     /* the argument with flags; -1: none */
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
    uint32_t first, last, step; /* the ordinals of a thread's calls to hit; last 0: no last one */
    uint64_t threshold;         /* the probability times 2^64; 0: every call */
    uint64_t budget;            /* 0: no limit */
    uint64_t deadline_ms;       /* from when the rule was added */
    bool placebo;               /* it hits no call */
    char *path;
    char *process;
};

/* Memory that all tracers of a container and the agent share: `_SLOT` and `_STATE_SIZE` in injectors/pool.py. */
struct state {
    struct slot {
        uint64_t used;   /* calls taken from the budget: they are hit, or will be */
        uint64_t hit;    /* calls hit so far */
        uint64_t random; /* the state of the random number generator */
    } slots[SLOTS];
    uint64_t seen[NR_MAX]; /* all calls, by number */
};

_Static_assert(sizeof(struct slot) == 24 && offsetof(struct slot, used) == 0, "as in injectors/pool.py");
_Static_assert(offsetof(struct slot, hit) == 8 && offsetof(struct slot, random) == 16, "as in injectors/pool.py");
_Static_assert(offsetof(struct state, seen) == SLOTS * 24, "as in injectors/pool.py");
_Static_assert(sizeof(struct state) == SLOTS * 24 + NR_MAX * 8, "as in injectors/pool.py");

/* The ring buffer that one tracer leaves to the agent, however it ends: `_TAKEN` and `_KEPT` in injectors/tracer.py. */
struct ring {
    uint64_t taken; /* calls hit */
    struct record last_calls[KEPT];
};

_Static_assert(offsetof(struct ring, taken) == 0 && offsetof(struct ring, last_calls) == 8, "as in injectors/tracer.py");
_Static_assert(sizeof(struct ring) == 8 + KEPT * sizeof(struct record), "as in injectors/tracer.py");

/*
 * Parse a rule such as `7 slot=0 deadline_ms=1000 calls=257/p1@0,0/f0 error=13`. Return NULL and a reason if it is not valid. The
 * text is changed.
 */
struct rule *rule_parse(char *words, const char **reason);
void rule_free(struct rule *rule);

/* Find the rule's entry for a system call, or NULL. */
const struct call *rule_call(const struct rule *rule, int nr);

/* Whether the rule acts on a thread's call with this ordinal, from 1 on. */
bool rule_when(const struct rule *rule, uint32_t number);

/* Draw whether the rule acts on a call. */
bool rule_draw(const struct rule *rule, struct slot *slot);

/* Take a call from the budget. Return false if the budget is used up, or if the rule is a placebo. */
bool rule_take(const struct rule *rule, struct slot *slot);

/* Return a call to the budget, so that another one may be hit instead. */
void rule_give_back(struct slot *slot);

/* The forged result. */
int64_t rule_result(const struct rule *rule);

#endif
