/* The tables of what is answered, and the few questions that both renderers ask of them. */
#include "contract.h"

#include "sbx/auth/tickets.h"
#include "sbx/logs/logs.h"
#include "sbx/sandbox/spec.h"
#include "sbx/stats/stats.h"

#define TEXT(macro)  TEXT_(macro)
#define TEXT_(value) #value

static const api_field health[] = {
    {"status", T_CONST, 0, "ok", "The process runs."},
    {"version", T_STR, 0, NULL, "Of the server.", .example = "\"0.1.0\""},
    {0},
};

static const api_field ready[] = {
    {"store", T_REF, 0, "Dependency", "PostgreSQL."},
    {"bus", T_REF, 0, "Dependency", "Redis, or the in-process bus."},
    {"engine", T_REF, 0, "Dependency", "Docker Engine."},
    {"network", T_REF, 0, "Guard", "The firewall of open sandboxes; it does not decide readiness."},
    {"status", T_ENUM, 0, "ready,draining,unavailable",
     "`ready`: all parts are. `draining`: the server is about to end, and still serves."},
    {0},
};

static const api_field guard[] = {
    {"status", T_ENUM, 0, "ok,unused,unavailable",
     "`unavailable`: no open sandbox starts. `unused`: no sandbox has needed a network yet."},
    {"code", T_CODE, OPTIONAL, NULL, "Why it is unavailable."},
    {0},
};

static const api_field pool[] = {
    {"template", T_STR, 0, NULL, "Of what waits."},
    {"size", T_REQUEST, 0, "size", "Of what waits."},
    {"network", T_REQUEST, 0, "network.mode", "Of what waits."},
    {"runtime", T_STR, NULLABLE, NULL, "The OCI runtime; null: the engine's default."},
    {"min", T_INT, 0, NULL, "So many always wait.", 0, SBX_MAX_POOL},
    {"max", T_INT, 0, NULL, "So many wait at most.", 0, SBX_MAX_POOL},
    {"target", T_INT, 0, NULL,
     "How many are to wait now: as many as creates came in the last minute, within min and max.", 0,
     SBX_MAX_POOL},
    {"ready", T_INT, 0, NULL, "How many wait.", 0, INT64_MAX},
    {"filling", T_INT, 0, NULL, "How many are being started.", 0, INT64_MAX},
    {"hits", T_INT, 0, NULL, "Creates that took one, since the pool was made.", 0, INT64_MAX},
    {"misses", T_INT, 0, NULL, "Creates that found none ready.", 0, INT64_MAX},
    {"claimsPerMinute", T_NUM, 0, NULL, "Hits and misses; older ones fade."},
    {"lastError", T_STR, NULLABLE, NULL, "Why the last start failed; null: it succeeded."},
    {"averageFillMs", T_INT, NULLABLE, NULL, "What a start takes; null: none was yet.", 0,
     INT64_MAX},
    {0},
};

static const api_field pool_list[] = {
    {"items", T_LIST, 0, "Pool", "By size, network and template."},
    {0},
};

static const api_field dependency[] = {
    {"status", T_ENUM, 0, "ok,unavailable", "Did it answer?"},
    {"latencyMs", T_NUM, 0, NULL, "How long the answer took."},
    {"breaker", T_ENUM, OPTIONAL, "closed,open",
     "Open: it is not reached, and calls of it fail at once."},
    {"code", T_CODE, OPTIONAL, NULL, "Why it is unavailable."},
    {0},
};

static const api_field field_error[] = {
    {"field", T_STR, 0, NULL, "Its path in the body (`limits.cpus`), or the parameter's name."},
    {"message", T_STR, 0, NULL, "What was wrong, and what would be right."},
    {0},
};

static const api_field problem[] = {
    {"type", T_STR, 0, NULL, "`urn:sandboxd:problem:` and the code."},
    {"title", T_STR, 0, NULL, "The kind of problem, always the same text for a code."},
    {"status", T_INT, 0, NULL, "The HTTP status.", 400, 599},
    {"detail", T_STR, 0, NULL, "What happened here, for people."},
    {"code", T_CODE, 0, NULL, "For programs: decide by this one."},
    {"requestId", T_STR, 0, NULL, "As in `X-Request-Id`; the server's log has it too."},
    {"sandboxId", T_ID, OPTIONAL, NULL,
     "The record that stays behind a create that failed; read it for the reason."},
    {"limit", T_STR, OPTIONAL, NULL, "Of `quota_exceeded`: which limit, as in `GET /quotas`.",
     .example = "\"concurrentSandboxes\""},
    {"value", T_INT, OPTIONAL, NULL, "How much it is.", 0, INT64_MAX},
    {"used", T_INT, OPTIONAL, NULL, "How much is used, or was asked for.", 0, INT64_MAX},
    {"resetAt", T_TIME, OPTIONAL | NULLABLE, NULL, "When it begins anew; null: not by time."},
    {"errors", T_LIST, OPTIONAL, "FieldError", "The fields that were wrong."},
    {0},
};

