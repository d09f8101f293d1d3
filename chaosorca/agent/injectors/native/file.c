#include "file.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * A file by its canonical path and by its inode, since neither is enough. A file that does not exist yet, or no longer, has only
 * the path. A file with several names, or in several mounts, is the same by device and inode.
 */
struct file {
    char path[PATH_MAX];
    bool exists;
    dev_t device;
    ino_t inode;
};

static bool same(const struct file *a, const struct file *b)
{
    return (a->exists && b->exists && a->device == b->device && a->inode == b->inode) || (*a->path && !strcmp(a->path, b->path));
}

static void identify(struct file *file, const struct stat *status)
{
    file->exists = true;
    file->device = status->st_dev;
    file->inode = status->st_ino;
}

/* Read a link of /proc. The path of a removed file is the one that it had. */
static bool read_link(const char *link, char path[PATH_MAX])
{
    static const char deleted[] = " (deleted)";
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    size_t suffix = sizeof(deleted) - 1;
    if (length > (ssize_t)suffix && !strcmp(path + length - suffix, deleted))
        path[(size_t)length - suffix] = 0;
    return length > 0;
}

static bool by_descriptor(pid_t tid, int fd, struct file *file)
{
    char link[64];
    struct stat status;
    *file = (struct file){0};
    snprintf(link, sizeof(link), "/proc/%d/fd/%d", tid, fd);
    if (!read_link(link, file->path))
        return false;
    if (!stat(link, &status))
        identify(file, &status);
    return true;
}

/* Open a path with a directory as the root. Nothing is read, and no device is opened. */
static int open_in(int root, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

static bool by_open(int fd, struct file *file)
{
    char link[64];
    struct stat status;
    if (fd < 0)
        return false;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    bool found = read_link(link, file->path) && !fstat(fd, &status);
    if (found)
        identify(file, &status);
    close(fd);
    return found;
}

/* Find a file by an absolute path in a root. The last component need not exist. A link there is followed only if `follows`. */
static bool by_path(int root, const char *path, bool follows, struct file *file)
{
    char parent[PATH_MAX];
    size_t length = strlen(path);
    *file = (struct file){0};
    if (follows && by_open(open_in(root, path), file))
        return true;
    if (length >= sizeof(parent))
        return false;
    memcpy(parent, path, length + 1);
    while (length > 1 && parent[length - 1] == '/')
        parent[--length] = 0;
    char *slash = strrchr(parent, '/');
    if (!slash || !slash[1])
        return by_open(open_in(root, "/"), file);
    char name[NAME_MAX + 1];
    if (snprintf(name, sizeof(name), "%s", slash + 1) >= (int)sizeof(name))
        return false;
    slash[slash == parent] = 0;
    int directory = open_in(root, parent);
    if (directory < 0)
        return false;
    struct stat status;
    bool exists = !fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW);
    if (!by_open(directory, file))
        return false;
    length = strlen(file->path);
    if (length + 1 + strlen(name) >= sizeof(file->path))
        return false;
    snprintf(file->path + length, sizeof(file->path) - length, "%s%s", file->path[length - 1] == '/' ? "" : "/", name);
    file->exists = false;
    if (exists)
        identify(file, &status);
    return true;
}

/* Read a string from a thread's memory, page by page, since the next page may not be mapped. */
static bool read_string(pid_t tid, uint64_t address, char text[PATH_MAX])
{
    const size_t page = 4096;
    for (size_t length = 0; length < PATH_MAX - 1;) {
        size_t most = page - (size_t)((address + length) % page);
        if (most > PATH_MAX - 1 - length)
            most = PATH_MAX - 1 - length;
        struct iovec to = {text + length, most}, from = {(void *)(uintptr_t)(address + length), most};
        ssize_t n = process_vm_readv(tid, &to, 1, &from, 1, 0);
        if (n <= 0)
            return false;
        if (memchr(text + length, 0, (size_t)n))
            return true;
        length += (size_t)n;
    }
    return false;
}

/* Find the directory at which a relative path begins, as a path in the thread's root. */
static bool base_directory(pid_t tid, const char *root, int fd, char path[PATH_MAX])
{
    char link[64];
    if (fd == AT_FDCWD)
        snprintf(link, sizeof(link), "/proc/%d/cwd", tid);
    else
        snprintf(link, sizeof(link), "/proc/%d/fd/%d", tid, fd);
    if (!read_link(link, path) || *path != '/')
        return false;
    size_t length = strlen(root);
    if (length > 1 && !strncmp(path, root, length) && (path[length] == '/' || !path[length]))
        memmove(path, path + length, strlen(path + length) + 1);
    return true;
}

static bool argument_is(pid_t tid, int root, const struct file_argument *argument, const uint64_t values[6], const char *wanted)
{
    struct file file, target;
    int directory = argument->directory < 0 ? AT_FDCWD : (int)values[argument->directory];
    bool follows = argument->follows && !(argument->flags >= 0 && values[argument->flags] & AT_SYMLINK_NOFOLLOW);
    if (!argument->is_path)
        return by_descriptor(tid, (int)values[argument->index], &file) && by_path(root, wanted, true, &target) &&
               same(&file, &target);

    char given[PATH_MAX], path[2 * PATH_MAX], root_path[PATH_MAX], link[64];
    if (!read_string(tid, values[argument->index], given))
        return false;
    if (!*given) /* AT_EMPTY_PATH: the file that the descriptor refers to */
        return directory != AT_FDCWD && by_descriptor(tid, directory, &file) && by_path(root, wanted, true, &target) &&
               same(&file, &target);
    if (*given == '/') {
        snprintf(path, sizeof(path), "%s", given);
    } else {
        char base[PATH_MAX];
        snprintf(link, sizeof(link), "/proc/%d/root", tid);
        if (!read_link(link, root_path) || !base_directory(tid, root_path, directory, base))
            return false;
        snprintf(path, sizeof(path), "%s/%s", base, given);
    }
    return by_path(root, path, follows, &file) && by_path(root, wanted, follows, &target) && same(&file, &target);
}

bool file_matches(pid_t tid, const struct call *call, const uint64_t arguments[6], const char *path)
{
    char link[64];
    snprintf(link, sizeof(link), "/proc/%d/root", tid);
    int root = open(link, O_PATH | O_CLOEXEC);
    bool found = false;
    for (int i = 0; root >= 0 && i < call->arguments && !found; i++)
        found = argument_is(tid, root, &call->argument[i], arguments, path);
    if (root >= 0)
        close(root);
    return found;
}

bool process_matches(pid_t tid, const char *text)
{
    char link[64], *line = NULL;
    size_t size = 0, used = 0, length = strlen(text);
    bool found = false;
    snprintf(link, sizeof(link), "/proc/%d/cmdline", tid);
    int fd = open(link, O_RDONLY | O_CLOEXEC);
    for (ssize_t n = 1; fd >= 0 && n > 0; used += n > 0 ? (size_t)n : 0) {
        if (used + 1 >= size) {
            char *grown = realloc(line, size += 4096);
            if (!grown)
                break;
            line = grown;
        }
        n = read(fd, line + used, size - used - 1);
    }
    if (fd >= 0)
        close(fd);
    for (size_t i = 0; i < used; i++) {
        if (!line[i])
            line[i] = ' ';
    }
    for (size_t i = 0; line && i + length <= used && !found; i++)
        found = !memcmp(line + i, text, length);
    free(line);
    return found;
}
