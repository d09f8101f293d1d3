#include "rule.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool number(const char *text, uint64_t most, uint64_t *value)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return !errno && !*end && *value <= most;
}

/* Decode text from pairs of hexadecimal digits. It may contain any byte but NUL. */
static char *from_hex(const char *hex)
{
    static const char digits[] = "0123456789abcdef";
    size_t length = strlen(hex);
    char *text = length && length % 2 == 0 ? malloc(length / 2 + 1) : NULL;
    if (!text)
        return NULL;
    for (size_t i = 0; i < length; i += 2) {
        const char *high = strchr(digits, hex[i]), *low = strchr(digits, hex[i + 1]);
        if (!high || !low || !*high || !*low || (high == digits && low == digits)) {
            free(text);
            return NULL;
        }
        text[i / 2] = (char)((high - digits) * 16 + (low - digits));
    }
    text[length / 2] = 0;
    return text;
}

/* `p1@0!3`: argument 1 is a path relative to the directory in argument 0, with flags in argument 3. */
static bool parse_argument(const char *text, struct file_argument *argument)
{
    *argument = (struct file_argument){.directory = -1, .flags = -1};
    if (!strchr("fpl", *text) || !*text)
        return false;
    argument->is_path = *text != 'f';
    argument->follows = *text != 'l';
    int *into = &argument->index;
    for (text++; into; text++) {
        if (*text < '0' || *text > '5')
            return false;
        *into = *text++ - '0';
        into = *text == '@' ? &argument->directory : *text == '!' ? &argument->flags : NULL;
        if (!into)
            return !*text;
    }
    return false;
}

static bool parse_call(char *text, struct call *call)
{
    uint64_t nr;
    char *rest, *word = strtok_r(text, "/", &rest);
    *call = (struct call){0};
    if (!word || !number(word, NR_MAX - 1, &nr))
        return false;
    call->nr = (int)nr;
    while ((word = strtok_r(NULL, "/", &rest))) {
        if (call->arguments == ARGUMENTS_MAX || !parse_argument(word, &call->argument[call->arguments++]))
            return false;
    }
    return true;
}

static bool parse_calls(char *text, struct rule *rule)
{
    char *rest, *word;
    if (rule->calls)
        return false;
    rule->calls = calloc(NR_MAX, sizeof(*rule->calls));
    for (word = strtok_r(text, ",", &rest); rule->calls && word; word = strtok_r(NULL, ",", &rest)) {
        struct call call;
        if (!parse_call(word, &call) || rule_call(rule, call.nr))
            return false;
        rule->calls[rule->call_count++] = call;
    }
    return rule->call_count > 0;
}

static bool parse_word(struct rule *rule, const char *name, char *value)
{
    uint64_t n = 0;
    if (!strcmp(name, "calls"))
        return parse_calls(value, rule);
    if (!strcmp(name, "path"))
        return !rule->path && (rule->path = from_hex(value));
    if (!strcmp(name, "process"))
        return !rule->process && (rule->process = from_hex(value));
    if (!number(value, INT64_MAX, &n) && strcmp(name, "threshold"))
        return false;
    if (!strcmp(name, "threshold"))
        return number(value, UINT64_MAX, &rule->threshold) && rule->threshold;
    if (!strcmp(name, "slot"))
        return n < SLOTS && ((rule->slot = (uint32_t)n), true);
    if (!strcmp(name, "error"))
        return n && n <= 4095 && ((rule->error = (int)n), (rule->effects |= ERROR));
    if (!strcmp(name, "retval"))
        return (rule->retval = (int64_t)n), (rule->effects |= RETVAL);
    if (!strcmp(name, "signal"))
        return n && n < 65 && ((rule->signal = (int)n), (rule->effects |= SIGNAL));
    if (!strcmp(name, "enter_ns"))
        return n && ((rule->enter_ns = n), (rule->effects |= DELAY_ENTER));
    if (!strcmp(name, "exit_ns"))
        return n && ((rule->exit_ns = n), (rule->effects |= DELAY_EXIT));
    if (!strcmp(name, "first"))
        return n && n <= UINT32_MAX && (rule->first = (uint32_t)n);
    if (!strcmp(name, "last"))
        return n && n <= UINT32_MAX && (rule->last = (uint32_t)n);
    if (!strcmp(name, "step"))
        return n && n <= UINT32_MAX && (rule->step = (uint32_t)n);
    if (!strcmp(name, "budget"))
        return (rule->budget = n);
    if (!strcmp(name, "deadline_ms"))
        return (rule->deadline_ms = n);
    if (!strcmp(name, "placebo"))
        return n == 1 && (rule->placebo = true);
    return false;
}

struct rule *rule_parse(char *words, const char **reason)
{
    char *rest, *word = strtok_r(words, " ", &rest);
    uint64_t id;
    struct rule *rule = calloc(1, sizeof(*rule));
    *reason = NULL;
    if (!rule)
        *reason = "memory";
    else if (!word || !number(word, UINT32_MAX, &id))
        *reason = "id";
    if (*reason)
        goto refused;
    *rule = (struct rule){.id = (uint32_t)id, .first = 1, .step = 1};
    while ((word = strtok_r(NULL, " ", &rest))) {
        char *value = strchr(word, '=');
        *reason = word;
        if (!value)
            goto refused;
        *value++ = 0;
        if (!parse_word(rule, word, value))
            goto refused;
    }
    *reason = !rule->calls                                                               ? "calls"
              : !rule->effects || (rule->effects & (ERROR | RETVAL)) == (ERROR | RETVAL) ? "effects"
              : !rule->deadline_ms                                                       ? "deadline_ms"
              : rule->last && rule->last < rule->first                                   ? "last"
                                                                                         : NULL;
    if (!*reason)
        return rule;
refused:
    rule_free(rule);
    return NULL;
}

void rule_free(struct rule *rule)
{
    if (!rule)
        return;
    free(rule->calls);
    free(rule->path);
    free(rule->process);
    free(rule);
}

const struct call *rule_call(const struct rule *rule, int nr)
{
    for (int i = 0; i < rule->call_count; i++) {
        if (rule->calls[i].nr == nr)
            return &rule->calls[i];
    }
    return NULL;
}

bool rule_when(const struct rule *rule, uint32_t number)
{
    return number >= rule->first && (!rule->last || number <= rule->last) && (number - rule->first) % rule->step == 0;
}

/* SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = __atomic_add_fetch(state, 0x9e3779b97f4a7c15, __ATOMIC_RELAXED);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

bool rule_draw(const struct rule *rule, struct slot *slot)
{
    return !rule->threshold || next_random(&slot->random) < rule->threshold;
}

bool rule_take(const struct rule *rule, struct slot *slot)
{
    if (rule->placebo)
        return false;
    uint64_t used = __atomic_load_n(&slot->used, __ATOMIC_RELAXED);
    do {
        if (rule->budget && used >= rule->budget)
            return false;
    } while (!__atomic_compare_exchange_n(&slot->used, &used, used + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

void rule_give_back(struct slot *slot)
{
    __atomic_sub_fetch(&slot->used, 1, __ATOMIC_RELAXED);
}

int64_t rule_result(const struct rule *rule)
{
    return rule->effects & ERROR ? -(int64_t)rule->error : rule->retval;
}