static const api_field state_reason[] = {
    {"code", T_STR, 0, NULL,
     "For programs. Of `failed`: container_ended (with exitCode or signal), out_of_memory, "
     "container_lost (it is gone from the engine), host_lost (the engine or its host went down), "
     "image_missing, interrupted, or the code of the problem that its start answered, such as "
     "engine_error. Of `stopped`: disk_full, expired, idle, compute_quota, spending_limit, or "
     "none.",
     .example = "\"expired\""},
    {"message", T_STR, 0, NULL, "For people."},
    {"exitCode", T_INT, OPTIONAL, NULL, "Of process 1."},
    {"signal", T_STR, OPTIONAL, NULL, "That ended it, without SIG.", .example = "\"KILL\""},
    {"oomKilled", T_BOOL, OPTIONAL, NULL, "It ran out of memory."},
    {0},
};

static const api_field limits[] = {
    {"cpus", T_REQUEST, 0, "limits.cpus", "CPU cores."},
    {"memoryMb", T_REQUEST, 0, "limits.memoryMb", "Memory, without swap."},
    {"pids", T_REQUEST, 0, "limits.pids", "Processes and threads at once."},
    {"diskMb", T_INT, NULLABLE, NULL, "Disk; null: not limited."},
    {0},
};

static const api_field network[] = {
    {"mode", T_REQUEST, 0, "network.mode", "What the sandbox may reach."},
    {"allow", T_STRS, 0, NULL, "The allow-list of mode `allowlist`."},
    {0},
};

#define CHECK_FIELDS(of)                                                                           \
    {"command", T_REQUEST, OPTIONAL, of ".command", "Succeeds with exit code 0."},                 \
        {"port", T_REQUEST, OPTIONAL, of ".port", "Succeeds when something listens there."},       \
        {"file", T_REQUEST, OPTIONAL, of ".file", "Succeeds when it is there."},                   \
        {"timeoutMs", T_REQUEST, 0, of ".timeoutMs", "For one try."},                              \
    {                                                                                              \
        "retries", T_REQUEST, 0, of ".retries", "How often it may fail."                           \
    }

static const api_field readiness[] = {
    CHECK_FIELDS("readiness"),
    {"intervalMs", T_REQUEST, 0, "readiness.intervalMs", "From one try to the next."},
    {"status", T_ENUM, 0, "waiting,ready,failed",
     "`ready`: it was, in this start; `failed`: the state is `failed` for this reason."},
    {0},
};

static const api_field sandbox_health[] = {
    CHECK_FIELDS("health"),
    {"intervalSeconds", T_REQUEST, 0, "health.intervalSeconds", "From one check to the next."},
    {"startPeriodSeconds", T_REQUEST, 0, "health.startPeriodSeconds",
     "Failures do not count so long after the start."},
    {"status", T_ENUM, 0, "starting,healthy,unhealthy",
     "Says nothing about the state; a change is an event and a line in the log."},
    {"failures", T_INT, 0, NULL, "In a row.", 0, INT64_MAX},
    {"checkedAt", T_TIME, NULLABLE, NULL, "Up to half a minute old while the status stays."},
    {"message", T_STR, NULLABLE, NULL, "Why the last check failed, with what it wrote."},
    {0},
};

static const api_field sandbox[] = {
    {"id", T_ID, 0, NULL, "Also the container's name, behind `sbx-`."},
    {"name", T_STR, NULLABLE, NULL, "For people; need not be unique."},
    {"template", T_STR, NULLABLE, NULL, "The template; null: made from an image."},
    {"image", T_STR, 0, NULL, "What it was made from."},
    {"state", T_STATE, 0, NULL, "See the lifecycle."},
    {"stateReason", T_REF, NULLABLE, "StateReason", "Why it is in this state; `failed` has one."},
    {"stateChangedAt", T_TIME, 0, NULL, "When it came into this state."},
    {"limits", T_REF, 0, "Limits", "What it may use."},
    {"size", T_REQUEST, 0, "size", "The size that was asked for; `limits` override it."},
    {"network", T_REF, 0, "Network", "What it may reach."},
    {"metadata", T_MAP, 0, NULL, "The caller's own labels."},
    {"envNames", T_STRS, 0, NULL, "Names of its environment; values never come back."},
    {"timeoutSeconds", T_REQUEST, 0, "timeoutSeconds", "Lifetime from the start."},
    {"idleTimeoutSeconds", T_REQUEST, 0, "idleTimeoutSeconds", "Time without use until onIdle."},
    {"onTimeout", T_REQUEST, 0, "onTimeout", "What the lifetime's end does."},
    {"onIdle", T_REQUEST, 0, "onIdle", "What idleness does."},
    {"createdAt", T_TIME, 0, NULL, "When the record was written."},
    {"startedAt", T_TIME, NULLABLE, NULL, "When it was last started."},
    {"lastActiveAt", T_TIME, NULLABLE, NULL, "When it was last used; up to a second old."},
    {"expiresAt", T_TIME, NULLABLE, NULL, "When onTimeout happens; null: not set now."},
    {"warm", T_BOOL, 0, NULL, "It came from a pool of started ones."},
    {"runtime", T_STR, NULLABLE, NULL, "The OCI runtime; null: the engine's default."},
    {"host", T_STR, NULLABLE, NULL, "The engine host; null: there is only one."},
    {"diskLimit", T_ENUM, 0, "enforced,watched,none", "How a disk limit is kept."},
    {"readiness", T_REF, NULLABLE, "Readiness", "What must succeed before it runs; null: nothing."},
    {"health", T_REF, NULLABLE, "SandboxHealth", "What is checked while it runs; null: nothing."},
    {0},
};

