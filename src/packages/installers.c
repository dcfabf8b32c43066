/* pip and npm. Both get their settings by variables, so that nothing of them stands in a list of
 * processes, and what was asked for behind "--". */
#include "packages_priv.h"

#include <ctype.h>
#include <stdio.h>

#define PIP_PATH "/opt/packages"
#define NPM_PATH "/node_modules"
#define NPM_ROOT "/opt/packages" /* npm cannot install beneath the root itself */
#define NPM_MADE NPM_ROOT NPM_PATH

/* What each distribution consists of, by the hash of its list of files, and the size of all. */
static const char look_python[] =
    "import hashlib,importlib.metadata,json,os,sys\n"
    "root,found,size=sys.argv[1],{},0\n"
    "for d in importlib.metadata.distributions(path=[root]):\n"
    "    files=(d.read_text('RECORD') or '').encode()\n"
    "    found[str(d.metadata['Name'])+'=='+str(d.version)]=hashlib.sha256(files).hexdigest()\n"
    "for at,_,names in os.walk(root):\n"
    "    for name in names: size+=os.lstat(os.path.join(at,name)).st_blocks*512\n"
    "lock=hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()\n"
    "print(json.dumps({'packages':sorted(found),'lock':lock,'bytes':size}))\n";

/* The same from the lock that npm leaves beside what it installs. */
static const char look_node[] =
    "const fs=require('fs'),path=require('path'),root=process.argv[1];\n"
    "const lock=JSON.parse(fs.readFileSync(path.join(root,'.package-lock.json'),'utf8'));\n"
    "const found=Object.entries(lock.packages).map(([at,p])=>\n"
    "  [(p.name||at.replace(/^.*node_modules\\//,''))+'@'+p.version,at,p.integrity||'']).sort();\n"
    "const size=at=>fs.readdirSync(at,{withFileTypes:true}).reduce((sum,e)=>sum+(e.isDirectory()\n"
    "  ?size(path.join(at,e.name)):fs.lstatSync(path.join(at,e.name)).blocks*512),0);\n"
    "const hash=require('crypto').createHash('sha256').update(JSON.stringify(found));\n"
    "console.log(JSON.stringify({packages:[...new Set(found.map(f=>f[0]))],\n"
    "  lock:hash.digest('hex'),bytes:size(root)}));\n";

#define PIP_INSTALL "python3", "-m", "pip", "install", "--progress-bar", "off", "--no-input"
/* --prefix would lead it to other settings of the image, too: it works where it is. */
#define NPM_INSTALL                                                                                \
    "npm", "install", "--no-audit", "--no-fund", "--no-progress", "--no-update-notifier",          \
        "--foreground-scripts"

static const char *const pip_install[] = {PIP_INSTALL, "--target", PIP_PATH, "--", NULL};
static const char *const pip_place[] = {PIP_INSTALL, "--user", "--", NULL};
static const char *const pip_look[] = {"python3", "-I", "-c", look_python, PIP_PATH, NULL};
static const char *const npm_install[] = {NPM_INSTALL, "--", NULL};
static const char *const npm_place[] = {NPM_INSTALL, "--", NULL};
static const char *const npm_look[] = {"node", "-e", look_node, NPM_PATH, NULL};

static const package_installer installers[] = {
    {SBX_PACKAGES_PIP, "pip", NULL, PIP_PATH, PIP_PATH, PIP_PATH "/bin", "PYTHONPATH", pip_install,
     pip_place, pip_look},
    {SBX_PACKAGES_NPM, "npm", NPM_ROOT, NPM_MADE, NPM_PATH, NPM_PATH "/.bin", NULL, npm_install,
     npm_place, npm_look},
};

const package_installer *installer_of(sbx_package_kind kind)
{
    for (size_t i = 0; i < ARRAY_LEN(installers); i++)
        if (installers[i].kind == kind)
            return &installers[i];
    return NULL;
}

/* --- the index --- */

