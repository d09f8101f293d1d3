/* Rules: which are valid, which calls they select, and that no text is read beyond its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rule.h"
#include "thread.h"

static int failures;

#define CHECK(what)                                                 \
    do {                                                            \
        if (!(what)) {                                              \
            printf("line %d: %s does not hold\n", __LINE__, #what); \
            failures++;                                             \
        }                                                           \
    } while (0)

static struct rule *parse(const char *text)
{
    const char *reason;
    char *copy = strdup(text); /* of the exact size, so that the sanitizer finds a read beyond it */
    struct rule *rule = rule_parse(copy, &reason);
    CHECK(!rule == !!reason);
    free(copy);
    return rule;
}

static void test_valid_rules(void)
{
    struct rule *rule =
        parse("7 slot=3 deadline_ms=1000 calls=257/p1@0!3/f0,0/f0,39 error=13 signal=10 enter_ns=5 exit_ns=6 first=2 last=9 step=3 "
              "threshold=18446744073709551615 budget=4 path=2f6574632f613a62 process=6e67696e78 placebo=1");
    CHECK(rule && rule->id == 7 && rule->slot == 3 && rule->deadline_ms == 1000 && rule->call_count == 3);
    CHECK(rule->effects == (DELAY_ENTER | ERROR | SIGNAL | DELAY_EXIT));
    CHECK(rule_result(rule) == -13 && rule->signal == 10 && rule->enter_ns == 5 && rule->exit_ns == 6);
    CHECK(rule->first == 2 && rule->last == 9 && rule->step == 3 && rule->threshold == UINT64_MAX && rule->budget == 4);
    CHECK(!strcmp(rule->path, "/etc/a:b") && !strcmp(rule->process, "nginx") && rule->placebo);
    const struct call *call = rule_call(rule, 257);
    CHECK(call && call->arguments == 2 && call->argument[0].is_path && call->argument[0].follows && call->argument[0].index == 1);
    CHECK(call->argument[0].directory == 0 && call->argument[0].flags == 3);
    CHECK(!call->argument[1].is_path && call->argument[1].directory == -1 && call->argument[1].flags == -1);
    CHECK(rule_call(rule, 39) && !rule_call(rule, 39)->arguments && !rule_call(rule, 1));
    rule_free(rule);
    rule = parse("1 slot=0 deadline_ms=1 calls=0 retval=9223372036854775807");
    CHECK(rule && rule_result(rule) == INT64_MAX && rule->first == 1 && rule->step == 1 && !rule->last);
    rule_free(rule);
}

static void test_refused_rules(void)
{
    static const char *refused[] = {
        /* clang-format off */
        "", " ", "x", "1", "1 slot=0", "-1 slot=0 deadline_ms=1 calls=0 error=1", "4294967296 slot=0 deadline_ms=1 calls=0 error=1",
        "1 deadline_ms=1 calls=0", "1 calls=0 error=1", "1 deadline_ms=1 error=1", "1 deadline_ms=0 calls=0 error=1",
        "1 deadline_ms=1 calls=1024 error=1", "1 deadline_ms=1 calls=-1 error=1", "1 deadline_ms=1 calls= error=1",
        "1 deadline_ms=1 calls=0,0 error=1", "1 deadline_ms=1 calls=0 calls=1 error=1", "1 deadline_ms=1 calls=0/x0 error=1",
        "1 deadline_ms=1 calls=0/p error=1", "1 deadline_ms=1 calls=0/p6 error=1", "1 deadline_ms=1 calls=0/p0@ error=1",
        "1 deadline_ms=1 calls=0/p0@0@ error=1", "1 deadline_ms=1 calls=0/p0! error=1", "1 deadline_ms=1 calls=0/p00 error=1",
        "1 deadline_ms=1 calls=0/f0/f1/f2/f3 error=1", "1 deadline_ms=1 calls=0 error=0", "1 deadline_ms=1 calls=0 error=4096",
        "1 deadline_ms=1 calls=0 error=1 retval=1", "1 deadline_ms=1 calls=0 retval=9223372036854775808", "1 deadline_ms=1 calls=0 retval=-1",
        "1 deadline_ms=1 calls=0 signal=0", "1 deadline_ms=1 calls=0 signal=65", "1 deadline_ms=1 calls=0 enter_ns=0",
        "1 deadline_ms=1 calls=0 error=1 first=0", "1 deadline_ms=1 calls=0 error=1 step=0", "1 deadline_ms=1 calls=0 error=1 first=3 last=2",
        "1 deadline_ms=1 calls=0 error=1 threshold=0", "1 deadline_ms=1 calls=0 error=1 threshold=18446744073709551616",
        "1 deadline_ms=1 calls=0 error=1 slot=64", "1 deadline_ms=1 calls=0 error=1 path=", "1 deadline_ms=1 calls=0 error=1 path=2",
        "1 deadline_ms=1 calls=0 error=1 path=2G", "1 deadline_ms=1 calls=0 error=1 path=00", "1 deadline_ms=1 calls=0 error=1 path=2f path=2f",
        "1 deadline_ms=1 calls=0 error=1 placebo=2", "1 deadline_ms=1 calls=0 error=1 unknown=1", "1 deadline_ms=1 calls=0 error=1 budget",
        "1 deadline_ms=1 calls=0 error=1 budget=1x", "1 deadline_ms=1 calls=0 error= 1", "1 deadline_ms=1 calls=0 error=+1",
        /* clang-format on */
    };
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
        struct rule *rule = parse(refused[i]);
        if (rule) {
            printf("not refused: %s\n", refused[i]);
            failures++;
        }
        rule_free(rule);
    }
}