static const api_field sandbox_list[] = {
    {"items", T_LIST, 0, "Sandbox", "Newest first."},
    {"nextCursor", T_STR, NULLABLE, NULL, "For the next page; null: this was the last."},
    {0},
};

#define EXIT_FIELDS                                                                                \
    {"exitCode", T_INT, 0, NULL, "128 + n for signal n; 127: command not found."},                 \
    {                                                                                              \
        "signal", T_STR, NULLABLE, NULL, "That ended it, without SIG."                             \
    }

#define RESULT_FIELDS                                                                              \
    {"durationMs", T_INT, 0, NULL, "From its start to its end."},                                  \
        {"timedOut", T_BOOL, 0, NULL, "It was killed at timeoutMs."},                              \
        {"oomKilled", T_BOOL, 0, NULL, "The sandbox ran out of memory."},                          \
        {"truncated", T_BOOL, 0, NULL, "Output beyond maxOutputBytes was dropped."},               \
        {"cpuLimitExceeded", T_BOOL, OPTIONAL, NULL, "It was killed at cpuTimeMs."},               \
    {                                                                                              \
        "message", T_STR, OPTIONAL, NULL, "What of this matters, in words."                        \
    }

#define SEQ                                                                                        \
    {                                                                                              \
        "seq", T_INT, OPTIONAL, NULL, "Its number; in an event stream the `id` has it.", 0,        \
            INT64_MAX                                                                              \
    }

#define OF_MANY                                                                                    \
    {                                                                                              \
        "sandboxId", T_ID, OPTIONAL, NULL, "Of a command in a group: where."                       \
    }

#define ENCODING                                                                                   \
    {                                                                                              \
        "encoding", T_CONST, OPTIONAL, "base64", "Present when the bytes are not UTF-8."           \
    }

static const api_field exec_result[] = {
    OF_MANY,
    {"execId", T_ID, 0, NULL, "Of this command."},
    EXIT_FIELDS,
    {"stdout", T_STR, 0, NULL, "What it wrote."},
    {"stderr", T_STR, 0, NULL, "What it wrote there."},
    ENCODING,
    RESULT_FIELDS,
    {0},
};

static const api_field exec_object[] = {
    OF_MANY,
    {"execId", T_ID, 0, NULL, "Of this command."},
    {"kind", T_ENUM, 0, "exec,run,main", "`run`: code; `main`: the sandbox's main process."},
    {"state", T_ENUM, 0, "running,finished,failed", "`failed`: it did not start, or was lost."},
    {"command", T_STRS, 0, NULL, "Program and arguments; cut when they are long."},
    {"background", T_BOOL, 0, NULL, "Nobody waited for it."},
    {"terminal", T_BOOL, 0, NULL, "It has a terminal."},
    {"pid", T_INT, NULLABLE, NULL, "Inside the sandbox, while it runs."},
    {"startedAt", T_TIME, 0, NULL, "When it was started."},
    {"finishedAt", T_TIME, NULLABLE, NULL, "When it ended; null: it runs, or it is not known."},
    {"durationMs", T_INT, NULLABLE, NULL, "From its start to its end."},
    {"exitCode", T_INT, NULLABLE, NULL, "128 + n for signal n; 127: command not found."},
    {"signal", T_STR, NULLABLE, NULL, "That ended it, without SIG."},
    {"timedOut", T_BOOL, 0, NULL, "It was killed at timeoutMs."},
    {"oomKilled", T_BOOL, 0, NULL, "The sandbox ran out of memory."},
    {"cpuLimitExceeded", T_BOOL, 0, NULL, "It was killed at cpuTimeMs."},
    {"truncated", T_BOOL, 0, NULL, "Output beyond maxOutputBytes was dropped."},
    {"cpuTimeMs", T_INT, NULLABLE, NULL, "CPU time of its process tree, when it is over."},
    {"peakMemoryBytes", T_INT, NULLABLE, NULL, "The most that one of its processes had."},
    {"error", T_STR, NULLABLE, NULL,
     "The code of the problem, if it failed; `lost`: its sandbox ended first."},
    {"runtime", T_STR, OPTIONAL, NULL, "Of a run: what runs its code.", .example = "\"python\""},
    {"packages", T_STRS, OPTIONAL, NULL, "Of a run that is over: what was installed for it."},
    {0},
};

