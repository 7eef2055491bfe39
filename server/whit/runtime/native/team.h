/* Threads that compute one micro-batch together: each its share of columns, heads or tokens, then all meet.
 *
 * What a share is changes no value: columns, heads and tokens are computed apart from each other anyway.
 */
#ifndef WHIT_TEAM_H
#define WHIT_TEAM_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#define MOST_MEMBERS 8
#define PATIENCE 2000 /* turns of waiting until a core is given away: longer than a share takes, if all members have one */

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() __asm__ volatile("yield")
#endif

typedef struct {
    _Alignas(64) _Atomic int64_t size; /* 0 until it is known how many there are */
    _Alignas(64) _Atomic int64_t arrived;
    _Alignas(64) _Atomic int64_t meeting;
} Team;

static void wait_while(_Atomic int64_t *at, int64_t value) {
    for (int64_t turn = 0; atomic_load_explicit(at, memory_order_acquire) == value; turn++) {
        if (turn < PATIENCE)
            RELAX();
        else
            sched_yield();
    }
}

/* Waits for all members: what each wrote before is there for all after. */
static void meet(Team *team) {
    int64_t size = atomic_load_explicit(&team->size, memory_order_relaxed);
    if (size == 1) return;
    int64_t meeting = atomic_load_explicit(&team->meeting, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 < size) {
        wait_while(&team->meeting, meeting);
        return;
    }
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team->meeting, meeting + 1, memory_order_release);
}

/* From `from` up to `to`. */
typedef struct {
    int64_t from, to;
} Share;

static Share share(const Team *team, int64_t member, int64_t count) {
    int64_t size = atomic_load_explicit(&team->size, memory_order_relaxed);
    return (Share){count * member / size, count * (member + 1) / size};
}

#endif
