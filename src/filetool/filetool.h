/* sbx-files: works on files inside a sandbox, for the server.
 *
 * It stands beside sbx-agent in the volume of every sandbox and is started as a command of the
 * sandbox's user, so it may do what that user may, and nothing has to be checked twice. One thread,
 * one operation a process, nothing kept. It parses hostile archives, so it is not the server.
 *
 * Standard input is what comes in, standard output what goes out. Status 0: done. Status 1: failed,
 * and standard error holds exactly one line of at most 1,024 bytes,
 *     {"code":"not_found","message":"...","path":"/home/user/x"}
 * (with "encoding":"base64" if the path is not UTF-8; without "path" if it is too long for the line
 * or none is meant; "sizeBytes" beside "range"). Status 2: wrong usage, a text on standard error.
 * Ended by a signal: what a half done operation had made is taken away on TERM, INT and HUP; KILL
 * can leave a hidden file .sbx-XXXXXXXXXXXXXXXX where the file system has no O_TMPFILE, and in
 * batch, copy and move. Any other status or signal: it is broken, or memory is out.
 *
 * codes: not_found is_directory not_directory exists not_empty permission_denied no_space too_large
 *        invalid unsupported busy io_error range changed
 *
 * Paths are bytes, absolute or relative to $HOME (without HOME: the home that /etc/passwd names),
 * and absolute at most 4,095 bytes long, as the kernel wants it; what lies deeper is still listed,
 * copied, packed and removed. A link in the middle of a path is followed. A link at its end is
 * followed by read, write, list, pack, unpack and watch, and is meant itself by stat, remove, move
 * and copy. MODE is octal, 0 to 7777, "-" for none. Flags are 0 or 1. All arguments stand in this
 * order.
 *
 * An entry is one line:
 *     {"name":"x","path":"/home/user/x","type":"file|directory|symlink|other","sizeBytes":1,
 *      "mode":"0644","owner":"user","group":"user","modifiedAt":"2026-01-02T03:04:05.678Z",
 *      "target":null}
 * "target" is text for a symlink. "path" is absolute: as asked for, joined with the home, without
 * doubled or trailing slashes. If name, path or target are not UTF-8, all three are base64 and
 * "encoding":"base64" follows. Owner and group are a number in text where no name is known. A
 * regular file has "etag" as well (not in list): [0-9a-f-]{1,90}, strong (device, inode, size,
 * mtime and ctime in ns), without quotes.
 *
 * stat PATH
 *     the entry
 * list PATH DEPTH LIMIT
 *     entries beneath the directory, each before those beneath it, sorted by the bytes of the
 *     name; DEPTH 1..256, LIMIT 1..100000. An entry that cannot be listed further has
 *     "error":CODE. The last line is always {"truncated":BOOL}
 * read PATH RANGE
 *     a line: the entry with "range":{"from":F,"to":T}; then T - F bytes, the first of them at
 *     F (T itself is not among them). RANGE: "-" all, "N-M", "N-", "-N" as in RFC 9110; range
 *     if there is nothing to serve. The file shrinks while it is sent: io_error. Files of
 *     procfs and sysfs have the size of what they hold, 1 MiB at most. No regular
 *     file: is_directory or unsupported, at once
 * write PATH MODE PARENTS SIZE [IFMATCH]
 *     takes SIZE bytes, or with "-" all until the end of input, and puts them in the place of
 *     PATH, at once or not at all: input that ends before SIZE bytes changes nothing
 *     (invalid). With "-" whoever wants to give up sends a signal. MODE "-" keeps the mode of
 *     what was there, or is 0666 without the umask. PARENTS 1 makes missing directories.
 *     IFMATCH: an etag, "*" (PATH must exist) or "-" (it must not), else changed; looked at
 *     first and again at the end. Answers the entry with "created":BOOL
 * remove PATH RECURSIVE
 *     the entry that was there. A directory: only if it is empty, else not_empty, unless
 *     RECURSIVE
 * mkdir PATH PARENTS MODE
 *     the entry with "created":BOOL. With PARENTS missing directories are made and one that is
 *     there already is fine; without, it is exists
 * move FROM TO OVERWRITE
 *     the entry of TO. OVERWRITE 0: exists if there is a TO. 1: as rename(2): a directory
 *     takes the place of an empty directory only (not_empty), a file never that of a directory
 *     (is_directory) nor the other way round (not_directory). To another file system by a copy
 * copy FROM TO OVERWRITE
 *     the same for a whole copy: modes, times, links, user.* attributes, holes. TO appears
 *     when it is complete
 * batch
 *     input: u32 count, then as often u32 length of path, u32 mode (or 0xffffffff), u64 size,
 *     path, bytes; all little-endian; 1..10000 records. Missing directories are made. All
 *     contents are written before the first file takes its place; on a failure before that
 *     nothing has changed. Two records with one path: invalid. Answers the entries with
 *     "created", in the order of the records. Beside a file named as the code of a run is
 *     (.run-, an id, an ending) those of the same user that are older than two hours are
 *     removed: their servers died
 * pack PATH tar|tar.gz|zip
 *     an archive of what is beneath a directory, or of one file; names are relative to PATH.
 *     Sockets are left out. Status 1 behind bytes that have been sent: the archive is not
 *     whole
 * unpack PATH MAX_BYTES MAX_ENTRIES (up to 2^50 and 10,000,000)
 *     input: tar, tar.gz or zip, told by its bytes, extracted beneath the directory PATH,
 *     which is made if it is missing. Answers
 *     {"files":N,"directories":N,"bytes":N,"skipped":N}; symlinks and hard links count as
 *     files, "skipped" are FIFOs and sockets. Refused, with what came before left in place:
 *     names that are absolute or hold "..", links that lead out, names beneath a link, a name
 *     twice (invalid); devices, set-id files, encrypted or unknown formats (unsupported); more
 *     than MAX_BYTES or MAX_ENTRIES, or 64 MiB at over 200 times the archive's size
 *     (too_large). A file of the same name is replaced; a directory never (is_directory). "path"
 *     of an error is the name as it is in the archive
 * watch PATH RECURSIVE
 *     a line {"type":"ready"}, then {"type":"create|write|remove|rename|chmod", "path":P} with
 *     "to" for a rename (and "encoding":"base64" for both, as above), merged within 20 ms, and
 *     {"type":"overflow"} where something was missed. The hidden files of sbx-files are not
 *     told of; a file that took its place through one is a "write", even if it is new. Links in the
 *     tree are not followed, directories that may not be read are left out. Ends when input ends
 * (0), PATH itself is removed or moved (not_found), or with too_large beyond 8,192 directories
 */