static const api_field exec_list[] = {
    {"items", T_LIST, 0, "Exec", "Newest first."},
    {"nextCursor", T_STR, NULLABLE, NULL, "For the next page; null: this was the last."},
    {0},
};

static const api_field exec_output_page[] = {
    {"items", T_ONE_OF, 0, "ExecStart,ExecOutput,ExecGap,ExecExit,ExecError", "In order."},
    {"nextCursor", T_STR, NULLABLE, NULL,
     "Where to go on, also while the command runs; null: nothing more will come."},
    {0},
};

static const api_field exec_gap[] = {
    OF_MANY,
    SEQ,
    {"type", T_CONST, 0, "gap", "Numbers that are gone for good, and only those."},
    {"from", T_INT, 0, NULL, "The first.", 1, INT64_MAX},
    {"to", T_INT, 0, NULL, "The last.", 1, INT64_MAX},
    {0},
};

static const api_field terminal_started[] = {
    {"type", T_CONST, 0, "started", "The first frame."},
    {"execId", T_ID, 0, NULL, "To join it again, or to signal it."},
    {0},
};

static const api_field terminal_exit[] = {
    {"type", T_CONST, 0, "exit", "The command ended; the close with 1000 follows."},
    EXIT_FIELDS,
    {0},
};

static const api_field terminal_gap[] = {
    {"type", T_CONST, 0, "gap", "Output was skipped, since you took it too slowly."},
    {0},
};

static const api_field terminal_error[] = {
    {"type", T_CONST, 0, "error", "A control frame was wrong, or the terminal was lost."},
    {"code", T_CODE, 0, NULL, "As in a problem."},
    {"message", T_STR, 0, NULL, "For people."},
    {0},
};

static const api_field exec_start[] = {
    OF_MANY,
    SEQ,
    {"type", T_CONST, 0, "start", "The command runs."},
    {"execId", T_ID, 0, NULL, "Of this command."},
    {"pid", T_INT, 0, NULL, "Inside the sandbox."},
    {0},
};

static const api_field exec_output[] = {
    OF_MANY,
    SEQ,
    {"type", T_ENUM, 0, "stdout,stderr", "Where it was written."},
    {"data", T_STR, 0, NULL, "What was written; pieces end anywhere but within a character."},
    ENCODING,
    {0},
};

static const api_field exec_exit[] = {
    OF_MANY,
    SEQ,
    {"type", T_CONST, 0, "exit", "The command ended; the stream ends with it."},
    EXIT_FIELDS,
    RESULT_FIELDS,
    {0},
};

static const api_field exec_error[] = {
    OF_MANY,
    SEQ,
    {"type", T_CONST, 0, "error", "It could not be followed to its end; the stream ends here."},
    {"code", T_CODE, 0, NULL, "As in a problem."},
    {"message", T_STR, 0, NULL, "For people."},
    {0},
};

static const api_field log_entry[] = {
    {"seq", T_INT, 0, NULL, "One counter per sandbox, from 1, without gaps.", 1, INT64_MAX},
    {"ts", T_TIME, 0, NULL, "When the line was read."},
    {"stream", T_ENUM, 0, "stdout,stderr,system", "`system`: said by sandboxd."},
    {"source", T_ENUM, 0, "main,exec,run,system", "Which kind of process wrote it."},
    {"execId", T_ID, NULLABLE, NULL, "The command that wrote it."},
    {"data", T_STR, 0, NULL, "The line, without its end."},
    ENCODING,
    {0},
};

static const api_field log_page[] = {
    {"items", T_LIST, 0, "LogEntry", "Oldest first."},
    {"nextCursor", T_STR, NULLABLE, NULL, "The last entry's number, if there are more."},
    {0},
};

static const api_field stats[] = {
    {"sandboxId", T_ID, 0, NULL, "The sandbox."},
    {"ts", T_TIME, 0, NULL, "When it was measured."},
    {"source", T_ENUM, 0, "agent,engine", "Who told it."},
    {"cpuTimeMs", T_INT, NULLABLE, NULL, "Processor time since its start.", 0, INT64_MAX},
    {"cpuPercent", T_NUM, NULLABLE, NULL,
     "Use of the processor since the sample before, 100 for one whole core; null: there is none of "
     "the last minute."},
    {"cpus", T_NUM, 0, NULL, "The limit, in cores."},
    {"memoryBytes", T_INT, NULLABLE, NULL, "Memory, without cached files.", 0, INT64_MAX},
    {"memoryPeakBytes", T_INT, NULLABLE, NULL, "The most so far, with cached files.", 0, INT64_MAX},
    {"memoryLimitBytes", T_INT, NULLABLE, NULL, "The limit.", 0, INT64_MAX},
    {"pids", T_INT, NULLABLE, NULL, "Processes and threads.", 0, INT64_MAX},
    {"pidsLimit", T_INT, NULLABLE, NULL, "The limit.", 0, INT64_MAX},
    {"oomKills", T_INT, NULLABLE, NULL, "Processes killed for lack of memory.", 0, INT64_MAX},
    {"diskBytes", T_INT, NULLABLE, NULL, "Bytes of files written in it.", 0, INT64_MAX},
    {"diskLimitBytes", T_INT, NULLABLE, NULL, "The limit; null: none.", 0, INT64_MAX},
    {"networkRxBytes", T_INT, NULLABLE, NULL, "Received.", 0, INT64_MAX},
    {"networkTxBytes", T_INT, NULLABLE, NULL, "Sent.", 0, INT64_MAX},
    {"uptimeMs", T_INT, NULLABLE, NULL, "Since its start.", 0, INT64_MAX},
    {0},
};

