/* What all programs share: types, maps, counters and histograms. */

#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>

#define UNUSED __attribute__((unused))

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;

/* Latency histograms, as in agent/histogram.py. slots[i] counts what took less than 2^(FIRST_SLOT + i) ns and is in no earlier
 * slot; the last slot has no upper bound. */
#define FIRST_SLOT 8
#define SLOTS 28

#define HASH(map, key_type, value_type, entries) MAP(BPF_MAP_TYPE_HASH, map, key_type, value_type, entries)
#define PER_CPU_HASH(map, key_type, value_type, entries) MAP(BPF_MAP_TYPE_PERCPU_HASH, map, key_type, value_type, entries)
#define LRU_HASH(map, key_type, value_type, entries) MAP(BPF_MAP_TYPE_LRU_HASH, map, key_type, value_type, entries)
#define ARRAY(map, value_type, entries) MAP(BPF_MAP_TYPE_ARRAY, map, u32, value_type, entries)
#define PROGRAMS(map, entries) MAP(BPF_MAP_TYPE_PROG_ARRAY, map, u32, u32, entries)

#define MAP(map_type, map, key_type, value_type, entries) \
    struct {                                              \
        __uint(type, map_type);                           \
        __uint(max_entries, entries);                     \
        __type(key, key_type);                            \
        __type(value, value_type);                        \
    } map SEC(".maps")

/* A counter of the updates that found a map full. */
#define DROPS                                          \
    ARRAY(dropped, u64, 1);                            \
    static __always_inline void drop(void)             \
    {                                                  \
        u32 zero = 0;                                  \
        u64 *n = bpf_map_lookup_elem(&dropped, &zero); \
        if (n)                                         \
            __sync_fetch_and_add(n, 1);                \
    }

/* Look up a key, and insert an initial value if it is missing. Return NULL if the map is full. */
static __always_inline void *lookup_or_init(void *map, const void *key, const void *initial)
{
    void *value = bpf_map_lookup_elem(map, key);
    if (value)
        return value;
    bpf_map_update_elem(map, key, initial, BPF_NOEXIST);
    return bpf_map_lookup_elem(map, key);
}

/* Add one to a counter. Return false if the map is full. */
static __always_inline bool add_one(void *map, const void *key)
{
    u64 zero = 0;
    u64 *count = lookup_or_init(map, key, &zero);
    if (count)
        __sync_fetch_and_add(count, 1);
    return count;
}

static __always_inline u32 bit_length(u64 number)
{
    u32 bits = 0;
#define HALF(width)        \
    if (number >> width) { \
        bits += width;     \
        number >>= width;  \
    }
    HALF(32)
    HALF(16)
    HALF(8)
    HALF(4)
    HALF(2)
    HALF(1)
    return bits + number;
}

static __always_inline u32 slot_of(u64 nanoseconds)
{
    u32 bits = bit_length(nanoseconds);
    u32 slot = bits <= FIRST_SLOT ? 0 : bits - FIRST_SLOT;
    return slot < SLOTS ? slot : SLOTS - 1;
}

char licence[] SEC("license") = "GPL";