int package_index_parse(const char *option, const char *url, package_index *ret, sbx_err *err)
{
    const char *host = strstr(url, "://");
    package_index got = {.url = sbx_strdup(url)};

    *ret = got;
    if (!*url)
        return 0;
    for (const char *c = url; *c; c++)
        if (*c <= ' ' || *c > '~')
            host = NULL;
    got.plain = strncmp(url, "http://", 7) == 0;
    if (!host || (!got.plain && strncmp(url, "https://", 8) != 0) || strpbrk(url, "?#"))
        return sbx_fail(err, SBX_E_INVALID,
                        "option --%s: must be an address such as https://mirror.example/simple/",
                        option);
    host += 3;
    size_t rest = strcspn(host, "/"), user = rest;

    while (user && host[user - 1] != '@')
        user--;
    if (user == rest)
        return sbx_fail(err, SBX_E_INVALID, "option --%s: the address names no host", option);
    const char *path = host + rest;

    got.bare = sbx_asprintf("%.*s%s", (int)(host - url), url, host + user);
    got.host = sbx_strndup(host + user, rest - user);
    got.beneath =
        sbx_asprintf("//%s%s%s", got.host, path, *path && path[strlen(path) - 1] == '/' ? "" : "/");
    if (user) {
        got.user = sbx_strndup(host, user - 1);
        const char *colon = strchr(got.user, ':');

        got.password = sbx_strdup(colon ? colon + 1 : got.user);
    }
    *ret = got;
    return 0;
}

static void wipe_free(char *s)
{
    if (s)
        sbx_wipe(s, strlen(s));
    free(s);
}

void package_index_done(package_index *i)
{
    wipe_free(i->url);
    wipe_free(i->user);
    wipe_free(i->password);
    free(i->bare);
    free(i->host);
    free(i->beneath);
    *i = (package_index){0};
}

static void pip_env(const package_index *index, bool secrets, sbx_pairs *ret)
{
    if (*index->url) {
        sbx_pairs_add(ret, "PIP_INDEX_URL", secrets ? index->url : index->bare);
        if (index->plain)
            sbx_pairs_add(ret, "PIP_TRUSTED_HOST", index->host);
    }
    sbx_pairs_add(ret, "PIP_ROOT_USER_ACTION", "ignore");
    sbx_pairs_add(ret, "PIP_DISABLE_PIP_VERSION_CHECK", "1");
    sbx_pairs_add(ret, "PIP_NO_WARN_SCRIPT_LOCATION", "1");
    sbx_pairs_add(ret, "PIP_NO_CACHE_DIR", "1");
    sbx_pairs_add(ret, "PIP_RETRIES", "2");
    sbx_pairs_add(ret, "PIP_DEFAULT_TIMEOUT", "15");
}

static void npm_env(const package_index *index, bool secrets, sbx_pairs *ret)
{
    if (*index->url)
        sbx_pairs_add(ret, "npm_config_registry", index->bare);
    if (*index->url && index->user && secrets) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf value = SBX_BUF_INIT(16 * KIB);
        SBX_CLEANUP(sbx_free_str) char *name = sbx_asprintf("npm_config_%s:_auth", index->beneath);

        sbx_base64_add(&value, index->user, strlen(index->user));
        if (!sbx_buf_failed(&value))
            sbx_pairs_add(ret, name, value.data);
        sbx_wipe(value.data, value.len);
    }
    sbx_pairs_add(ret, "npm_config_fetch_retries", "2");
    sbx_pairs_add(ret, "npm_config_fetch_retry_mintimeout", "1000");
    sbx_pairs_add(ret, "npm_config_fetch_timeout", "15000");
}

void installer_env(const sbx_packages *p, const package_installer *with, bool secrets, bool place,
                   sbx_pairs *ret)
{
    if (with->kind == SBX_PACKAGES_PIP)
        pip_env(&p->pip, secrets, ret);
    else
        npm_env(&p->npm, secrets, ret);
    if (with->kind == SBX_PACKAGES_PIP && place)
        sbx_pairs_add(ret, "PIP_BREAK_SYSTEM_PACKAGES", "1");
    if (with->kind == SBX_PACKAGES_NPM && !place)
        sbx_pairs_add(ret, "npm_config_cache", "/tmp/.npm");
    if (p->ca_text) {
        sbx_pairs_add(ret, "PIP_CERT", PACKAGES_CA_PATH);
        sbx_pairs_add(ret, "SSL_CERT_FILE", PACKAGES_CA_PATH);
        sbx_pairs_add(ret, "NODE_EXTRA_CA_CERTS", PACKAGES_CA_PATH);
    }
}