static const api_field event[] = {
    {"seq", T_INT, 0, NULL, "One counter per user, from 1, without gaps.", 1, INT64_MAX},
    {"ts", T_TIME, 0, NULL,
     "When it happened (a change of state: `stateChangedAt`). The order is that of `seq`."},
    {"type", T_STR, 0, NULL,
     "`sandbox.` and the new state, status of health, `pulling`: its image is on its way, and the "
     "reason says how far; or `alert`: it came near a limit, which the code of the reason names "
     "(memory_80, memory_90, processes_80, processes_90), or could not be paused when it was idle "
     "(pause_failed), or be resumed (resume_failed). `spending.alert`: so many percent, the `to` "
     "of "
     "the data, of the user's spending limit of the month are used.",
     .example = "\"sandbox.running\""},
    {"sandboxId", T_ID, NULLABLE, NULL, "Whose state changed; null: of `spending.alert`."},
    {"data", T_REF, 0, "EventData", "The change."},
    {0},
};

static const api_field event_data[] = {
    {"from", T_STR, NULLABLE, NULL, "The state, or status of health, before; null: new."},
    {"to", T_STR, 0, NULL, "The new state, or status of health.", .example = "\"running\""},
    {"reason", T_REF, NULLABLE, "StateReason", "Why; `failed` always has one."},
    {0},
};

static const api_field event_page[] = {
    {"items", T_LIST, 0, "Event", "Oldest first."},
    {"nextCursor", T_STR, NULLABLE, NULL, "The last event's number, if there are more."},
    {0},
};

static const api_field events_frame[] = {
    {"type", T_CONST, 0, "events", "At most one per 100 ms."},
    {"events", T_LIST, 0, "Event", "In order."},
    {0},
};

static const api_field ticket[] = {
    {"ticket", T_STR, 0, NULL, "The secret; it is shown once.", SBX_TICKET_LEN, SBX_TICKET_LEN},
    {"method", T_CONST, 0, "GET", "What it is for."},
    {"path", T_STR, 0, NULL, "The one path that it opens, with any query."},
    {"expiresAt", T_TIME, 0, NULL, "Until then it must be used for the first time."},
    {0},
};

static const api_field gap[] = {
    {"from", T_INT, 0, NULL, "The first number that is gone for good.", 1, INT64_MAX},
    {"to", T_INT, 0, NULL, "The last one.", 1, INT64_MAX},
    {0},
};

static const api_field end[] = {{0}};

static const api_field logs_frame[] = {
    {"type", T_CONST, 0, "logs", "At most one per 100 ms."},
    {"entries", T_LIST, 0, "LogEntry", "In order."},
    {0},
};

static const api_field gap_frame[] = {
    {"type", T_CONST, 0, "gap", "Numbers that are gone for good, and only those."},
    {"from", T_INT, 0, NULL, "The first.", 1, INT64_MAX},
    {"to", T_INT, 0, NULL, "The last.", 1, INT64_MAX},
    {0},
};

static const api_field delayed_frame[] = {
    {"type", T_CONST, 0, "delayed",
     "Entries come later, by number: servers cannot reach each other."},
    {0},
};

static const api_field state_frame[] = {
    {"type", T_CONST, 0, "state", "The sandbox changed."},
    {"sandbox", T_REF, 0, "Sandbox", "As it is now."},
    {0},
};

static const api_field end_frame[] = {
    {"type", T_CONST, 0, "end", "Nothing more comes; the close with 1000 follows."},
    {0},
};