#ifndef FT_FILETOOL_H
#define FT_FILETOOL_H

#include "sbx/core/base.h"

#define FT_PATH_BYTES         4096 /* of an absolute path, with its NUL */
#define FT_MAX_DEPTH          256  /* directories within each other that are open at once */
#define FT_MAX_LIST           100000
#define FT_MAX_RECORDS        10000
#define FT_MAX_BATCH_PATHS    (4 * MIB) /* all paths of a batch together */
#define FT_CODE_PREFIX        ".run-"   /* of the code of runs (src/runs/body.c); then its id */
#define FT_CODE_ID_BYTES      20
#define FT_MAX_WATCHES        8192
#define FT_WATCH_MERGE_MS     20
#define FT_CHUNK_BYTES        (256 * KIB)
#define FT_MAX_UNPACK_BYTES   (1ll << 50)
#define FT_MAX_UNPACK_ENTRIES 10000000
#define FT_BOMB_BYTES         (64ll * MIB) /* from here on the ratio counts */
#define FT_BOMB_RATIO         200

/** One operation.
 * @param argv  what stands behind its name: as many as the table in main.c says, then NULL.
 * @return 0, or -1 with the reason in `err`. */
struct ft_err;
typedef int ft_op(char **argv, struct ft_err *err);

ft_op ft_stat, ft_list, ft_read, ft_write, ft_remove, ft_mkdir, ft_move, ft_copy, ft_batch, ft_pack,
    ft_unpack_op, ft_watch;

#endif
