/* Making a container: one JSON document that says all of its confinement.
 *
 * What the image brings is overridden here or harmless: ENTRYPOINT by ours (the engine then takes
 * no CMD from the image either), USER, WORKDIR, STOPSIGNAL and HEALTHCHECK by explicit values; its
 * VOLUMEs cannot be taken back, so they become anonymous volumes that go with the container. */
#include "docker.h"
#include <stdio.h>

#define CREATE_BODY_BYTES (4 * MIB)
#define SHM_BYTES         (64 * MIB)
#define OOM_SCORE         500 /* before the host's services */

static void write_list(sbx_jw *w, const char *name, const char *const *items)
{
    sbx_jw_arr(w, name);
    for (; items && *items; items++)
        sbx_jw_str(w, NULL, *items);
    sbx_jw_arr_end(w);
}

static void write_config(sbx_jw *w, const sbx_container_spec *s)
{
    static const char *const no_check[] = {"NONE", NULL};

    sbx_jw_str(w, "Image", s->image);
    if (s->hostname)
        sbx_jw_str(w, "Hostname", s->hostname);
    write_list(w, "Env", s->env);
    sbx_jw_obj(w, "Labels");
    for (size_t i = 0; s->labels && i < s->labels->count; i++)
        sbx_jw_str(w, s->labels->names[i], s->labels->values[i]);
    sbx_jw_obj_end(w);
    write_list(w, "Entrypoint", s->entrypoint);
    write_list(w, "Cmd", NULL);
    sbx_jw_str(w, "User", "0:0");
    sbx_jw_str(w, "WorkingDir", "/");
    sbx_jw_bool(w, "OpenStdin", true);
    sbx_jw_bool(w, "StdinOnce", false);
    sbx_jw_bool(w, "AttachStdin", false);
    sbx_jw_bool(w, "AttachStdout", false);
    sbx_jw_bool(w, "AttachStderr", false);
    sbx_jw_bool(w, "Tty", false);
    sbx_jw_str(w, "StopSignal", "SIGTERM");
    sbx_jw_obj(w, "Healthcheck");
    write_list(w, "Test", no_check);
    sbx_jw_obj_end(w);
}

void docker_write_limits(sbx_jw *w, int64_t cpu_milli, int64_t memory_bytes, int64_t pids)
{
    if (memory_bytes > 0) {
        sbx_jw_int(w, "Memory", memory_bytes);
        sbx_jw_int(w, "MemorySwap", memory_bytes);
    }
    if (cpu_milli > 0) {
        sbx_jw_int(w, "CpuPeriod", DOCKER_CPU_PERIOD_US);
        sbx_jw_int(w, "CpuQuota", cpu_milli * DOCKER_CPU_PERIOD_US / 1000);
    }
    if (pids > 0)
        sbx_jw_int(w, "PidsLimit", pids);
}

static void write_limits(sbx_jw *w, const sbx_container_spec *s)
{
    docker_write_limits(w, s->cpu_milli, s->memory_bytes, s->pids);
    if (s->nofile > 0) {
        sbx_jw_arr(w, "Ulimits");
        sbx_jw_obj(w, NULL);
        sbx_jw_str(w, "Name", "nofile");
        sbx_jw_int(w, "Soft", s->nofile);
        sbx_jw_int(w, "Hard", s->nofile);
        sbx_jw_obj_end(w);
        sbx_jw_arr_end(w);
    }
    if (!s->helper)
        sbx_jw_int(w, "OomScoreAdj", OOM_SCORE);
    sbx_jw_int(w, "ShmSize", SHM_BYTES);
}

static void write_volume(sbx_jw *w, const char *volume, const char *target, bool writable)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "Type", "volume");
    sbx_jw_str(w, "Source", volume);
    sbx_jw_str(w, "Target", target);
    sbx_jw_bool(w, "ReadOnly", !writable);
    sbx_jw_obj(w, "VolumeOptions");
    sbx_jw_bool(w, "NoCopy", true);
    sbx_jw_obj_end(w);
    sbx_jw_obj_end(w);
}

static void write_volumes(sbx_jw *w, const sbx_container_spec *s)
{
    sbx_jw_arr(w, "Mounts");
    if (s->volume)
        write_volume(w, s->volume, s->volume_target, false);
    if (s->mount && s->mount->volume[0])
        write_volume(w, s->mount->volume, s->mount->path, s->mount->writable);
    sbx_jw_arr_end(w);
}

