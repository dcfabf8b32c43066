/* A volume that holds some files, on an engine that may be anywhere.
 *
 * Volumes have no contents call of their own; the archive calls of a container reach into what is
 * mounted. So a "seed" container is made (never started) from an empty image, with the volume
 * mounted, and the files go through its archive, together. A file is complete when its size, mode
 * and time are right: the engine sets the time last, after the contents.
 *
 * Two fillers at once would tear each other's files, so the seed's name is derived from the
 * volume's: the engine lets one exist, and who finds the name taken waits until it is gone. A seed
 * that stays is removed: its holder died, or is slow. The latter is safe too, because the engine
 * removes a container only when no archive is being written through it, and whoever comes with the
 * id of a removed one is refused and begins again. Seeds carry the labels sandboxd.cluster and
 * sandboxd.role=seed; lists of sandboxes do not contain them.
 *
 * What is complete is remembered by this process, so the next calls cost nothing. Threads of one
 * process queue behind the first. */
#include "docker.h"
#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "tar.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

#define SEED_IMAGE    "sandboxd/seed:1"
#define SEED_FOLDER   "/volume"
#define SEED_STALE_MS 1500
#define SEED_TRIES    8
#define SEED_POLL_MS  25
#define SEED_CALL_MS  10000 /* making or removing a seed, whatever the job says */
#define SEED_OLD_MS   600000
#define FILE_TIME_S   315532800 /* 1980-01-01: what any file system can keep */
#define FILES_BYTES   (64 * MIB)

/* What is to be there. */
typedef struct seed {
    sbx_docker *d;
    const char *volume, *cluster;
    const sbx_volume_file *files;
    size_t count;
    char container[200];
    char id[65]; /* of our seed container, or "" */
} seed;

/* --- what this process knows --- */

static bool known_locked(const sbx_docker *d, const char *volume)
{
    for (size_t i = 0; i < DOCKER_VOLUMES; i++)
        if (sbx_streq(d->volumes[i], volume))
            return true;
    return false;
}

static void remember_locked(sbx_docker *d, const char *volume)
{
    if (known_locked(d, volume))
        return;
    free(d->volumes[d->volume_next]);
    d->volumes[d->volume_next] = sbx_strdup(volume);
    d->volume_next = (d->volume_next + 1) % DOCKER_VOLUMES;
}

void docker_volume_forget(sbx_engine *e, const char *volume)
{
    sbx_docker *d = (sbx_docker *)e;

    pthread_mutex_lock(&d->mu);
    for (size_t i = 0; i < DOCKER_VOLUMES; i++) {
        if (sbx_streq(d->volumes[i], volume)) {
            free(d->volumes[i]);
            d->volumes[i] = NULL;
        }
    }
    pthread_mutex_unlock(&d->mu);
}

/* Wait for the turn to fill. @return 0 the turn is ours, 1 the volume is known, -1. */
static int take_turn(sbx_docker *d, const char *volume, sbx_err *err)
{
    int64_t end = sbx_now_ms() + d->timeout_ms;
    int rc = 0;

    pthread_mutex_lock(&d->mu);
    while (!known_locked(d, volume) && d->seeding) {
        struct timespec at;

        if (sbx_job_cancelled())
            rc = sbx_fail(err, SBX_E_CANCELLED, "filling volume %.64s: cancelled", volume);
        else if (sbx_job_left_ms(1) <= 0 || sbx_now_ms() >= end)
            rc = sbx_fail(err, SBX_E_TIMEOUT, "filling volume %.64s: no turn in time", volume);
        if (rc)
            break;
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += DOCKER_POLL_MS * 1000000L;
        at.tv_sec += at.tv_nsec / 1000000000L;
        at.tv_nsec %= 1000000000L;
        pthread_cond_clockwait(&d->seeded, &d->mu, CLOCK_MONOTONIC, &at);
    }
    if (rc == 0 && known_locked(d, volume))
        rc = 1;
    else if (rc == 0)
        d->seeding = sbx_strdup(volume);
    pthread_mutex_unlock(&d->mu);
    return rc;
}

static void give_turn(sbx_docker *d, bool complete)
{
    pthread_mutex_lock(&d->mu);
    if (complete)
        remember_locked(d, d->seeding);
    free(d->seeding);
    d->seeding = NULL;
    pthread_cond_broadcast(&d->seeded);
    pthread_mutex_unlock(&d->mu);
}

/* --- the engine's side --- */

static int volume_create(const seed *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(8 * KIB);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_jw w = SBX_JW(&body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "Name", s->volume);
    sbx_jw_str(&w, "Driver", "local");
    sbx_jw_obj(&w, "Labels");
    sbx_jw_str(&w, "sandboxd.cluster", s->cluster);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
    docker_req q = {.method = "POST",
                    .path = "/volumes/create",
                    .body = body.data,
                    .body_len = body.len,
                    .max_bytes = MIB};

    return docker_call(s->d, &q, "creating the agent's volume", &res, err);
}

