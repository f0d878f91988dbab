/* Injects a fault into one of the system calls that write below given folders. Loaded by LD_PRELOAD.
 *
 * The processes of a trial share a control block: a file that FAULTS_CONTROL names, or that faults_attach maps. Each call
 * that creates, writes, syncs, renames or removes something below a folder gets a number, counted over all processes, and
 * a line in the trace. The calls of the numbers [at, at + length) have the fault. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { NOTHING, KILL, TORN, SHORT, FAIL, SIGNAL };

struct control { /* the layout of shim.Control */
    char folders[4][1024];
    int action;
    int value; /* the error number, or the signal */
    int at;    /* number of the first call with the fault, from 1 */
    int length;
    int count; /* calls so far */
    int fired; /* faults so far */
};

static struct control *control;
static int trace = -1;

void faults_attach(const char *path) {
    char name[PATH_MAX];
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    void *block = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    snprintf(name, sizeof name, "%s.trace", path);
    trace = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    control = block == MAP_FAILED ? NULL : block;
}

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULTS_CONTROL");
    if (path && *path)
        faults_attach(path);
}

static int is_watched(const char *path) {
    for (int i = 0; i < 4 && control->folders[i][0]; i++) {
        size_t length = strlen(control->folders[i]);
        if (!strncmp(path, control->folders[i], length) && (path[length] == '/' || !path[length]))
            return 1;
    }
    return 0;
}