void sbx_packages_in_place(const sbx_packages *p, const char *runtime, const sbx_strs *specs,
                           sbx_package_command *ret)
{
    const package_installer *with = installer_of(sbx_packages_kind(runtime));

    *ret = (sbx_package_command){.timeout_ms = p->c.timeout_s * 1000};
    for (const char *const *arg = with->place; *arg; arg++)
        sbx_strs_add(&ret->argv, *arg);
    for (size_t i = 0; i < specs->count; i++)
        sbx_strs_add(&ret->argv, specs->items[i]);
    installer_env(p, with, false, true, &ret->env);
    if (p->ca_text) {
        ret->ca_path = PACKAGES_CA_PATH;
        ret->ca_text = p->ca_text;
    }
}

void sbx_package_command_done(sbx_package_command *c)
{
    sbx_strs_done(&c->argv);
    sbx_pairs_done(&c->env);
    *c = (sbx_package_command){0};
}

/* --- output --- */

static size_t secret_at(const package_index *index, const char *at, size_t len)
{
    const char *const secrets[] = {index->user, index->password};

    for (size_t i = 0; i < ARRAY_LEN(secrets); i++) {
        size_t n = secrets[i] ? strlen(secrets[i]) : 0;

        if (n && n <= len && memcmp(at, secrets[i], n) == 0)
            return n;
    }
    return 0;
}

/* How long the character is that stands there; 0 if it is none. */
static size_t character(const char *at, size_t len)
{
    for (size_t n = 1; n <= 4 && n <= len; n++)
        if (sbx_utf8_valid(at, n))
            return n;
    return 0;
}

void installer_clean(const sbx_packages *p, const char *line, size_t len, sbx_buf *out)
{
    for (size_t at = 0; at < len;) {
        size_t secret = SBX_MAX(secret_at(&p->pip, line + at, len - at),
                                secret_at(&p->npm, line + at, len - at));
        size_t n = character(line + at, len - at);
        bool control = (unsigned char)line[at] < ' ' || line[at] == 0x7f;

        if (secret) {
            sbx_buf_adds(out, "***");
            at += secret;
        } else if (n == 0 || (control && line[at] != '\t')) {
            sbx_buf_addc(out, '?');
            at++;
        } else {
            sbx_buf_add(out, line + at, n);
            at += n;
        }
    }
}

/* --- complaints --- */

/* A line of output that tells what was wrong: `says`, then perhaps the package's name up to one of
 * `ends`. The first row that is found counts. */
static const struct complaint {
    sbx_package_kind kind;
    const char *says, *ends, *means;
} complaints[] = {
    {SBX_PACKAGES_PIP, "No space left on device", NULL, "the disk is full"},
    {SBX_PACKAGES_PIP, "Cannot install ", " ", "its versions contradict each other"},
    {SBX_PACKAGES_PIP, "Failed building wheel for ", " ", "it could not be built"},
    {SBX_PACKAGES_PIP, "did not run successfully", NULL, "it could not be built"},
    {SBX_PACKAGES_PIP, "Retrying (", NULL, "the package index could not be reached"},
    {SBX_PACKAGES_PIP, "No matching distribution found for ", " ",
     "the package index has no such package, or no such version of it that suits this Python"},
    {SBX_PACKAGES_NPM, "No matching version found for ", " ",
     "the package index has no such version of it"},
    {SBX_PACKAGES_NPM, "404  '", "'", "the package index has no such package"},
    {SBX_PACKAGES_NPM, "404  The requested resource '", "'",
     "the package index has no such package"},
    {SBX_PACKAGES_NPM, "ERESOLVE", NULL, "its versions contradict each other"},
    {SBX_PACKAGES_NPM, "ENOTFOUND", NULL, "the package index could not be reached"},
    {SBX_PACKAGES_NPM, "EAI_AGAIN", NULL, "the package index could not be reached"},
    {SBX_PACKAGES_NPM, "ECONNREFUSED", NULL, "the package index could not be reached"},
    {SBX_PACKAGES_NPM, "ECONNRESET", NULL, "the package index could not be reached"},
    {SBX_PACKAGES_NPM, "EHOSTUNREACH", NULL, "the package index could not be reached"},
    {SBX_PACKAGES_NPM, "TIMEOUT", NULL, "the package index could not be reached"},
    {SBX_PACKAGES_NPM, "path " NPM_MADE "/", "", "it could not be built"},
    {SBX_PACKAGES_NPM, "path /home/user/node_modules/", "", "it could not be built"},
    {SBX_PACKAGES_NPM, "ENOSPC", NULL, "the disk is full"},
};