/* An image of nothing, made on the spot: no registry is needed. */
static int image_ensure(const seed *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf tar = SBX_BUF_INIT(4 * KIB);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_image_info info = {0};
    sbx_err got = {0};

    if (docker_image_inspect(&s->d->base, SEED_IMAGE, &info, &got) == 0) {
        sbx_image_info_done(&info);
        return 0;
    }
    if (got.code != SBX_E_NOT_FOUND) {
        if (err)
            *err = got;
        return -1;
    }
    docker_tar_end(&tar);
    docker_req q = {.method = "POST",
                    .path = "/images/create?fromSrc=-&repo=sandboxd%2Fseed&tag=1",
                    .type = "application/x-tar",
                    .body = tar.data,
                    .body_len = tar.len,
                    .max_bytes = MIB};

    return docker_call(s->d, &q, "importing the seed image", &res, err);
}

static void seed_body(const seed *s, sbx_buf *body)
{
    sbx_jw w = SBX_JW(body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "Image", SEED_IMAGE);
    sbx_jw_arr(&w, "Entrypoint");
    sbx_jw_str(&w, NULL, "/never-started");
    sbx_jw_arr_end(&w);
    sbx_jw_obj(&w, "Labels");
    sbx_jw_str(&w, "sandboxd.cluster", s->cluster);
    sbx_jw_str(&w, "sandboxd.role", "seed");
    sbx_jw_obj_end(&w);
    sbx_jw_obj(&w, "HostConfig");
    sbx_jw_str(&w, "NetworkMode", "none");
    sbx_jw_arr(&w, "Mounts");
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "Type", "volume");
    sbx_jw_str(&w, "Source", s->volume);
    sbx_jw_str(&w, "Target", SEED_FOLDER);
    sbx_jw_obj(&w, "VolumeOptions");
    sbx_jw_bool(&w, "NoCopy", true);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
    sbx_jw_arr_end(&w);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
}

/* A cancelled job does not end this call: the engine would finish it all the same, and nobody would
 * know of the seed. */
