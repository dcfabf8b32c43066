/* The table of contents of the product. Sorted by path, then method. */
#include "handlers.h"
#include "sbx/runs/contexts.h"
#include "sbx/sandbox/pool.h"

#define ENGINE_MS (15 * 60 * 1000) /* a create may pull an image */
#define QUICK_MS  10000
#define RUN_MS    (ENGINE_MS + SBX_MAX_RUN_MS) /* a repetition waits for the first one */

#define MOVE_FAILURES "409,410,502"
#define EXEC_FRAMES   "ExecStart,ExecOutput,ExecGap,ExecExit,ExecError"
#define EXEC_EVENTS   EXEC_FRAMES ",error:StreamError"
#define RUN_EVENTS    "RunInstall,RunStart,RunOutput,RunError,RunEnd,RunExit,error:StreamError"
#define FILE_FAILURES "409,410,502"

const sbx_api_route sbx_api_routes[] = {
    {"GET", "/audit", "audit:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_audit_list, "audit_list",
     "Who did what, newest first", .tag = "Service",
     .query = "user,key,action,object,since,until,result,limit,cursor", .success = "200",
     .response = "AuditPage", .audit = SBX_AUDIT_READS, .admin = true,
     .doc = "For administrators. Every request that changes something, with its result, every "
            "refused credential, right or limit, and administrators' reads of what others own; "
            "written within 0.2 s, those about users, keys, tiers and pools before they are "
            "answered. Kept for the days of the option --audit-days. Filters add up."},
    {"GET", "/docs", NULL, SBX_LANE_FAST, 0, 0, QUICK_MS, api_docs, "docs", "This page",
     .produces = "text/html", .tag = "Service", .success = "200", .response = "text"},
    {"GET", "/events", "sandbox:read", SBX_LANE_FAST, 0, SBX_CAN_SSE | SBX_CAN_WS, QUICK_MS,
     api_events, "events", "Events of the caller's sandboxes: a page, or a live stream",
     .tag = "Events", .query = "sandboxId,type,owner,since,tail,limit,cursor", .success = "200",
     .response = "EventPage", .sse = "Event,gap:Gap,end:End,error:StreamError",
     .ws = "EventsFrame,GapFrame,EndFrame,StreamError", .failures = "404",
     .doc = "Every change of a sandbox's state, kept for 7 days, also when the sandbox is deleted. "
            "A page begins with the oldest that is kept; a stream with what comes. For a view that "
            "is complete, open the stream, then list the sandboxes. The number of an event is the "
            "id in an event stream: reconnect with it and nothing is missed or twice. The stream "
            "of one sandbox ends after `sandbox.deleted`."},
    {"GET", "/groups", "sandbox:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_group_list, "group_list",
     "List groups, newest first", .tag = "Groups", .query = "name,metadata.*,owner,limit,cursor",
     .success = "200", .response = "GroupList", .doc = "Filters add up."},
    {"POST", "/groups", "sandbox:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS,
     api_group_create, "group_create", "Make a group: a named set of sandboxes", api_group_fields,
     .tag = "Groups", .success = "201", .response = "Group", .failures = "409,429",
     .doc = "A sandbox may be in many groups; when it is deleted "
            "it leaves them by itself. 429: there are 1,000 groups.",
     .example = "{\"name\":\"workers\"}", .rerun = true},
    {"DELETE", "/groups/{id}", "sandbox:write", SBX_LANE_SLOW, 0, 0, ENGINE_MS, api_group_delete,
     "group_delete", "Delete a group, or all of it", .tag = "Groups", .query = "sandboxes",
     .success = "200,204", .response = "200:DeletedMany",
     .doc = "204; the sandboxes stay. With `sandboxes=true` they are deleted first, and the answer "
            "is 200 with what became of each; the group goes when all of them are gone."},
    {"GET", "/groups/{id}", "sandbox:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_group_get,
     "group_get", "Read a group", .tag = "Groups", .success = "200", .response = "Group"},
    {"PATCH", "/groups/{id}", "sandbox:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS,
     api_group_patch, "group_patch", "Change a group", api_group_patch_fields, .tag = "Groups",
     .success = "200", .response = "Group", .failures = "409",
     .doc = "All that is given, or nothing. To add a member again, or to remove what is none, "
            "changes nothing.",
     .example = "{\"metadata\":{\"stage\":\"test\"}}"},
    {"POST", "/groups/{id}/exec", "exec:write", SBX_LANE_FAST, SBX_MAX_BODY_EXEC, SBX_CAN_SSE,
     QUICK_MS, api_group_exec, "group_exec", "Run a command in all sandboxes of a group",
     sbx_exec_fields, .tag = "Groups", .success = "200,202", .response = "GroupResults",
     .sse = EXEC_EVENTS, .rate = SBX_RATED(EXEC),
     .doc =
         "As in one sandbox, in all at once. Results come in the order of the members, each with "
         "its `sandboxId`: what a command of one sandbox answers, or its problem. One that hangs "
         "is told as a `timeout` problem 10 s after timeoutMs, and holds nobody up. Without "
         "maxOutputBytes each keeps its part of 16 MiB, at most 1 MiB. As a stream, the events of "
         "all come as they happen; the id of each is `sandboxId:seq`, and the stream ends after "
         "the last exit. It is not resumed: follow the commands by their execId.",
     .example = "{\"command\":\"echo hello\"}"},
    {"GET", "/health", NULL, SBX_LANE_FAST, 0, 0, QUICK_MS, api_health, "health",
     "Is the process running?", .tag = "Service", .success = "200", .response = "Health"},
    {"GET", "/keys", "keys:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_key_list, "key_list",
     "List API keys, newest first", .tag = "Users", .query = "owner,limit,cursor", .success = "200",
     .response = "KeyList", .doc = "One's own, without those that were revoked."},
    {"POST", "/keys", "keys:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS, api_key_create,
     "key_create", "Make an API key", api_key_fields, .audit = SBX_AUDIT_NOW, .tag = "Users",
     .success = "200,201", .response = "KeyMade", .failures = "429",
     .doc = "`key` is shown by this answer and never again. A repetition with the same "
            "Idempotency-Key makes nothing: 200, without `key`; whoever lost it rotates the key. "
            "429: the user has 1,000 keys.",
     .example = "{\"name\":\"laptop\",\"scopes\":[\"sandbox:read\"]}", .rerun = true},
    {"DELETE", "/keys/{id}", "keys:write", SBX_LANE_FAST, 0, 0, QUICK_MS, api_key_revoke,
     "key_revoke", "Revoke an API key", .audit = SBX_AUDIT_NOW, .tag = "Users", .success = "204",
     .failures = "409",
     .doc = "Within a second no server accepts it, and what it opened ends: tickets, streams, "
            "terminals, and requests that wait. Event streams end with an event `error`, "
            "WebSockets with the code 4401. Success again when it was revoked before."},
    {"GET", "/keys/{id}", "keys:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_key_get, "key_get",
     "Read an API key", .tag = "Users", .success = "200", .response = "Key",
     .doc = "Also one that was revoked. Its text cannot be read."},
    {"POST", "/keys/{id}/rotate", "keys:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS,
     api_key_rotate, "key_rotate", "Replace an API key", api_key_rotate_fields,
     .audit = SBX_AUDIT_NOW, .tag = "Users", .success = "200,201", .response = "KeyMade",
     .failures = "409",
     .doc = "A new key with the same user, name, scopes and expiry, and an id of its own. The old "
            "one is revoked, or expires after `overlapSeconds`.",
     .rerun = true},
    {"GET", "/me", SBX_ANY_SCOPE, SBX_LANE_FAST, 0, 0, QUICK_MS, api_me, "me",
     "Who asks, and what he may do", .tag = "Users", .success = "200", .response = "Me"},
    {"GET", "/metrics", NULL, SBX_LANE_FAST, 0, 0, QUICK_MS, api_metrics, "metrics",
     "Prometheus metrics", .produces = "text/plain", .tag = "Service", .success = "200",
     .response = "text", .failures = "403",
     .doc = "Needs the token of the option --metrics-token. Without one they are served while the "
            "server listens on loopback alone, and not to forwarded requests."},
    {"GET", "/openapi.json", NULL, SBX_LANE_FAST, 0, 0, QUICK_MS, api_openapi, "openapi",
     "The contract as OpenAPI 3.1", .tag = "Service", .success = "200", .response = "object"},
    {"GET", "/pool", "pool:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_pool_get, "pool_get",
     "How many started sandboxes wait for creates", .tag = "Service", .success = "200",
     .response = "PoolList", .admin = true,
     .doc = "For administrators. A create that a pool serves is answered within milliseconds and "
            "says `warm`."},
    {"PATCH", "/pool", "pool:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS, api_pool_set,
     "pool_set", "Make a pool, or resize it", sbx_pool_fields, .tag = "Service", .success = "200",
     .response = "Pool", .failures = "409", .admin = true, .audit = SBX_AUDIT_NOW,
     .doc = "For administrators. Holds for all servers of the installation and over restarts, "
            "until the option --pool asks for another size than before. With 0 nothing waits.",
     .example = "{\"template\":\"python\",\"network\":\"none\",\"min\":0}"},
    {"GET", "/prices", "quota:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_price_list, "price_list",
     "What sandboxes cost", .tag = "Usage", .success = "200", .response = "PriceList",
     .doc = "A sandbox costs as much as the first size that holds its CPU and its memory, by the "
            "second, while it runs or is paused; else nothing."},
    {"PATCH", "/prices/{size}", "quota:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS,
     api_price_change, "price_change", "Change a price", api_price_fields, .tag = "Usage",
     .success = "200", .response = "Price", .admin = true, .audit = SBX_AUDIT_NOW,
     .doc = "For administrators. Time that was metered before has its former price; that is all "
            "but the last seconds.",
     .example = "{\"microsPerHour\":150000}"},
    {"GET", "/quotas", "quota:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_quotas, "quotas",
     "What the caller may use, and uses", .tag = "Usage", .query = "owner", .success = "200",
     .response = "Quotas",
     .doc = "Limits come from the tier of the user. Those of a month begin anew with the calendar "
            "month (UTC). `reserved` is on its way: runs that have not begun, sandboxes that are "
            "created or started; what fails is given back. A request beyond a limit is 429 "
            "`quota_exceeded` with `limit`, `value`, `used` and `resetAt`."},
    {"GET", "/ready", NULL, SBX_LANE_FAST, 0, 0, QUICK_MS, api_ready, "ready",
     "Are the store, the bus and the engine usable?", .tag = "Service", .success = "200,503",
     .response = "Ready", .doc = "503 while one of them is not, or the server is about to end."},
    {"POST",
     "/run",
     "sandbox:write",
     SBX_LANE_FAST,
     SBX_MAX_BODY_RUN,
     SBX_CAN_SSE,
     RUN_MS,
     api_run,
     "run",
     "Run code in a sandbox of its own",
     sbx_run_fields,
     .tag = "Code",
     .success = "200",
     .response = "RunResult",
     .sse = RUN_EVENTS,
     .failures = "409,502",
     .rate = SBX_RATED(CREATES),
     .doc =
         "The key needs `exec:write` as well. Code that fails is a success of this request: "
         "look at `exitCode`; `error` is there only for what is not the code's doing. The code "
         "is `main.py`, `main.js` and so on in the working directory, beside `files`. Behind "
         "the answer the sandbox is deleted, with all that was started; its record and that "
         "of the run can be read for a day. A client that leaves ends the run, unless it sent an "
         "Idempotency-Key: then the answer is kept for its repetition, which waits for it (410 if "
         "it was larger than 8 MiB). What a crash of the server cut off is run again by the "
         "repetition. Of a stream the repetition gets the same events, all at once.",
     .example = "{\"runtime\":\"python\",\"code\":\"print(1)\"}",
     .rerun = true},
    {"DELETE", "/sandboxes", "sandbox:write", SBX_LANE_SLOW, 0, 0, ENGINE_MS,
     api_sandbox_delete_many, "sandbox_delete_many", "Delete sandboxes by their metadata",
     .tag = "Sandboxes", .query = "metadata.*,template,name,state,owner", .success = "200",
     .response = "DeletedMany",
     .doc = "All that match; at least one `metadata.KEY=VALUE` is required. At most 200 at a time: "
            "`more` tells that there are others, for the next request."},
    {"GET", "/sandboxes", "sandbox:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_sandbox_list,
     "sandbox_list", "List sandboxes, newest first", .tag = "Sandboxes",
     .query = "state,template,name,metadata.*,owner,limit,cursor", .success = "200",
     .response = "SandboxList",
     .doc = "Filters add up. Deleted sandboxes are listed by `state=deleted` only, for a day."},
    {"POST", "/sandboxes", "sandbox:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, ENGINE_MS,
     api_sandbox_create, "sandbox_create", "Create a sandbox", sbx_spec_fields, .tag = "Sandboxes",
     .success = "201,202", .response = "Sandbox", .failures = "409,502", .rate = SBX_RATED(CREATES),
     .doc = "201 when it can run commands. With `\"wait\": false` 202 at once; then read the "
            "sandbox, or watch its log stream, until its state is `running` or `failed`. A create "
            "that fails answers a problem with `sandboxId`: the record stays and says why.",
     .example = "{\"template\":\"python\",\"timeoutSeconds\":600}", .made = api_sandbox_made},
    {"POST", "/sandboxes/batch", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_CREATES, 0, ENGINE_MS,
     api_sandbox_batch, "sandbox_batch", "Create many sandboxes", sbx_creates_fields,
     .tag = "Sandboxes", .success = "200,201,202", .response = "Batch", .failures = "409,502",
     .rate = SBX_RATED(CREATES),
     .doc =
         "At most 100: `count` times the same `sandbox`, or `sandboxes` one by one. A few are "
         "made at a time. 201 when all run; else 200, and each item is a sandbox or its problem, "
         "in the order of the request. With `atomic` a failure deletes those that were made, and "
         "is the answer. With `\"wait\": false` 202 at once: each is `creating`, and its record "
         "tells what comes of it. A client that leaves ends it: what runs by then stays and is "
         "listed. "
         "With an Idempotency-Key it goes on, and a repetition after a crash, or after failures "
         "of the server, completes it instead of making anything twice.",
     .example = "{\"count\":2,\"sandbox\":{\"timeoutSeconds\":600}}", .rerun = true},
    {"DELETE", "/sandboxes/{id}", "sandbox:write", SBX_LANE_SLOW, 0, 0, 120000, api_sandbox_delete,
     "sandbox_delete", "Delete a sandbox", .tag = "Sandboxes", .success = "204",
     .failures = "409,502",
     .doc = "From any state, also while it is created. Success again when it is deleted already, "
            "for a day; then 404."},
    {"GET", "/sandboxes/{id}", "sandbox:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_sandbox_get,
     "sandbox_get", "Read a sandbox", .tag = "Sandboxes", .success = "200", .response = "Sandbox",
     .doc = "Reading is no use: it neither resumes a sandbox nor keeps it from idling. A deleted "
            "one can be read for a day."},
    {"PATCH", "/sandboxes/{id}", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_JSON, 0, 120000,
     api_sandbox_patch, "sandbox_patch", "Change a sandbox", sbx_patch_fields, .tag = "Sandboxes",
     .success = "200", .response = "Sandbox", .failures = "409,410,502",
     .doc = "All that is given, or nothing. `metadata` and `env` are merged: what is not named "
            "stays, null removes. A running sandbox gets new limits at once; memory below what is "
            "in use is 409. `env` is for commands from now on.",
     .example = "{\"name\":\"renamed\",\"metadata\":{\"team\":\"blue\"}}"},
    {"GET", "/sandboxes/{id}/contexts", "exec:read", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_context_list, "context_list", "List contexts, newest first", .tag = "Code",
     .success = "200", .response = "ContextList", .failures = "409,410,502",
     .doc = "All that the sandbox has: at most 20. None are there while it is stopped; 409 while "
            "it is paused or on its way. Reading is no use."},
    {"POST", "/sandboxes/{id}/contexts", "exec:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_context_create, "context_create",
     "Make a context: an interpreter that keeps its state between runs", sbx_context_fields,
     .tag = "Code", .success = "201", .response = "Context", .failures = "409,410,502",
     .doc = "Variables, imports and functions of one run are there in the next one with its id as "
            "`contextId`. The value of a last expression is printed, `await` is allowed at the "
            "top. An exception is exit code 1 with the traceback on stderr, and `sys.exit()` or "
            "`process.exit()` end the run alone; the context lives on. It resumes a sandbox that "
            "is paused. A context that waits is no activity, outlives a pause, and ends with the "
            "sandbox's stop. 409: there are 20.",
     .example = "{\"runtime\":\"python\"}", .rerun = true},
    {"DELETE", "/sandboxes/{id}/contexts/{contextId}", "exec:write", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_context_delete, "context_delete", "End a context", .tag = "Code", .success = "204",
     .failures = "409,410,502",
     .doc = "With all that its code started. Success also when it has ended."},
    {"GET", "/sandboxes/{id}/contexts/{contextId}", "exec:read", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_context_get, "context_get", "Read a context", .tag = "Code", .success = "200",
     .response = "Context", .failures = "409,410,502",
     .doc = "409 while the sandbox is paused or on its way. Reading is no use."},
    {"POST", "/sandboxes/{id}/contexts/{contextId}/restart", "exec:write", SBX_LANE_FAST,
     SBX_MAX_BODY_JSON, 0, QUICK_MS, api_context_restart, "context_restart",
     "Give a context a new, empty state", sbx_no_fields, .tag = "Code", .success = "200",
     .response = "Context", .failures = "409,410,502",
     .doc = "The same id, directory and environment. A run that is under way ends with the error "
            "`context_lost`; those that wait for their turn run in the new state."},
    {"POST", "/sandboxes/{id}/exec", "exec:write", SBX_LANE_FAST, SBX_MAX_BODY_EXEC, SBX_CAN_SSE,
     QUICK_MS, api_exec, "exec", "Run a command: wait for it, stream its output, or let it run",
     sbx_exec_fields, .tag = "Commands", .success = "200,202", .response = "ExecResult,202:Exec",
     .sse = EXEC_EVENTS, .failures = "409,410,502",
     .doc = "A command that fails is a success of this request: look at `exitCode`. With `Accept: "
            "text/event-stream` output comes while it is written; the events are numbered from 1. "
            "With `background` the answer is 202 as soon as it has started.",
     .example = "{\"command\":\"echo hello\"}"},
    {"GET", "/sandboxes/{id}/execs", "exec:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_exec_list,
     "exec_list", "List commands, newest first", .tag = "Commands", .query = "limit,cursor",
     .success = "200", .response = "ExecList", .failures = "409,410,502",
     .doc = "Those that run and those that are over, also the main process and terminals. They "
            "stay until the sandbox is deleted."},
    {"DELETE", "/sandboxes/{id}/execs/{execId}", "exec:write", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_exec_kill, "exec_kill", "Kill a command", .tag = "Commands", .success = "204",
     .failures = "409,410,502",
     .doc = "Its whole process tree, also what daemonised. Success also when it is over; the "
            "record stays."},
    {"GET", "/sandboxes/{id}/execs/{execId}", "exec:read", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_exec_get, "exec_get", "Read a command's state", .tag = "Commands", .success = "200",
     .response = "Exec", .failures = "409,410,502"},
    {"GET", "/sandboxes/{id}/execs/{execId}/output", "exec:read", SBX_LANE_FAST, 0,
     SBX_CAN_SSE | SBX_CAN_WS, QUICK_MS, api_exec_output, "exec_output",
     "Output of a command: a page, or a live stream", .tag = "Commands",
     .query = "since,limit,cursor", .success = "200", .response = "ExecOutputPage",
     .sse = EXEC_EVENTS, .ws = EXEC_FRAMES, .failures = "409,410,502",
     .doc = "From the start, or behind the event `since`; follows while the command runs, and ends "
            "behind its exit. The numbers are the same for everybody, also after the server was "
            "restarted. The last 16 MiB of output of a sandbox are kept, of its last 1,000 "
            "commands, until it stops: what is gone is told as a `gap`. 409 while the sandbox is "
            "paused or on its way."},
    {"POST", "/sandboxes/{id}/execs/{execId}/signal", "exec:write", SBX_LANE_FAST,
     SBX_MAX_BODY_JSON, 0, QUICK_MS, api_exec_signal, "exec_signal", "Send a signal to a command",
     sbx_signal_fields, .tag = "Commands", .success = "204", .failures = "409,410,502",
     .rate = SBX_RATED(READS), .doc = "409 when the command is over.",
     .example = "{\"signal\":\"TERM\"}"},
    {"POST", "/sandboxes/{id}/execs/{execId}/stdin", "exec:write", SBX_LANE_FAST,
     SBX_MAX_BODY_STDIN, SBX_BODY_RAW, QUICK_MS, api_exec_stdin, "exec_stdin",
     "Give a command input", .tag = "Commands", .query = "close", .success = "204",
     .failures = "409,410,502", .rate = SBX_RATED(READS),
     .doc = "The body is the bytes. Answered when the command's pipe has taken them all. For a "
            "command that was started with `stdinOpen`, or a terminal; 409 when its input is not "
            "open, or it is over."},
    {"DELETE", "/sandboxes/{id}/files", "files:write", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_file_remove, "file_remove", "Remove a file or a directory", .tag = "Files",
     .query = "path,recursive,user", .success = "204", .failures = FILE_FAILURES,
     .doc = "A link is removed, not what it leads to. A directory only if it is empty, or with "
            "`recursive=true`."},
    {"GET", "/sandboxes/{id}/files", "files:read", SBX_LANE_FAST, 0, SBX_CAN_ANY, QUICK_MS,
     api_file_read, "file_read", "Read a file", .produces = "*/*", .tag = "Files",
     .query = "path,user", .success = "200,206", .response = "file",
     .failures = "409,410,412,416,502",
     .doc = "The bytes, with a type by the file's extension, always as an attachment. `Range` with "
            "one range is honoured, also with `If-Range`; `If-Match` and `If-None-Match` as well. "
            "The tag changes with every write."},
    {"PUT", "/sandboxes/{id}/files", "files:write", SBX_LANE_FAST, SBX_MAX_BODY_FILE,
     SBX_BODY_STREAM, QUICK_MS, api_file_write, "file_write", "Write a file", .tag = "Files",
     .query = "path,mode,mkdirs,user", .success = "200,201", .response = "File",
     .failures = "409,410,412,502",
     .doc = "The body is the content, of any size, with Content-Length or in chunks. The file "
            "appears, or is replaced, when the last byte is there; an upload that is cut changes "
            "nothing. 201 if it is new. `If-Match` with the file's tag: only if nobody changed it "
            "since; `If-None-Match: *`: only if it does not exist."},
    {"GET", "/sandboxes/{id}/files/archive", "files:read", SBX_LANE_FAST, 0, SBX_CAN_ANY, QUICK_MS,
     api_file_pack, "file_pack", "Download a directory as an archive",
     .produces = "application/gzip,application/x-tar,application/zip", .tag = "Files",
     .query = "path,format,user", .success = "200", .response = "bytes", .failures = FILE_FAILURES,
     .doc = "Packed in the sandbox while it is sent; names are relative to the path. An archive "
            "that could not be finished is cut: its transfer fails."},
    {"PUT", "/sandboxes/{id}/files/archive", "files:write", SBX_LANE_FAST, SBX_MAX_BODY_FILE,
     SBX_BODY_STREAM, QUICK_MS, api_file_unpack, "file_unpack", "Unpack an archive", .tag = "Files",
     .query = "path,user", .success = "200", .response = "Unpacked", .failures = FILE_FAILURES,
     .doc =
         "tar, tar.gz or zip, told by its bytes, extracted in the sandbox as its user below the "
         "path, which is made if it is missing. Names and links that lead out, devices and bombs "
         "are refused; what was extracted before stays."},
    {"POST", "/sandboxes/{id}/files/batch", "files:write", SBX_LANE_FAST, SBX_MAX_BODY_BATCH, 0,
     QUICK_MS, api_file_batch, "file_batch", "Write many small files", sbx_batch_fields,
     .tag = "Files", .query = "user", .success = "200", .response = "FileBatch",
     .failures = FILE_FAILURES,
     .doc = "All or nothing: all contents are written before the first file takes its place. "
            "Missing directories are made. The entries come in the order of the request.",
     .example = "{\"files\":{\"/tmp/demo/a.txt\":\"text\"}}"},
    {"POST", "/sandboxes/{id}/files/copy", "files:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0,
     QUICK_MS, api_file_copy, "file_copy", "Copy a file or a directory", sbx_move_fields,
     .tag = "Files", .query = "user", .success = "200", .response = "File",
     .failures = FILE_FAILURES,
     .doc = "With all that is in it, modes, times and links. It appears when it is complete.",
     .example = "{\"from\":\"/etc/passwd\",\"to\":\"/tmp/demo/copy\",\"overwrite\":true}"},
    {"GET", "/sandboxes/{id}/files/list", "files:read", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_file_list, "file_list", "List a directory", .tag = "Files",
     .query = "path,depth,limit,user", .success = "200", .response = "FileList",
     .failures = FILE_FAILURES,
     .doc = "Sorted by name, each before what is in it. Links are listed, not followed."},
    {"POST", "/sandboxes/{id}/files/mkdir", "files:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0,
     QUICK_MS, api_file_mkdir, "file_mkdir", "Make a directory", sbx_mkdir_fields, .tag = "Files",
     .query = "user", .success = "200,201", .response = "File", .failures = FILE_FAILURES,
     .doc = "201 if it is new.", .example = "{\"path\":\"/tmp/demo/made\"}"},
    {"POST", "/sandboxes/{id}/files/move", "files:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0,
     QUICK_MS, api_file_move, "file_move", "Move or rename a file or a directory", sbx_move_fields,
     .tag = "Files", .query = "user", .success = "200", .response = "File",
     .failures = FILE_FAILURES, .doc = "At once where both are on one file system, else by a copy.",
     .example = "{\"from\":\"/tmp/demo/old\",\"to\":\"/tmp/demo/new\",\"overwrite\":true}"},
    {"GET", "/sandboxes/{id}/files/stat", "files:read", SBX_LANE_FAST, 0, 0, QUICK_MS,
     api_file_stat, "file_stat", "Look at a file or a directory", .tag = "Files",
     .query = "path,user", .success = "200", .response = "File", .failures = FILE_FAILURES,
     .doc = "A link is looked at itself; `target` is where it leads."},
    {"GET", "/sandboxes/{id}/files/watch", "files:read", SBX_LANE_FAST, 0, SBX_CAN_SSE | SBX_CAN_WS,
     QUICK_MS, api_file_watch, "file_watch", "Watch a directory or a file",
     .produces = "text/event-stream", .tag = "Files", .query = "path,recursive,user",
     .success = "200", .sse = "FileReady,FileChange,FileOverflow,FileWatchError,error:StreamError",
     .ws = "FileReady,FileChange,FileOverflow,FileWatchError", .failures = FILE_FAILURES,
     .doc = "Begins with `ready`: what happens from then on is told. Opening it is use of the "
            "sandbox, watching is not. It cannot be resumed: after a reconnect, list again."},
    {"POST", "/sandboxes/{id}/keepalive", "sandbox:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_sandbox_keepalive, "sandbox_keepalive", "Begin the lifetime anew",
     sbx_no_fields, .tag = "Sandboxes", .success = "200", .response = "Sandbox",
     .failures = MOVE_FAILURES,
     .doc = "While `running` or `paused`: expiresAt is now + timeoutSeconds, unless it is null. It "
            "does not count as activity."},
    {"GET", "/sandboxes/{id}/logs", "sandbox:read", SBX_LANE_FAST, 0, SBX_CAN_SSE | SBX_CAN_WS,
     QUICK_MS, api_logs, "logs", "Log lines: a page, or a live stream", .tag = "Logs",
     .query = "tail,since,until,source,limit,cursor", .success = "200", .response = "LogPage",
     .sse = "LogEntry,gap:Gap,delayed:Delayed,state:Sandbox,end:End,error:StreamError",
     .ws = "LogsFrame,GapFrame,DelayedFrame,StateFrame,EndFrame,StreamError", .failures = "410",
     .doc = "A page by default; a live stream as server-sent events or as a WebSocket. The number "
            "of an entry is the id of its event: reconnect with it and nothing is missed or "
            "twice."},
    {"POST", "/sandboxes/{id}/pause", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_sandbox_pause, "sandbox_pause", "Freeze all processes", sbx_no_fields,
     .tag = "Sandboxes", .success = "200", .response = "Sandbox", .failures = MOVE_FAILURES,
     .doc = "From `running`. Memory stays, and expiresAt runs on. Use of a paused sandbox resumes "
            "it; reading does not."},
    {"POST", "/sandboxes/{id}/reset", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_sandbox_reset, "sandbox_reset", "Begin again inside", sbx_reset_fields,
     .tag = "Sandboxes", .success = "200", .response = "Sandbox", .failures = MOVE_FAILURES,
     .doc = "From `running`. `soft` ends all processes and keeps the files, `hard` is a new "
            "container without them; then the main process starts again."},
    {"POST", "/sandboxes/{id}/restart", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_sandbox_restart, "sandbox_restart", "Stop and start", sbx_restart_fields,
     .tag = "Sandboxes", .success = "200", .response = "Sandbox", .failures = MOVE_FAILURES,
     .doc = "From `running`, `paused`, `stopped` and `failed`. Files stay, unless another template "
            "is given: that is a new container."},
    {"POST", "/sandboxes/{id}/resume", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_sandbox_resume, "sandbox_resume", "Let a paused sandbox go on", sbx_no_fields,
     .tag = "Sandboxes", .success = "200", .response = "Sandbox", .failures = MOVE_FAILURES,
     .doc = "From `paused`. Without an expiresAt a lifetime begins."},
    {"POST",
     "/sandboxes/{id}/run",
     "exec:write",
     SBX_LANE_FAST,
     SBX_MAX_BODY_RUN,
     SBX_CAN_SSE,
     RUN_MS,
     api_sandbox_run,
     "sandbox_run",
     "Run code in a sandbox",
     sbx_sandbox_run_fields,
     .tag = "Code",
     .success = "200",
     .response = "RunResult",
     .sse = RUN_EVENTS,
     .failures = "409,410,502",
     .rate = SBX_RATED(CREATES),
     .doc = "As `POST /run`, in a sandbox that stays, beside the files that it has. It resumes one "
            "that is paused. The code's file has a name of its own and is removed behind the run "
            "(what a "
            "crash left of that, by a later one); "
            "what else the code leaves stays. A client that leaves ends the run, as there.",
     .example = "{\"runtime\":\"python\",\"code\":\"print(1)\"}",
     .rerun = true},
    {"POST", "/sandboxes/{id}/start", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_sandbox_start, "sandbox_start", "Start a stopped sandbox", sbx_no_fields,
     .tag = "Sandboxes", .success = "200", .response = "Sandbox", .failures = MOVE_FAILURES,
     .doc = "From `stopped`, with its files, and from `failed`, in a new container. A stopped "
            "sandbox whose container was lost gets a new one, too. The main process runs, and the "
            "lifetime begins anew."},
    {"GET", "/sandboxes/{id}/stats", "sandbox:read", SBX_LANE_FAST, 0, SBX_CAN_SSE, QUICK_MS,
     api_stats, "stats", "What a sandbox uses: now, or as a stream", .tag = "Sandboxes",
     .query = "intervalMs", .success = "200", .response = "Stats",
     .sse = "Stats,end:End,error:StreamError", .failures = "409,410,502",
     .doc =
         "One sample; with `Accept: text/event-stream` one every `intervalMs`, until nothing runs "
         "in the sandbox any more. While it is paused the engine is asked, which takes longer "
         "and knows less. Reading is no use."},
    {"POST", "/sandboxes/{id}/stop", "sandbox:write", SBX_LANE_SLOW, SBX_MAX_BODY_JSON, 0,
     ENGINE_MS, api_sandbox_stop, "sandbox_stop", "End all processes, keep the files",
     sbx_stop_fields, .tag = "Sandboxes", .success = "200", .response = "Sandbox",
     .failures = MOVE_FAILURES,
     .doc = "From `running` and `paused`. SIGTERM to every process, SIGKILL to those that are left "
            "after `graceSeconds`."},
    {"GET", "/sandboxes/{id}/terminal", "exec:write", SBX_LANE_FAST, 0, SBX_CAN_WS, QUICK_MS,
     api_terminal, "terminal", "A terminal, as a WebSocket", .tag = "Commands",
     .query = "cols,rows,command,execId",
     .ws = "TerminalStarted,TerminalExit,TerminalGap,"
           "TerminalError",
     .failures = "409,410,502", .rate = SBX_RATED(EXEC),
     .doc = "Binary frames are bytes, both ways. Text frames are control: send `{\"type\": "
            "\"resize\", \"cols\": 120, \"rows\": 40}`. The command is the user's login shell, or "
            "`command`, a shell string. With `execId` a terminal is joined again, by any number of "
            "viewers: its last output comes first, and the last one to resize wins. It outlives "
            "its viewers for 10 minutes."},
    {"POST", "/tickets", SBX_ANY_SCOPE, SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS,
     api_ticket_create, "ticket_create", "Make a ticket, for what a browser opens without headers",
     api_ticket_fields, .tag = "Tickets", .success = "201", .response = "Ticket", .failures = "429",
     .doc = "Any key may make one, for a path that it may read itself. Send it as `?ticket=` with "
            "exactly that path within 60 seconds, and without a key. A WebSocket and a plain read "
            "use it up. An EventSource may reconnect with it, until 60 seconds after it was last "
            "connected. It dies with its key. 429: 1,000 of the key's tickets are unused.",
     .example = "{\"path\":\"/sandboxes\"}"},
    {"GET", "/tiers", "quota:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_tier_list, "tier_list",
     "What users of each tier may use", .tag = "Usage", .success = "200", .response = "TierList"},
    {"PATCH", "/tiers/{name}", "quota:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS,
     api_tier_change, "tier_change", "Change a tier", api_tier_fields, .tag = "Usage",
     .success = "200", .response = "Tier", .admin = true, .audit = SBX_AUDIT_NOW,
     .doc = "For administrators. Holds at once for all users of the tier; what is not given stays, "
            "null takes a limit away.",
     .example = "{\"concurrentSandboxes\":10}"},
    {"GET", "/usage", "quota:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_usage, "usage",
     "What the caller has used, and what it cost", .tag = "Usage",
     .query = "owner,from,to,by,sandboxId,limit,cursor", .success = "200", .response = "UsageList",
     .doc = "This month, or the days `from` to `to` (UTC, both included), by the second; kept for "
            "400 days, also of sandboxes that are deleted. A sandbox is metered while it runs or "
            "is paused. By `runtime` and `package` there are the runs alone: how many, and how "
            "long their code ran."},
    {"GET", "/users", "users:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_user_list, "user_list",
     "List users, newest first", .tag = "Users", .query = "name,limit,cursor", .success = "200",
     .response = "UserList", .admin = true, .doc = "For administrators."},
    {"POST",
     "/users",
     "users:write",
     SBX_LANE_FAST,
     SBX_MAX_BODY_JSON,
     0,
     QUICK_MS,
     api_user_create,
     "user_create",
     "Make a user",
     api_user_fields,
     .audit = SBX_AUDIT_NOW,
     .tag = "Users",
     .success = "201",
     .response = "User",
     .failures = "409",
     .admin = true,
     .doc = "For administrators. 409: the name is taken. The user has no key yet: make one with "
            "POST /keys.",
     .example = "{\"name\":\"ada\",\"email\":\"ada@example.com\",\"tier\":\"free\"}",
     .rerun = true},
    {"DELETE", "/users/{id}", "users:write", SBX_LANE_FAST, 0, 0, QUICK_MS, api_user_delete,
     "user_delete", "Delete a user", .audit = SBX_AUDIT_NOW, .tag = "Users", .success = "204",
     .failures = "409", .admin = true,
     .doc =
         "For administrators. Its keys, tickets and streams end, and its name is free again. 409 "
         "while it has sandboxes: `DELETE /sandboxes?owner=` deletes them. Success again when it "
         "is deleted."},
    {"GET", "/users/{id}", "users:read", SBX_LANE_FAST, 0, 0, QUICK_MS, api_user_get, "user_get",
     "Read a user", .tag = "Users", .success = "200", .response = "User", .admin = true,
     .doc = "For administrators."},
    {"PATCH", "/users/{id}", "users:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0, QUICK_MS,
     api_user_patch, "user_patch", "Change a user", api_user_patch_fields, .audit = SBX_AUDIT_NOW,
     .tag = "Users", .success = "200", .response = "User", .failures = "409", .admin = true,
     .doc = "For administrators. What is given. A user that is `disabled` is refused within a "
            "second, and its streams "
            "end; its sandboxes live to the end of their time.",
     .example = "{\"email\":null}"},
    {"PUT", "/users/{id}/spending-limit", "quota:write", SBX_LANE_FAST, SBX_MAX_BODY_JSON, 0,
     QUICK_MS, api_spending_set, "spending_set", "Limit what a user spends in a month",
     api_spending_fields, .tag = "Usage", .success = "200", .response = "Quotas", .admin = true,
     .audit = SBX_AUDIT_NOW,
     .doc = "For administrators. At 80 and at 100 % the user gets an event `spending.alert`, each "
            "once a month. The answer is the user's quotas.",
     .example = "{\"limitMicros\":5000000,\"hardStop\":true}"},
};
const size_t sbx_api_route_count = ARRAY_LEN(sbx_api_routes);