static void test_when(void)
{
    static const struct {
        uint32_t first, last, step;
        const char *calls;
    } cases[] = {
        {1, 0, 1, "123456789"}, {3, 3, 1, "3"},    {3, 0, 1, "3456789"}, {1, 0, 3, "147"},
        {2, 4, 1, "234"},       {2, 9, 2, "2468"}, {9, 9, 1, "9"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct rule rule = {.first = cases[i].first, .last = cases[i].last, .step = cases[i].step};
        char calls[10] = "";
        for (uint32_t n = 1; n <= 9; n++) {
            if (rule_when(&rule, n))
                calls[strlen(calls)] = (char)('0' + n);
        }
        CHECK(!strcmp(calls, cases[i].calls));
    }
}

static void test_draw_and_budget(void)
{
    struct rule rule = {.threshold = UINT64_MAX / 10};
    struct slot slot = {.random = 42}, again = {.random = 42};
    int hits = 0, runs = 0, before = 0;
    for (int i = 0; i < 200000; i++) {
        int hit = rule_draw(&rule, &slot);
        CHECK(hit == rule_draw(&rule, &again));
        hits += hit;
        runs += hit && before;
        before = hit;
    }
    CHECK(hits > 19598 && hits < 20402); /* 3 standard deviations: 402 */
    CHECK(runs > 1800 && runs < 2200);   /* neighbours are independent: 1 % of them are both hit */
    rule = (struct rule){.budget = 100};
    slot = (struct slot){0};
    for (hits = 0; hits < 200 && rule_take(&rule, &slot); hits++)
        CHECK(slot.used == (uint64_t)hits + 1);
    CHECK(hits == 100 && slot.used == 100 && !rule_take(&rule, &slot));
    rule_give_back(&slot);
    CHECK(rule_take(&rule, &slot) && !rule_take(&rule, &slot));
    rule.placebo = true;
    slot = (struct slot){0};
    CHECK(rule_draw(&rule, &slot) && !rule_take(&rule, &slot) && !slot.used);
}

static void test_counts_restart_with_each_rule(void)
{
    struct thread *one = thread_get(7), *two = thread_get(7 + 4096);
    CHECK(one && two && one != two && thread_find(7) == one && thread_get(7) == one && thread_count() == 2);
    CHECK(thread_count_call(one, 3, 1) == 1 && thread_count_call(one, 3, 1) == 2 && thread_count_call(one, 4, 1) == 1);
    CHECK(thread_count_call(one, 3, 2) == 1 && thread_count_call(two, 3, 1) == 1);
    thread_remove(one);
    CHECK(!thread_find(7) && thread_find(7 + 4096) == two);
    thread_remove(two);
    CHECK(!thread_count());
}

/* A valid text with some bytes changed or cut off is accepted or refused, and never read beyond its end. */
static void test_odd_texts(void)
{
    static const char valid[] =
        "7 slot=3 deadline_ms=1000 calls=257/p1@0!3/f0,0/f0 error=13 first=2 last=9 step=3 path=2f65 process=6e";
    static const char bytes[] = " =,/@!pfl0129az\x01\xff";
    srandom(1);
    for (int i = 0; i < 200000; i++) {
        char text[sizeof(valid)];
        memcpy(text, valid, sizeof(valid));
        for (long changes = random() % 4; changes >= 0; changes--)
            text[random() % (long)(sizeof(valid) - 1)] = bytes[random() % (long)(sizeof(bytes) - 1)];
        text[random() % (long)sizeof(valid)] = 0;
        rule_free(parse(text));
    }
}

int main(void)
{
    test_valid_rules();
    test_refused_rules();
    test_when();
    test_draw_and_budget();
    test_counts_restart_with_each_rule();
    test_odd_texts();
    printf(failures ? "%d checks failed\n" : "all checks hold\n", failures);
    return failures != 0;
}
