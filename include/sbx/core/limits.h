/* Every limit that is not an option of the operator. Options: core/options.h. */
#ifndef SBX_CORE_LIMITS_H
#define SBX_CORE_LIMITS_H

#include "sbx/core/base.h"

/* HTTP */
#define SBX_MAX_URI_BYTES        (8 * KIB)
#define SBX_MAX_HEADER_BYTES     (16 * KIB)
#define SBX_MAX_PATH_PARAMS      4
#define SBX_MAX_QUERY_PARAMS     32
#define SBX_MAX_JSON_DEPTH       32
#define SBX_MAX_REQUEST_ID_BYTES 64
#define SBX_MAX_BODY_JSON        MIB         /* default for JSON bodies */
#define SBX_MAX_BODY_EXEC        (8 * MIB)   /* exec with stdin */
#define SBX_MAX_OUTBOX_BYTES     (256 * KIB) /* unsent bytes of one streamed response */
#define SBX_MAX_RESPONSE_BYTES   (48 * MIB)  /* a complete response in memory */
#define SBX_MAX_LIST_ITEMS       200

#define SBX_MAX_IDEMPOTENCY_KEY 255
#define SBX_MAX_KEPT_ANSWER     (8 * MIB) /* larger ones are not there for a repetition */

/* Users and keys */
#define SBX_MAX_KEYS        1000  /* of one user, neither revoked nor expired */
#define SBX_MAX_SCOPES      32    /* of one key */
#define SBX_MAX_OVERLAP_S   86400 /* that the old secret stays good when a key is rotated */
#define SBX_MAX_EMAIL_BYTES 254
#define SBX_KEY_USES_MS     5000 /* how often it is written when keys were used */
#define SBX_KEYS_CHECK_MS   500  /* how often keys with requests in work are looked at */

/* Tickets */
#define SBX_TICKET_S        60 /* to the first use; of an event stream, after the last disconnect */
#define SBX_TICKET_RENEW_MS 5000 /* how often the tickets of open event streams are renewed */
#define SBX_MAX_TICKETS     1000 /* of one key, not yet used */

/* Sandboxes */
#define SBX_MAX_NAME_BYTES      128
#define SBX_MAX_METADATA        32
#define SBX_MAX_METADATA_BYTES  1024
#define SBX_MAX_ENV             128
#define SBX_MAX_ENV_BYTES       (32 * KIB) /* one value */
#define SBX_MAX_ENV_TOTAL_BYTES (128 * KIB)
#define SBX_MAX_IMAGE_BYTES     255
#define SBX_MIN_CPU_MILLI       500
#define SBX_MAX_CPU_MILLI       4000
#define SBX_MIN_MEMORY_MB       256
#define SBX_MAX_MEMORY_MB       4096
#define SBX_MIN_DISK_MB         16
#define SBX_MAX_DISK_MB         (1024 * 1024)
#define SBX_MIN_PIDS            10
#define SBX_MAX_PIDS            4096
#define SBX_DEFAULT_PIDS        100
#define SBX_PIDS_RESERVE        16 /* the agent, its spare and supervisors */
#define SBX_DEFAULT_NOFILE      1024
#define SBX_MAX_LIFETIME_S      86400
#define SBX_DEFAULT_LIFETIME_S  1800
#define SBX_DEFAULT_IDLE_S      900
#define SBX_MAX_PULLS           3   /* with the engine at once */
#define SBX_MAX_PULL_WAITS      512 /* creates and runs that wait for an image */
#define SBX_MAX_POOLS           64
#define SBX_MAX_POOL            1000 /* sandboxes that wait in one pool */
#define SBX_MAX_POOL_KEY        96
#define SBX_DEFAULT_GRACE_S     10 /* of a stop, until processes are killed */
#define SBX_MAX_GRACE_S         300

/* Many sandboxes at once */
#define SBX_MAX_BATCH         100 /* sandboxes of one request to make some */
#define SBX_MAX_BODY_CREATES  (8 * MIB)
#define SBX_BATCH_PARALLEL    4    /* of one request, that are made or deleted at once */
#define SBX_MAX_DELETES       200  /* sandboxes of one request to delete some */
#define SBX_MAX_GROUPS        1000 /* of one user */
#define SBX_MAX_GROUP_MEMBERS 100
#define SBX_MAX_GROUP_OUTPUT  (16 * MIB) /* kept for one answer, of all members together */

/* Users */
#define SBX_MAX_TIER_BYTES 32  /* a tier's name */
#define SBX_USAGE_DAYS     400 /* how long usage is kept */
#define SBX_METER_S        10  /* how often what runs is metered, and limits are looked at */
#define SBX_MAX_QUOTA      INT64_C(1000000000)
#define SBX_MAX_PRICE      INT64_C(1000000000) /* millionths an hour */

