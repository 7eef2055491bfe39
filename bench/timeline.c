/* Notes when a process sends, receives, wakes up and starts threads: loaded before libc (LD_PRELOAD) by timeline.py.
 *
 * Writes records of 32 bytes to $TIMELINE.<pid>: start and end in nanoseconds of CLOCK_MONOTONIC, thread, kind, what the call returned.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef enum { MARK = 1, SEND, RECEIVE, WAKE, SPREAD, GATHER } Kind; /* timeline.py has the same */

typedef struct {
    int64_t start, end;
    int32_t thread, kind;
    int64_t result;
} Record;

#define MOST_RECORDS (1 << 20) /* what comes later is left out */

static Record *records;
static atomic_long count;

__attribute__((constructor)) static void open_records(void) {
    const char *prefix = getenv("TIMELINE");
    char path[4096];
    if (!prefix) return;
    snprintf(path, sizeof path, "%s.%d", prefix, getpid());
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, MOST_RECORDS * sizeof(Record))) return;
    void *memory = mmap(0, MOST_RECORDS * sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) records = memory;
    close(file);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void note(Kind kind, int64_t start, int64_t result) {
    static __thread int32_t thread;
    if (!records) return;
    if (!thread) thread = (int32_t)syscall(SYS_gettid);
    long i = atomic_fetch_add(&count, 1);
    if (i < MOST_RECORDS) records[i] = (Record){start, now(), thread, (int32_t)kind, result};
}

void timeline_mark(int64_t number) { note(MARK, now(), number); }

#define NOTED(kind, type, name, parameters, arguments) \
    type name parameters { \
        static type(*real) parameters; \
        if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
        int64_t start = now(); \
        type result = real arguments; \
        note(kind, start, (int64_t)result); \
        return result; \
    }

NOTED(SEND, ssize_t, sendmsg, (int socket, const struct msghdr *message, int flags), (socket, message, flags))
NOTED(RECEIVE, ssize_t, recvmsg, (int socket, struct msghdr *message, int flags), (socket, message, flags))
NOTED(WAKE, int, epoll_wait, (int file, struct epoll_event *events, int most, int timeout), (file, events, most, timeout))
NOTED(WAKE, int, epoll_pwait, (int file, struct epoll_event *events, int most, int timeout, const sigset_t *signals),
      (file, events, most, timeout, signals))
NOTED(SPREAD, int, pthread_create, (pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *of),
      (thread, attributes, run, of))
NOTED(GATHER, int, pthread_join, (pthread_t thread, void **answer), (thread, answer))
