/*
 * The cookie of a uprobe of arm.c: what the agent found out about its site. injectors/cookie.py makes it.
 *
 *     bits     content
 *     0-15     the number of the system call; COOKIE_NR_UNKNOWN: it is in a register or in memory
 *     16-31    the distance from the probe to the `syscall` instruction, signed
 *     32-47    IS_EARLY, HAS_DETOUR: a distance from the probe, signed, see below
 *     32-39    otherwise: the register that holds the number, or that points to it with IN_MEMORY
 *     40-55    IN_MEMORY: the displacement from that register, signed
 *     48-55    HAS_DETOUR: a distance from the probe, unsigned, see below
 *     56-59    HAS_CONDITION, HAS_DETOUR: the condition of the jump at the site, as instructions encode it
 *     60-63    the flags
 *
 * With IS_EARLY, the far distance (32-47) leads to where straight-line code to the `syscall` begins. With HAS_CONDITION, the site
 * makes the call only if the condition holds. With HAS_DETOUR, the thread continues at one of two places, from which it gets to the
 * same `syscall`. If the condition holds, straight-line code leads there: from the near distance (48-55), or with IS_EARLY from the
 * far one. If it does not hold, the thread continues at the other distance.
 */

#pragma once

#define COOKIE_NR 0xffff
#define COOKIE_NR_UNKNOWN 0xffff
#define COOKIE_TO_SYSCALL_SHIFT 16
#define COOKIE_FAR_SHIFT 32
#define COOKIE_REGISTER_SHIFT 32
#define COOKIE_REGISTER 0xff
#define COOKIE_DISPLACEMENT_SHIFT 40
#define COOKIE_NEAR_SHIFT 48
#define COOKIE_CONDITION_SHIFT 56
#define COOKIE_CONDITION 15
#define COOKIE_IN_MEMORY (1ull << 60)
#define COOKIE_IS_EARLY (1ull << 61)
#define COOKIE_HAS_CONDITION (1ull << 62)
#define COOKIE_HAS_DETOUR (1ull << 63)