static void link_target(const char *link, char *out) {
    ssize_t length = syscall(SYS_readlink, link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
}

static void path_of(int fd, const char *path, char *out) {
    char link[64], folder[PATH_MAX];
    if (path && path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    if (fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    link_target(link, folder);
    snprintf(out, PATH_MAX, path ? "%.2000s/%.2000s" : "%.2000s", folder, path);
}

/* Counts a call; returns 0 to go on, -1 with errno for a failure, 1 for a write of half the bytes, 2 to die after it. */
static int check(const char *name, int fd, const char *path, int is_write) {
    char full[PATH_MAX], line[PATH_MAX + 64];
    if (!control)
        return 0;
    int saved = errno;
    path_of(fd, path, full);
    errno = saved;
    if (!is_watched(full))
        return 0;
    int number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    int length = snprintf(line, sizeof line, "%d\t%s\t%s\n", number, name, full);
    if (trace >= 0)
        syscall(SYS_write, trace, line, length);
    errno = saved;
    if (control->action == NOTHING || number < control->at || number - control->at >= control->length)
        return 0;
    __atomic_add_fetch(&control->fired, 1, __ATOMIC_SEQ_CST);
    switch (control->action) {
    case KILL:
        syscall(SYS_kill, getpid(), SIGKILL);
        return 0;
    case TORN:
        if (!is_write)
            syscall(SYS_kill, getpid(), SIGKILL);
        return 2;
    case SHORT:
        return is_write ? 1 : 0;
    case SIGNAL:
        syscall(SYS_kill, 0, control->value); /* the whole process group, as a terminal or a batch system does */
        return 0;
    }
    if (control->value == ENOSPC && (!strncmp(name, "unlink", 6) || !strcmp(name, "rmdir")))
        return 0; /* a full disk lets files be removed */
    if (control->value == ENOSPC && control->length > 1 && number == control->at && is_write)
        return 1; /* the disk fills up during a write */
    errno = control->value;
    return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define HALF(n) ((n) > 1 ? (n) / 2 : (n))
#define WRITE(name, fd, n, ...)                                                                                        \
    do {                                                                                                               \
        int verdict = check(#name, fd, NULL, 1);                                                                       \
        if (verdict < 0)                                                                                               \
            return -1;                                                                                                 \
        size_t count = verdict ? HALF(n) : (n);                                                                        \
        ssize_t written = REAL(name)(__VA_ARGS__);                                                                     \
        if (verdict == 2)                                                                                              \
            syscall(SYS_kill, getpid(), SIGKILL);                                                                      \
        return written;                                                                                                \
    } while (0)

ssize_t write(int fd, const void *data, size_t n) { WRITE(write, fd, n, fd, data, count); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { WRITE(pwrite, fd, n, fd, data, count, at); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { WRITE(pwrite64, fd, n, fd, data, count, at); }
ssize_t sendfile(int out, int in, off_t *at, size_t n);
ssize_t sendfile(int out, int in, off_t *at, size_t n) { WRITE(sendfile, out, n, out, in, at, count); }
ssize_t sendfile64(int out, int in, off64_t *at, size_t n);
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) { WRITE(sendfile64, out, n, out, in, at, count); }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) {
    WRITE(copy_file_range, out, n, in, a, out, b, count, flags);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    int verdict = check("writev", fd, NULL, 1);
    if (verdict < 0)
        return -1;
    if (!verdict)
        return REAL(writev)(fd, parts, n);
    ssize_t written = REAL(write)(fd, parts[0].iov_base, HALF(parts[0].iov_len));
    if (verdict == 2)
        syscall(SYS_kill, getpid(), SIGKILL);
    return written;
}

#define CALL(name, fd, path, ...) return check(#name, fd, path, 0) < 0 ? -1 : REAL(name)(__VA_ARGS__)
int fsync(int fd) { CALL(fsync, fd, NULL, fd); }
int fdatasync(int fd) { CALL(fdatasync, fd, NULL, fd); }
int ftruncate(int fd, off_t n) { CALL(ftruncate, fd, NULL, fd, n); }
int ftruncate64(int fd, off64_t n) { CALL(ftruncate64, fd, NULL, fd, n); }
int truncate(const char *p, off_t n) { CALL(truncate, AT_FDCWD, p, p, n); }
int truncate64(const char *p, off64_t n) { CALL(truncate64, AT_FDCWD, p, p, n); }
int fallocate(int fd, int mode, off_t at, off_t n) { CALL(fallocate, fd, NULL, fd, mode, at, n); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { CALL(fallocate64, fd, NULL, fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n) {
    return check("posix_fallocate", fd, NULL, 0) < 0 ? errno : REAL(posix_fallocate)(fd, at, n);
}
int posix_fallocate64(int fd, off64_t at, off64_t n) {
    return check("posix_fallocate64", fd, NULL, 0) < 0 ? errno : REAL(posix_fallocate64)(fd, at, n);
}
int mkdir(const char *p, mode_t m) { CALL(mkdir, AT_FDCWD, p, p, m); }
int mkdirat(int fd, const char *p, mode_t m) { CALL(mkdirat, fd, p, fd, p, m); }
int rmdir(const char *p) { CALL(rmdir, AT_FDCWD, p, p); }
int unlink(const char *p) { CALL(unlink, AT_FDCWD, p, p); }
int unlinkat(int fd, const char *p, int flags) { CALL(unlinkat, fd, p, fd, p, flags); }
int rename(const char *a, const char *b) { CALL(rename, AT_FDCWD, b, a, b); }
int renameat(int c, const char *a, int d, const char *b) { CALL(renameat, d, b, c, a, d, b); }
int renameat2(int c, const char *a, int d, const char *b, unsigned f) { CALL(renameat2, d, b, c, a, d, b, f); }
int link(const char *a, const char *b) { CALL(link, AT_FDCWD, b, a, b); }
int linkat(int c, const char *a, int d, const char *b, int f) { CALL(linkat, d, b, c, a, d, b, f); }
int symlink(const char *a, const char *b) { CALL(symlink, AT_FDCWD, b, a, b); }
int symlinkat(const char *a, int d, const char *b) { CALL(symlinkat, d, b, a, d, b); }
int chmod(const char *p, mode_t m) { CALL(chmod, AT_FDCWD, p, p, m); }
int fchmod(int fd, mode_t m) { CALL(fchmod, fd, NULL, fd, m); }
int fchmodat(int fd, const char *p, mode_t m, int f) { CALL(fchmodat, fd, p, fd, p, m, f); }
int utimensat(int fd, const char *p, const struct timespec t[2], int f) { CALL(utimensat, fd, p, fd, p, t, f); }
int futimens(int fd, const struct timespec t[2]) { CALL(futimens, fd, NULL, fd, t); }

#define OPEN(name, fd, path, ...)                                                                                      \
    do {                                                                                                               \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                                         \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        if ((flags & (O_CREAT | O_TRUNC)) && check(#name, fd, path, 0) < 0)                                            \
            return -1;                                                                                                 \
        return REAL(name)(__VA_ARGS__, flags, mode);                                                                   \
    } while (0)
int open(const char *p, int flags, ...) { OPEN(open, AT_FDCWD, p, p); }
int open64(const char *p, int flags, ...) { OPEN(open64, AT_FDCWD, p, p); }
int openat(int fd, const char *p, int flags, ...) { OPEN(openat, fd, p, fd, p); }
int openat64(int fd, const char *p, int flags, ...) { OPEN(openat64, fd, p, fd, p); }
int creat(const char *p, mode_t m) { CALL(creat, AT_FDCWD, p, p, m); }
int creat64(const char *p, mode_t m) { CALL(creat64, AT_FDCWD, p, p, m); }
FILE *fopen(const char *p, const char *m) {
    return m[0] != 'r' && check("fopen", AT_FDCWD, p, 0) < 0 ? NULL : REAL(fopen)(p, m);
}
FILE *fopen64(const char *p, const char *m) {
    return m[0] != 'r' && check("fopen64", AT_FDCWD, p, 0) < 0 ? NULL : REAL(fopen64)(p, m);
}