const api_schema api_schemas[] = {
    {"AuditEntry", "One act, or several that are alike.", api_audit_view},
    {"AuditPage", "A page of the audit log.", api_audit_page},
    {"Batch", "What became of each sandbox.", api_batch},
    {"BatchProblem", "A sandbox that could not be made.", api_batch_problem},
    {"BatchSandbox", "A sandbox that was made.", api_batch_sandbox},
    {"Context", "An interpreter that keeps its state between runs.", api_context},
    {"ContextList", "All contexts of a sandbox.", api_context_list_view},
    {"Delayed", "Entries come later, by number: servers cannot reach each other.", end},
    {"DelayedFrame", "Entries come later, by number.", delayed_frame},
    {"DeleteProblem", "A sandbox that could not be deleted.", api_delete_problem},
    {"DeletedMany", "What became of each sandbox.", api_deleted_many},
    {"Dependency", "A part that the server needs.", dependency},
    {"End", "Nothing more comes; do not reconnect.", end},
    {"EndFrame", "The last frame.", end_frame},
    {"Event", "A sandbox changed its state, or its status of health.", event},
    {"EventData", "The change.", event_data},
    {"EventPage", "Events, oldest first.", event_page},
    {"EventsFrame", "Events as they come.", events_frame},
    {"Exec", "A command.", exec_object},
    {"ExecError", "Event: the command was lost.", exec_error},
    {"ExecExit", "Event: the end.", exec_exit},
    {"ExecGap", "Event: output that is gone for good.", exec_gap},
    {"ExecList", "A page of commands.", exec_list},
    {"ExecOutput", "Event: output.", exec_output},
    {"ExecOutputPage", "Events of a command, in order.", exec_output_page},
    {"ExecResult", "How a command ended, and what it wrote.", exec_result},
    {"ExecStart", "Event: the first one.", exec_start},
    {"FieldError", "One field that was wrong.", field_error},
    {"File", "A file, directory or link.", api_file_view},
    {"FileBatch", "What was written.", api_file_batch_view},
    {"FileChange", "Something changed.", api_file_change_view},
    {"FileList", "What is in a directory.", api_file_list_view},
    {"FileOverflow", "Changes were missed.", api_file_overflow_view},
    {"FileReady", "The first message of a watch.", api_file_ready_view},
    {"FileWatchError", "The last message of a watch.", api_file_watch_error_view},
    {"Gap", "Numbers that are gone for good.", gap},
    {"GapFrame", "Numbers that are gone for good.", gap_frame},
    {"Group", "A named set of sandboxes.", api_group_view},
    {"GroupList", "A page of groups.", api_group_list_view},
    {"GroupResults", "What became of a command in each member.", api_group_results},
    {"Guard", "The firewall of open sandboxes.", guard},
    {"Health", "The process runs.", health},
    {"Key", "An API key.", api_key_view},
    {"KeyList", "A page of keys.", api_key_list_view},
    {"KeyMade", "A new API key.", api_key_made_view},
    {"KeyRates", "Rates of an API key.", api_key_rates_view},
    {"Limits", "What a sandbox may use.", limits},
    {"LogEntry", "One line.", log_entry},
    {"LogPage", "Lines, oldest first.", log_page},
    {"LogsFrame", "Lines as they come.", logs_frame},
    {"Me", "Who asks, and what he may do.", api_me_view},
    {"MemberProblem", "Why a command failed in one member.", api_member_problem},
    {"Network", "What a sandbox may reach.", network},
    {"Pool", "Started sandboxes that wait for creates.", pool},
    {"PoolList", "All pools.", pool_list},
    {"Price", "What sandboxes up to a size cost.", api_price_view},
    {"PriceList", "All prices.", api_price_list_view},
    {"Problem", "Every error, as RFC 9457 says.", problem},
    {"Quota", "A limit, and what is used.", api_quota_view},
    {"Quotas", "Limits of a user, and what is used.", api_quotas_view},
    {"Readiness", "What must succeed before a sandbox runs.", readiness},
    {"Ready", "Which parts are usable.", ready},
    {"RunEnd", "Event: how it ended.", api_run_end},
    {"RunError", "Event: what is not the code's doing.", api_run_error},
    {"RunExit", "Event: the last one.", api_run_exit},
    {"RunFailure", "What is not the code's doing.", api_run_failure},
    {"RunInstall", "Event: a line of progress.", api_run_install},
    {"RunOutput", "Event: output.", api_run_output},
    {"RunResult", "How code ended, and what it wrote.", api_run_result},
    {"RunStart", "Event: the code has started.", api_run_start},
    {"Sandbox", "A sandbox.", sandbox},
    {"SandboxHealth", "What is checked while a sandbox runs.", sandbox_health},
    {"SandboxList", "A page of sandboxes.", sandbox_list},
    {"StateFrame", "A change of the sandbox.", state_frame},
    {"StateReason", "Why a sandbox is in its state.", state_reason},
    {"Stats", "What a sandbox uses; null: not known.", stats},
    {"StreamError", "The last event: the right to the stream ended.", api_stream_error},
    {"TerminalError", "Something was wrong.", terminal_error},
    {"TerminalExit", "The last frame.", terminal_exit},
    {"TerminalGap", "Output was skipped.", terminal_gap},
    {"TerminalStarted", "The first frame.", terminal_started},
    {"Ticket", "A credential for one request of a browser.", ticket},
    {"Tier", "What its users may use.", api_tier_view},
    {"TierList", "All tiers.", api_tier_list_view},
    {"Unpacked", "What an archive held.", api_unpacked_view},
    {"UsageItem", "What was used.", api_usage_item_view},
    {"UsageList", "A page of usage.", api_usage_list_view},
    {"User", "Somebody who has keys.", api_user_view},
    {"UserList", "A page of users.", api_user_list_view},
};
const size_t api_schema_count = ARRAY_LEN(api_schemas);

/* --- parameters --- */

#define PATH_DOC                                                                                   \
    "Absolute, or relative to the home of the user. A name that is not UTF-8 cannot be given "     \
    "here "                                                                                        \
    "(400)."