static void write_quota(sbx_jw *w, int64_t bytes)
{
    char text[32];

    snprintf(text, sizeof(text), "%lld", (long long)bytes);
    sbx_jw_obj(w, "StorageOpt");
    sbx_jw_str(w, "size", text);
    sbx_jw_obj_end(w);
}

static void write_host(sbx_jw *w, const sbx_container_spec *s, bool quota)
{
    static const char *const all[] = {"ALL", NULL};
    static const char *const secure[] = {"no-new-privileges", NULL};

    sbx_jw_obj(w, "HostConfig");
    sbx_jw_str(w, "NetworkMode", s->network ? s->network : "none");
    write_list(w, "CapDrop", all);
    write_list(w, "CapAdd", s->cap_add);
    write_list(w, "SecurityOpt", secure); /* the default seccomp profile stays */
    sbx_jw_bool(w, "Privileged", false);
    write_limits(w, s);
    if (quota)
        write_quota(w, s->disk_bytes);
    sbx_jw_obj(w, "LogConfig");
    sbx_jw_str(w, "Type", "none");
    sbx_jw_obj_end(w);
    write_volumes(w, s);
    if (s->dns) {
        static const char *const no_search[] = {".", NULL}; /* not the host's domains */

        write_list(w, "Dns", s->dns);
        write_list(w, "DnsSearch", no_search);
    }
    if (s->runtime && s->runtime[0])
        sbx_jw_str(w, "Runtime", s->runtime);
    sbx_jw_obj(w, "RestartPolicy");
    sbx_jw_str(w, "Name", s->helper ? "always" : "no");
    sbx_jw_obj_end(w);
    sbx_jw_bool(w, "AutoRemove", false);
    sbx_jw_bool(w, "Init", false); /* the daemon's default may be true */
    sbx_jw_str(w, "IpcMode", "private");
    if (s->helper) {
        sbx_jw_bool(w, "ReadonlyRootfs", true);
        sbx_jw_str(w, "UsernsMode", "host");
    }
    sbx_jw_obj_end(w);
}

static bool id_valid(const char *s)
{
    return s && strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

static int create(sbx_docker *d, const sbx_container_spec *spec, bool quota, char ret_id[65],
                  sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(CREATE_BODY_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    sbx_jw w = SBX_JW(&body);
    char what[160];

    sbx_jw_obj(&w, NULL);
    write_config(&w, spec);
    write_host(&w, spec, quota);
    sbx_jw_obj_end(&w);
    sbx_buf_adds(&path, "/containers/create?name=");
    docker_escape(&path, spec->name);
    if (sbx_buf_failed(&body) || sbx_buf_failed(&path))
        return sbx_fail(err, SBX_E_INVALID, "the container's description is over %u bytes",
                        CREATE_BODY_BYTES);
    docker_what(what, sizeof(what), "creating container", spec->name);
    docker_req q = {.method = "POST",
                    .path = path.data,
                    .body = body.data,
                    .body_len = body.len,
                    .max_bytes = MIB,
                    .finish = true};

    if (docker_call(d, &q, what, &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    const char *id = sbx_json_str(sbx_json_get(json, "Id"));

    if (!id_valid(id))
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine gave no valid id", what);
    sbx_copy(ret_id, 65, id);
    return 0;
}

/* Only a create tells whether the storage driver, on the file system that it stands on, knows
 * quotas. */
int docker_create(sbx_engine *e, const sbx_container_spec *spec, char ret_id[65], sbx_err *err)
{
    sbx_docker *d = (sbx_docker *)e;
    bool quota = spec->disk_bytes > 0 && !atomic_load(&d->no_quota);
    sbx_err got = {0};

    if (!spec->name || !spec->image || !spec->entrypoint || !spec->entrypoint[0] ||
        (spec->volume && !spec->volume_target))
        return sbx_fail(err, SBX_E_INVALID, "a container needs a name, an image and an entrypoint");
    int rc = create(d, spec, quota, ret_id, &got);

    if (rc && quota && strstr(got.msg, "storage-opt")) {
        atomic_store(&d->no_quota, true);
        quota = false;
        rc = create(d, spec, quota, ret_id, &got);
    }
    if (spec->ret_disk_enforced)
        *spec->ret_disk_enforced = quota;
    if (rc && err)
        *err = got;
    return rc;
}