sbx_rate sbx_api_rate(const sbx_api_route *route)
{
    if (route->rate)
        return (sbx_rate)(route->rate - 1);
    return strcmp(route->method, "GET") == 0 || strcmp(route->method, "DELETE") == 0
               ? SBX_RATE_READS
               : SBX_RATE_EXEC;
}

static bool genuine(sbx_app *app, const sbx_request *r)
{
    return r->ticket ? sbx_tickets_genuine(app->tickets, r->ticket)
                     : sbx_auth_genuine(app->auth, r->authorization, r->api_key);
}

/* An address from which too much came without a good key is not looked up any more, but a key or
 * ticket that was made here is, from wherever it comes. */
static int identify(sbx_app *app, const sbx_request *r, sbx_principal *who, sbx_err *err)
{
    sbx_rate_note note;
    int rc = sbx_rates_stranger(app->rates, r->client, &note, err);

    if (rc == 0 || genuine(app, r)) {
        rc = r->ticket ? api_ticket_check(app, r, who, err)
                       : sbx_auth_check(app->auth, r->authorization, r->api_key, who, err);
        if (rc && err->code == SBX_E_UNAUTHORIZED)
            sbx_rates_failed(app->rates, r->client, &note);
    }
    if (rc)
        sbx_reply_rate(r->reply, &note);
    return rc;
}

