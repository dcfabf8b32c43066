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