/* The name that stands there, without the dot of the sentence's end. */
static void take_name(const char *at, const char *ends, char out[120])
{
    size_t len = strcspn(at, "\n");

    len = SBX_MIN(len, *ends ? strcspn(at, ends) : len);
    while (len && (at[len - 1] == '.' || at[len - 1] == ',' || at[len - 1] == ' '))
        len--;
    snprintf(out, 120, "%.*s", (int)SBX_MIN(len, (size_t)119), at);
}

/* All that were asked for, as far as there is room. */
static void take_all(const sbx_strs *specs, char out[120])
{
    size_t at = 0;

    out[0] = '\0';
    for (size_t i = 0; i < specs->count && at < 110; i++)
        at += (size_t)snprintf(out + at, 120 - at, "%s%s", i ? ", " : "", specs->items[i]);
}

static const char *find_complaint(sbx_package_kind kind, const char *output, char name[120])
{
    for (size_t i = 0; i < ARRAY_LEN(complaints); i++) {
        const struct complaint *c = &complaints[i];
        const char *at = c->kind == kind ? strstr(output, c->says) : NULL;

        if (!at)
            continue;
        if (c->ends)
            take_name(at + strlen(c->says), c->ends, name);
        return c->means;
    }
    return "the installer failed";
}

void sbx_packages_explain(const char *runtime, const sbx_strs *specs, const sbx_command_exit *e,
                          const char *output, sbx_err *err)
{
    char name[120] = "";
    const char *means = find_complaint(sbx_packages_kind(runtime), output, name);

    if (e->timed_out) {
        name[0] = '\0';
        means = "not installed in time (option --packages-timeout); the package index hangs, or it "
                "takes that long";
    } else if (e->oom_killed) {
        means = "installing it takes more memory than there is";
    }
    if (!name[0])
        take_all(specs, name);
    sbx_err_set(err, SBX_E_PACKAGE, "%s: %s", name, means);
}

/* --- looking --- */

static bool printable(const char *s)
{
    size_t n = 0;

    for (; s[n]; n++)
        if (s[n] < ' ' || s[n] > '~')
            return false;
    return n && n <= 2 * SBX_MAX_PACKAGE_BYTES;
}

int installer_read(const install *i, char **ret_installed, int64_t *ret_bytes, sbx_buf *ret_lock,
                   sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf list = SBX_BUF_INIT(SBX_MAX_PACKAGE_LIST);
    sbx_jw w = SBX_JW(&list);
    size_t count = 0;
    sbx_err ignored;

    if (sbx_buf_failed(&i->told) || !i->told.len ||
        sbx_json_parse(i->told.data, i->told.len, &json, &ignored))
        return sbx_fail(err, SBX_E_PACKAGE, "what was installed could not be read");
    const char *lock = sbx_json_str(sbx_json_get(json, "lock"));
    int64_t bytes = sbx_json_int(sbx_json_get(json, "bytes"), -1);

    sbx_jw_arr(&w, NULL);
    for (const sbx_json *v = sbx_json_first(sbx_json_get(json, "packages")); v;
         v = sbx_json_next(v)) {
        const char *name = sbx_json_str(v);

        if (!name || !printable(name))
            return sbx_fail(err, SBX_E_PACKAGE, "a package with an unusable name was installed");
        sbx_jw_str(&w, NULL, name);
        count++;
    }
    sbx_jw_arr_end(&w);
    if (!count || bytes < 0 || !lock || !printable(lock) || sbx_buf_failed(&list))
        return sbx_fail(err, SBX_E_PACKAGE,
                        count ? "too many packages were installed" : "nothing was installed");
    if (bytes > i->p->c.max_set_mb * (int64_t)MIB)
        return sbx_fail(err, SBX_E_PACKAGE,
                        "the packages take %lld MB; this server allows %lld (--packages-set-mb)",
                        (long long)(bytes / MIB), (long long)i->p->c.max_set_mb);
    sbx_buf_addf(ret_lock, "%s\n%s\n", lock, list.data);
    *ret_installed = sbx_buf_steal(&list);
    *ret_bytes = bytes;
    return 0;
}