int api_rate(sbx_app *app, const sbx_principal *who, const sbx_request *r, size_t cost,
             sbx_err *err)
{
    const sbx_api_route *route = &sbx_api_routes[r->route - app->routes];
    sbx_rate_note note;
    int rc = sbx_rates_take(app->rates, who, sbx_api_rate(route), (int64_t)cost,
                            sbx_reply_rated(r->reply), &note, err);

    sbx_reply_rate(r->reply, &note);
    return rc;
}

static int authenticate(sbx_app *app, const sbx_api_route *route, const sbx_request *r,
                        sbx_principal *who, sbx_err *err)
{
    /* One that is run again after it was kept has paid. */
    bool paid = sbx_reply_rated(r->reply);

    if (identify(app, r, who, err) || (!paid && api_rate(app, who, r, 1, err)))
        return -1;
    if (*route->scope && sbx_principal_require(who, route->scope, err))
        return -1;
    if (route->admin && !who->admin)
        return sbx_fail(err, SBX_E_FORBIDDEN,
                        "this is for administrators: use a key of a user with the role admin");
    return api_reach(app, r, who, err);
}

static int run(sbx_app *app, const sbx_api_route *route, const sbx_request *r, sbx_err *err)
{
    sbx_principal who = {0};

    if (!route->scope)
        return route->handler(app, NULL, r, err);
    if (authenticate(app, route, r, &who, err))
        return api_audit_refused(app, route, r, *who.user ? &who : NULL, err);
    sbx_reply_set_bearer(r->reply, who.key, who.user, who.token_ends_ms);
    bool recorded = api_audit_begin(app, route, r, &who);
    int rc = (route->made || route->rerun) && r->idempotency_key
                 ? api_idempotent(app, route, &who, r, err)
                 : route->handler(app, &who, r, err);
    return rc == -1 && !recorded ? api_audit_refused(app, route, r, &who, err) : rc;
}

/* The server hands back its own row; ours has the same place in its table. */
static int dispatch(void *arg, const sbx_request *r, sbx_err *err)
{
    sbx_app *app = arg;

    return run(app, &sbx_api_routes[r->route - app->routes], r, err);
}

sbx_route *sbx_api_http_routes(void)
{
    sbx_route *out = sbx_alloc(sizeof(sbx_api_routes) / sizeof(*sbx_api_routes) * sizeof(*out));

    for (size_t i = 0; i < sbx_api_route_count; i++) {
        const sbx_api_route *a = &sbx_api_routes[i];

        out[i] = (sbx_route){.method = a->method,
                             .path = a->path,
                             .scope = a->scope,
                             .lane = a->lane,
                             .max_body = a->max_body,
                             .accepts = a->accepts,
                             .produces = a->produces,
                             .query = a->query,
                             .deadline_ms = a->deadline_ms,
                             .handler = dispatch,
                             .name = a->name,
                             .summary = a->summary};
    }
    return out;
}