static const api_field params[] = {
    {"id", T_ID, 0, NULL, "The sandbox."},
    {"id", T_ID, 0, NULL, "The group.", .route = "group_get"},
    {"id", T_ID, 0, NULL, "The group.", .route = "group_patch"},
    {"id", T_ID, 0, NULL, "The group.", .route = "group_delete"},
    {"id", T_ID, 0, NULL, "The group.", .route = "group_exec"},
    {"sandboxes", T_BOOL, 0, NULL, "Delete its members, too.", .dflt = "false"},
    {"name", T_STR, 0, NULL, "The tier.", .route = "tier_change"},
    {"size", T_STR, 0, NULL, "The size.", .route = "price_change"},
    {"execId", T_ID, 0, NULL, "The command."},
    {"contextId", T_ID, 0, NULL, "The context."},
    {"execId", T_ID, 0, NULL, "The terminal to join again.", .route = "terminal"},
    {"cols", T_INT, 0, NULL, "Its width.", 1, SBX_TERMINAL_MAX_SIZE, .dflt = "80"},
    {"rows", T_INT, 0, NULL, "Its height.", 1, SBX_TERMINAL_MAX_SIZE, .dflt = "24"},
    {"command", T_STR, 0, NULL, "A shell string; default: the login shell.", .example = "\"top\""},
    {"close", T_ENUM, 0, "true,false", "End the input behind the body."},
    {"cursor", T_INT, 0, NULL, "`nextCursor` of the page before; the same as `since`.", 0,
     INT64_MAX, .route = "exec_output"},
    {"state", T_STATE, 0, NULL, "Only those in this state; `deleted` ones only by this."},
    {"template", T_STR, 0, NULL, "Only those of this template.", .example = "\"python\""},
    {"name", T_STR, 0, NULL, "Only those with exactly this name.", .example = "\"build-7\""},
    {"metadata.*", T_STR, 0, NULL,
     "Only those whose metadata has this value under the key that stands for `*`.",
     .example = "\"value\""},
    {"metadata.*", T_STR, REQUIRED, NULL,
     "Only those whose metadata has this value under the key that stands for `*`.",
     .example = "\"value\"", .route = "sandbox_delete_many"},
    {"limit", T_INT, 0, NULL, "Items of a page.", 1, SBX_MAX_LIST_ITEMS, .dflt = "50"},
    {"cursor", T_STR, 0, NULL, "`nextCursor` of the page before."},
    {"cursor", T_INT, 0, NULL, "`nextCursor` of the page before; the same as `since`.", 0,
     INT64_MAX, .route = "logs"},
    {"tail", T_INT, 0, NULL,
     "Begin with the newest so many. Streams: default " TEXT(SBX_LOGS_DEFAULT_TAIL) ".", 0,
     SBX_LOG_HISTORY_LINES, .route = "logs"},
    {"cursor", T_INT, 0, NULL, "`nextCursor` of the page before; the same as `since`.", 0,
     INT64_MAX, .route = "events"},
    {"tail", T_INT, 0, NULL, "Begin with the newest so many. Streams: default 0.", 0,
     SBX_MAX_LIST_ITEMS, .route = "events"},
    {"sandboxId", T_ID, 0, NULL, "Only those of this sandbox, which may be deleted."},
    {"type", T_STR, 0, NULL, "Only those of this type.", .example = "\"sandbox.failed\""},
    {"intervalMs", T_INT, 0, NULL, "From one sample to the next.", SBX_STATS_MIN_MS,
     SBX_STATS_MAX_MS, .dflt = TEXT(SBX_STATS_DEFAULT_MS)},
    {"since", T_INT, 0, NULL, "Only numbers above this one: where to resume.", 0, INT64_MAX},
    {"until", T_INT, 0, NULL, "Only numbers up to this one; pages only.", 0, INT64_MAX},
    {"source", T_ENUM, 0, "main,exec,run,system", "Only lines of this kind of process."},
    {"path", T_STR, REQUIRED, NULL, PATH_DOC, 1, SBX_MAX_FILE_PATH_BYTES,
     .example = "\"/etc/passwd\""},
    {"path", T_STR, REQUIRED, NULL, PATH_DOC, 1, SBX_MAX_FILE_PATH_BYTES,
     .example = "\"/tmp/demo/written\"", .route = "file_write"},
    {"path", T_STR, REQUIRED, NULL, PATH_DOC, 1, SBX_MAX_FILE_PATH_BYTES,
     .example = "\"/tmp/demo/old\"", .route = "file_remove"},
    {"path", T_STR, REQUIRED, NULL, PATH_DOC, 1, SBX_MAX_FILE_PATH_BYTES,
     .example = "\"/tmp/demo\"", .route = "file_list"},
    {"path", T_STR, REQUIRED, NULL, PATH_DOC, 1, SBX_MAX_FILE_PATH_BYTES,
     .example = "\"/tmp/demo\"", .route = "file_pack"},
    {"path", T_STR, REQUIRED, NULL, PATH_DOC, 1, SBX_MAX_FILE_PATH_BYTES,
     .example = "\"/tmp/demo\"", .route = "file_unpack"},
    {"path", T_STR, REQUIRED, NULL, PATH_DOC, 1, SBX_MAX_FILE_PATH_BYTES,
     .example = "\"/tmp/demo\"", .route = "file_watch"},
    {"user", T_STR, 0, NULL, "Who does it, as in exec: a name or uid. Default: the image's user.",
     1, 128, .example = "\"root\""},
    {"mode", T_STR, 0, NULL,
     "Octal. Default: that of the file that is replaced, else 0666 without the umask.", 1, 4,
     .example = "\"0644\""},
    {"mkdirs", T_BOOL, 0, NULL, "Make missing directories.", .dflt = "false"},
    {"recursive", T_BOOL, 0, NULL, "With all that is in it.", .dflt = "false"},
    {"depth", T_INT, 0, NULL, "How far down; 1: only what is in it.", 1, SBX_MAX_LIST_DEPTH,
     .dflt = "1"},
    {"limit", T_INT, 0, NULL, "At most so many entries.", 1, SBX_MAX_LIST_FILES,
     .dflt = TEXT(SBX_DEFAULT_LIST_FILES), .route = "file_list"},
    {"format", T_ENUM, 0, "tar.gz,tar,zip", "Of the archive.", .dflt = "\"tar.gz\""},
    {0},
};