/* Commands */
#define SBX_MAX_ARGS             256
#define SBX_MAX_ARG_BYTES        (128 * KIB - 1) /* Linux: MAX_ARG_STRLEN */
#define SBX_MAX_STDIN_BYTES      (1 * MIB)
#define SBX_DEFAULT_EXEC_MS      300000
#define SBX_MAX_EXEC_MS          86400000
#define SBX_DEFAULT_OUTPUT_BYTES MIB
#define SBX_MAX_OUTPUT_BYTES     (16 * MIB)
#define SBX_EXEC_WINDOW_BYTES    (256 * KIB)
#define SBX_STREAM_WINDOW_BYTES  (64 * KIB) /* output on its way to one streaming client */
#define SBX_MANY_WINDOW_BYTES    (8 * KIB)  /* the same of one of many commands */
#define SBX_MAX_COMMAND_TEXT     (8 * KIB)  /* a command in records and lists, as JSON */
#define SBX_MAX_BODY_STDIN       (8 * MIB)  /* one request with input */
#define SBX_AGENT_ANSWER_MS      10000      /* for a question to an agent */

/* Terminals */
#define SBX_TERMINAL_REPLAY_BYTES (64 * KIB) /* of output that a viewer gets first */
#define SBX_TERMINAL_INPUT_BYTES  MIB        /* of one viewer, waiting for the sandbox */
#define SBX_TERMINAL_GRACE_MS     5000       /* from HUP to KILL of one without viewers */
#define SBX_TERMINAL_MAX_SIZE     1000       /* columns, rows */
#define SBX_MAX_TERMINALS         65536      /* that one worker looks after */

/* Files */
#define SBX_MAX_FILE_PATH_BYTES 4096
#define SBX_MAX_BODY_FILE       ((size_t)64 * 1024 * MIB) /* an upload, or an archive */
#define SBX_MAX_BODY_BATCH      (16 * MIB)
#define SBX_MAX_BATCH_FILES     10000
#define SBX_MAX_LIST_DEPTH      256
#define SBX_DEFAULT_LIST_FILES  1000
#define SBX_MAX_LIST_FILES      10000
#define SBX_MAX_LIST_BYTES      (8 * MIB)                  /* what a list may take in memory */
#define SBX_MAX_UNPACK_BYTES    ((int64_t)64 * 1024 * MIB) /* what an archive may hold */
#define SBX_MAX_UNPACK_ENTRIES  1000000
#define SBX_MAX_TOOLS           16          /* at work on files of one sandbox at once */
#define SBX_MAX_TOOL_BYTES      (128 * MIB) /* of lists and batches in memory, of all */
#define SBX_TOOL_LONG           15 /* times longer it may take where nothing can be seen of what is done */

/* Runs */
#define SBX_MAX_CODE_BYTES (10 * MIB)
#define SBX_MAX_BODY_RUN   (32 * MIB)  /* code and files, as JSON */
#define SBX_MAX_RUN_BYTES  (256 * MIB) /* code and files in memory, of all runs */
#define SBX_MAX_RUN_MS     3600000
#define SBX_RUN_MARGIN_S   60 /* that a run's sandbox may live longer than its code */
#define SBX_RUN_TICK_MS    250

/* Packages */
#define SBX_MAX_PACKAGES         100        /* of one request */
#define SBX_MAX_PACKAGE_BYTES    214        /* one of them, with its versions */
#define SBX_MAX_INSTALLS         8          /* at once, of one worker */
#define SBX_MAX_OWNER_INSTALLS   3          /* of those, of one user */
#define SBX_MAX_PACKAGE_WAITS    1024       /* requests that wait for them */
#define SBX_MAX_PACKAGE_LIST     (64 * KIB) /* what was installed, as JSON */
#define SBX_INSTALL_CPU_MILLI    2000
#define SBX_INSTALL_MEMORY_MB    1024
#define SBX_INSTALL_PIDS         512
#define SBX_INSTALL_LINE_BYTES   1024       /* of its output; longer lines are split */
#define SBX_INSTALL_TAIL_BYTES   (16 * KIB) /* of its output, in which the reason is looked for */
#define SBX_INSTALL_OUTPUT_BYTES 4096       /* of that, told with a failure */
#define SBX_INSTALL_LOOK_S       60         /* for looking at what was installed */
#define SBX_PACKAGES_FAILED_S    20         /* a failure is remembered, and answered again */
#define SBX_PACKAGES_USE_S       1800       /* after its last use, until a set may be removed */
#define SBX_PACKAGES_PINNED_TTL  30         /* times the time to live, if all versions are exact */

/* Checks */
#define SBX_MAX_CHECK_BYTES      (8 * KIB) /* a check's command, all arguments together */
#define SBX_MAX_CHECK_PATH_BYTES 4095
#define SBX_MAX_READINESS_MS     600000    /* all tries together */
#define SBX_CHECK_OUTPUT_BYTES   (4 * KIB) /* taken from a check, for its message */
#define SBX_CHECK_SILENCE_MS     5000      /* beyond its time-out: the agent is silent */
#define SBX_HEALTH_REFRESH_MS    30000     /* how old checkedAt may be in the record */

/* Logs */
#define SBX_LOG_HISTORY_LINES 1000
#define SBX_LOG_BATCH_MS      100
#define SBX_LOG_BATCH_BYTES   (256 * KIB)
#define SBX_LOG_PACE_BYTES    (4 * MIB) /* of one log in a second, as JSON, and at once */

/* Events */
#define SBX_EVENT_DAYS 7 /* how long they are kept */

/* The network */
#define SBX_MAX_RESOLVERS     3
#define SBX_MAX_NETWORK_ALLOW 64

/* The engine */
#define SBX_MAX_ENGINE_JSON_BYTES  (32 * MIB)
#define SBX_MAX_ENGINE_FRAME_BYTES (16 * MIB)

#endif