static int seed_create(seed *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(8 * KIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;

    seed_body(s, &body);
    sbx_buf_adds(&path, "/containers/create?name=");
    docker_escape(&path, s->container);
    docker_req q = {.method = "POST",
                    .path = path.data,
                    .body = body.data,
                    .body_len = body.len,
                    .max_bytes = MIB,
                    .timeout_ms = SBX_MIN(s->d->timeout_ms, SEED_CALL_MS),
                    .regardless = true};

    if (docker_call(s->d, &q, "creating the seed container", &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    sbx_copy(s->id, sizeof(s->id), docker_str(sbx_json_get(json, "Id")));
    return s->id[0] ? 0
                    : sbx_fail(err, SBX_E_ENGINE, "creating the seed container: no id was given");
}

/* The name is taken: wait until its holder has removed it, or remove it if it stays too long. */
static int wait_for_other(seed *s, char seen_id[65], int64_t *since_ms, sbx_err *err)
{
    sbx_container_info info;
    sbx_err got = {0};

    if (docker_inspect(&s->d->base, s->container, &info, &got) == 0) {
        if (strcmp(info.id, seen_id) != 0) {
            sbx_copy(seen_id, 65, info.id);
            *since_ms = sbx_now_ms();
        }
        if (sbx_now_ms() - *since_ms > SEED_STALE_MS)
            return docker_remove(&s->d->base, info.id, err);
    } else if (got.code != SBX_E_NOT_FOUND) {
        if (err)
            *err = got;
        return -1;
    }
    return docker_nap(SEED_POLL_MS, "filling the agent's volume", err);
}

static int seed_hold(seed *s, sbx_err *err)
{
    int64_t start = sbx_now_ms(), since = start;
    char seen[65] = "";

    for (;;) {
        sbx_err got = {0};

        if (seed_create(s, &got) == 0)
            return 0;
        if (got.code == SBX_E_CONFLICT && sbx_now_ms() - start < s->d->timeout_ms) {
            if (wait_for_other(s, seen, &since, err))
                return -1;
            continue;
        }
        if (err)
            *err = got;
        return -1;
    }
}

/* Also when the job was cancelled. If it fails, the next filler outwaits the seed and removes it.
 */
static void seed_drop(const seed *s)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_err ignored = {0};

    sbx_buf_addf(&path, "/containers/%s?force=1&v=1", s->id);
    docker_req q = {.method = "DELETE",
                    .path = path.data,
                    .max_bytes = MIB,
                    .timeout_ms = SBX_MIN(s->d->timeout_ms, SEED_CALL_MS),
                    .regardless = true};

    if (docker_call(s->d, &q, "removing the seed container", &res, &ignored))
        return;
}

/* --- the files --- */

static int decode64(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* @return decoded length; stops at the first foreign character. */
static size_t base64_decode(const char *in, char *out, size_t cap)
{
    unsigned bits = 0;
    int have = 0;
    size_t n = 0;

    for (; *in && n < cap; in++) {
        int v = decode64(*in);

        if (v < 0)
            break;
        bits = bits << 6 | (unsigned)v;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[n++] = (char)(bits >> have & 0xff);
        }
    }
    return n;
}

/* Go's file mode: type bits on top, permissions below; 0 type bits is a regular file. */
static bool stat_matches(const sbx_volume_file *file, const char *header)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    char text[1024];
    size_t n = base64_decode(header, text, sizeof(text));

    if (docker_parse(text, n, &json, NULL))
        return false;
    return sbx_json_int(sbx_json_get(json, "size"), -1) == (int64_t)file->len &&
           sbx_json_int(sbx_json_get(json, "mode"), -1) == 0755 &&
           docker_time_ms(sbx_json_str(sbx_json_get(json, "mtime"))) == (int64_t)FILE_TIME_S * 1000;
}

static void archive_path(const seed *s, const char *file, sbx_buf *path)
{
    sbx_buf_adds(path, "/containers/");
    docker_escape(path, s->id);
    sbx_buf_adds(path, "/archive?path=");
    docker_escape(path, SEED_FOLDER);
    if (file) {
        docker_escape(path, "/");
        docker_escape(path, file);
    }
}

/* @return 1 complete, 0 not, -1. */
static int file_complete(const seed *s, const sbx_volume_file *file, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_err got = {0};

    archive_path(s, file->name, &path);
    docker_req q = {.method = "HEAD", .path = path.data, .header = "X-Docker-Container-Path-Stat"};

    if (docker_call(s->d, &q, "looking into the agent's volume", &res, &got) == 0)
        return stat_matches(file, res.header);
    if (got.code == SBX_E_NOT_FOUND)
        return 0;
    if (err)
        *err = got;
    return -1;
}

/* The same for all of them. */
static int complete(const seed *s, sbx_err *err)
{
    int done = 1;

    for (size_t i = 0; i < s->count && done == 1; i++)
        done = file_complete(s, &s->files[i], err);
    return done;
}

static int files_put(const seed *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf tar = SBX_BUF_INIT(FILES_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};

    archive_path(s, NULL, &path);
    for (size_t i = 0; i < s->count; i++)
        if (!docker_tar_file(&tar, s->files[i].name, FILE_TIME_S, s->files[i].data,
                             s->files[i].len))
            return sbx_fail(err, SBX_E_INVALID, "the name of a file in the volume is not valid");
    docker_tar_end(&tar);
    if (sbx_buf_failed(&tar))
        return sbx_fail(err, SBX_E_INVALID, "the volume's files are over %u bytes", FILES_BYTES);
    docker_req q = {.method = "PUT",
                    .path = path.data,
                    .type = "application/x-tar",
                    .body = tar.data,
                    .body_len = tar.len,
                    .max_bytes = MIB};

    return docker_call(s->d, &q, "filling the agent's volume", &res, err);
}

static int fill(const seed *s, sbx_err *err)
{
    int done = complete(s, err);

    if (done == 0) {
        if (files_put(s, err))
            return -1;
        done = complete(s, err);
    }
    if (done == 0)
        return sbx_fail(err, SBX_E_ENGINE, "volume %.64s: a file did not arrive complete",
                        s->volume);
    return done < 0 ? -1 : 0;
}

/* Seeds that crashed servers left, of volumes that nobody fills any more. Ages are compared by the
 * engine's own clock: the newest is ours. */
static void sweep_seeds(const seed *s)
{
    sbx_container_info *all = NULL;
    sbx_err ignored = {0};
    size_t count = 0;
    int64_t own_ms = 0;

    if (docker_list_label(s->d, s->cluster, "sandboxd.role=seed", &all, &count, &ignored))
        return;
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i].id, s->id) == 0)
            own_ms = all[i].created_at_ms;
    for (size_t i = 0; i < count; i++)
        if (all[i].created_at_ms < own_ms - SEED_OLD_MS)
            (void)docker_remove(&s->d->base, all[i].id, &ignored);
    free(all);
}

/* Did another filler take our seed for one that was left? */
static bool seed_lost(const seed *s)
{
    sbx_container_info info;
    sbx_err err = {0};

    return docker_inspect(&s->d->base, s->id, &info, &err) && err.code == SBX_E_NOT_FOUND;
}

static int ensure(seed *s, sbx_err *err)
{
    bool again = true;
    int rc = -1;

    if (volume_create(s, err) || image_ensure(s, err))
        return -1;
    for (int tries = 0; again && tries < SEED_TRIES; tries++) {
        if (seed_hold(s, err))
            return -1;
        rc = fill(s, err);
        again = rc && seed_lost(s);
        if (rc == 0)
            sweep_seeds(s);
        seed_drop(s);
    }
    return rc;
}

int docker_volume_ensure(sbx_engine *e, const char *volume, const char *cluster,
                         const sbx_volume_file *files, size_t count, sbx_err *err)
{
    sbx_docker *d = (sbx_docker *)e;
    seed s = {.d = d, .volume = volume, .cluster = cluster, .files = files, .count = count};

    if (snprintf(s.container, sizeof(s.container), "sandboxd-seed-%s", volume) >=
        (int)sizeof(s.container))
        return sbx_fail(err, SBX_E_INVALID, "the volume's name is too long");
    int turn = take_turn(d, volume, err);

    if (turn)
        return turn < 0 ? -1 : 0;
    int rc = ensure(&s, err);

    give_turn(d, rc == 0);
    return rc;
}