const api_field *api_param_find(const sbx_api_route *route, const char *name, size_t len)
{
    const api_field *tables[] = {params, api_identity_params, api_audit_params, api_quota_params};
    const api_field *found = NULL;

    for (size_t i = 0; i < ARRAY_LEN(tables); i++)
        for (const api_field *f = tables[i]; f->name; f++) {
            if (strlen(f->name) != len || memcmp(f->name, name, len) != 0)
                continue;
            if (sbx_streq(f->route, route->name))
                return f;
            if (!f->route)
                found = f;
        }
    return found;
}

const api_schema *api_schema_find(const char *name, size_t len)
{
    for (size_t i = 0; i < api_schema_count; i++)
        if (strlen(api_schemas[i].name) == len && memcmp(api_schemas[i].name, name, len) == 0)
            return &api_schemas[i];
    return NULL;
}

const char *api_response_of(const sbx_api_route *route, int status, size_t *ret_len)
{
    const char *list = route->response, *item, *found = NULL;
    size_t len;

    while (api_list_next(&list, &item, &len)) {
        bool special = len > 4 && item[3] == ':';

        if (special && api_status(item) != status)
            continue;
        found = special ? item + 4 : item;
        *ret_len = special ? len - 4 : len;
        if (special)
            break;
    }
    return found;
}

const sbx_json_field *api_request_field(const char *path)
{
    const sbx_json_field *f = sbx_spec_fields;

    while (f && f->name) {
        size_t n = strcspn(path, ".");

        if (strlen(f->name) != n || memcmp(f->name, path, n) != 0) {
            f++;
        } else if (!path[n]) {
            return f;
        } else {
            path += n + 1;
            f = f->sub;
        }
    }
    return NULL;
}

/* --- lists and statuses --- */

bool api_list_next(const char **list, const char **item, size_t *len)
{
    if (!*list || !**list)
        return false;
    *item = *list;
    *len = strcspn(*list, ",");
    *list += *len + ((*list)[*len] == ',');
    return true;
}

bool api_list_has(const char *list, const char *word)
{
    const char *item;
    size_t len;

    while (api_list_next(&list, &item, &len))
        if (strlen(word) == len && memcmp(item, word, len) == 0)
            return true;
    return false;
}

int api_status(const char *digits)
{
    return (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + digits[2] - '0';
}

static size_t add_status(int *out, size_t count, int status)
{
    size_t at = 0;

    while (at < count && out[at] < status)
        at++;
    if ((at < count && out[at] == status) || count == API_MAX_STATUSES)
        return count;
    memmove(out + at + 1, out + at, (count - at) * sizeof(*out));
    out[at] = status;
    return count + 1;
}

size_t api_failures(const sbx_api_route *route, int out[API_MAX_STATUSES])
{
    static const int always[] = {400, 414, 431, 500, 503, 504};
    const char *list = route->failures, *item;
    size_t count = 0, len;

    for (size_t i = 0; i < ARRAY_LEN(always); i++)
        count = add_status(out, count, always[i]);
    if (route->scope) {
        count = add_status(out, count, 401);
        count = add_status(out, count, 403);
        count = add_status(out, count, 429);
    }
    if (!(route->accepts & SBX_CAN_ANY))
        count = add_status(out, count, 406);
    if (strchr(route->path, '{'))
        count = add_status(out, count, 404);
    if (route->max_body) {
        count = add_status(out, count, 413);
        count = add_status(out, count, 415);
    }
    while (api_list_next(&list, &item, &len))
        count = add_status(out, count, api_status(item));
    return count;
}
