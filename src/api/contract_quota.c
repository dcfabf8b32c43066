/* What is answered about tiers, prices, quotas and usage. */
#include "contract.h"

#define QUOTA_LIMIT 0, SBX_MAX_QUOTA

const api_field api_tier_view[] = {
    {"name", T_STR, 0, NULL, "Of the tier.", .example = "\"free\""},
    {"executions", T_INT, NULLABLE, NULL, "Runs of code in a calendar month (UTC); null: no limit.",
     QUOTA_LIMIT},
    {"computeSeconds", T_INT, NULLABLE, NULL,
     "Time of running sandboxes in such a month; null: no limit.", QUOTA_LIMIT},
    {"longestRunSeconds", T_INT, NULLABLE, NULL,
     "How long a sandbox runs at a stretch; null: no limit.", QUOTA_LIMIT},
    {"concurrentSandboxes", T_INT, NULLABLE, NULL, "Sandboxes at once; null: no limit.",
     QUOTA_LIMIT},
    {0},
};

const api_field api_tier_list_view[] = {
    {"items", T_LIST, 0, "Tier", "From the smallest on."},
    {0},
};

const api_field api_quota_view[] = {
    {"limit", T_INT, NULLABLE, NULL, "At most so much; null: no limit.", 0, INT64_MAX},
    {"used", T_INT, 0, NULL, "So much is used.", 0, INT64_MAX},
    {"reserved", T_INT, 0, NULL, "So much is on its way.", 0, INT64_MAX},
    {0},
};

const api_field api_quotas_view[] = {
    {"tier", T_STR, 0, NULL, "Of the user.", .example = "\"free\""},
    {"resetAt", T_TIME, 0, NULL, "When what is of this month begins anew."},
    {"executions", T_REF, 0, "Quota", "Runs of code in this month."},
    {"computeSeconds", T_REF, 0, "Quota", "Time of running sandboxes in this month, added up."},
    {"concurrentSandboxes", T_REF, 0, "Quota",
     "Sandboxes now, also paused ones; those that are stopped, failed or deleted do not count."},
    {"spendingMicros", T_REF, 0, "Quota", "Cost of this month, in millionths of the currency."},
    {"longestRunSeconds", T_INT, NULLABLE, NULL,
     "How long a sandbox runs at a stretch; null: no limit.", QUOTA_LIMIT},
    {"pausedSeconds", T_INT, 0, NULL, "Time of paused sandboxes in this month.", 0, INT64_MAX},
    {"hardStop", T_BOOL, 0, NULL, "Nothing runs beyond the limit of spending."},
    {0},
};

const api_field api_usage_item_view[] = {
    {"key", T_STR, 0, NULL,
     "The day, month, id of the sandbox, template (`image`: none), runtime or package."},
    {"executions", T_INT, 0, NULL, "Runs of code.", 0, INT64_MAX},
    {"computeSeconds", T_INT, 0, NULL, "Time of running sandboxes, or of the runs.", 0, INT64_MAX},
    {"pausedSeconds", T_INT, 0, NULL, "Time of paused sandboxes.", 0, INT64_MAX},
    {"costMicros", T_INT, NULLABLE, NULL,
     "In millionths of the currency; null by runtime and package.", 0, INT64_MAX},
    {0},
};

const api_field api_usage_list_view[] = {
    {"items", T_LIST, 0, "UsageItem", "By key, ascending."},
    {"nextCursor", T_STR, NULLABLE, NULL, "For the next page; null: this was the last."},
    {0},
};

const api_field api_price_view[] = {
    {"size", T_REQUEST, 0, "size", "Its price has what needs no more than this."},
    {"cpus", T_NUM, 0, NULL, "Cores, at most."},
    {"memoryMb", T_INT, 0, NULL, "At most.", 0, INT64_MAX},
    {"microsPerHour", T_INT, 0, NULL, "Of a running sandbox, in millionths of the currency.", 0,
     SBX_MAX_PRICE},
    {"pausedMicrosPerHour", T_INT, 0, NULL, "Of a paused one.", 0, SBX_MAX_PRICE},
    {0},
};

const api_field api_price_list_view[] = {
    {"items", T_LIST, 0, "Price", "From the smallest size on."},
    {0},
};

const api_field api_quota_params[] = {
    {"id", T_ID, 0, NULL, "The user.", .route = "spending_set"},
    {"by", T_ENUM, 0, "day,month,sandbox,template,runtime,package", "What an item is of.",
     .dflt = "\"day\""},
    {"from", T_STR, 0, NULL, "The first day; default: of this month.", .example = "\"2026-01-01\""},
    {"to", T_STR, 0, NULL, "The last day; default: today.", .example = "\"2026-12-31\""},
    {0},
};
