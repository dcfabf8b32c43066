/* What is answered about groups, and about many sandboxes at once. */
#include "contract.h"

const api_field api_group_view[] = {
    {"id", T_ID, 0, NULL, "Of the group."},
    {"name", T_STR, 0, NULL, "For people; need not be unique."},
    {"metadata", T_MAP, 0, NULL, "The caller's own labels."},
    {"sandboxes", T_STRS, 0, NULL,
     "Ids of its members, in the order in which they were added; without those that are deleted."},
    {"createdAt", T_TIME, 0, NULL, "When it was made."},
    {"updatedAt", T_TIME, 0, NULL, "When it was last changed by a request."},
    {0},
};

const api_field api_group_list_view[] = {
    {"items", T_LIST, 0, "Group", "Newest first."},
    {"nextCursor", T_STR, NULLABLE, NULL, "For the next page; null: this was the last."},
    {0},
};

const api_field api_group_results[] = {
    {"results", T_ONE_OF, 0, "ExecResult,Exec,MemberProblem",
     "One for each member, in their order; of commands in the background an Exec."},
    {0},
};

const api_field api_member_problem[] = {
    {"sandboxId", T_ID, 0, NULL, "Where it failed."},
    {"problem", T_REF, 0, "Problem", "Why."},
    {0},
};

const api_field api_batch[] = {
    {"items", T_ONE_OF, 0, "BatchSandbox,BatchProblem", "In the order of the request."},
    {0},
};

const api_field api_batch_sandbox[] = {
    {"sandbox", T_REF, 0, "Sandbox", "It runs; with status 202 it is on its way."},
    {0},
};

const api_field api_batch_problem[] = {
    {"problem", T_REF, 0, "Problem", "Why this one does not."},
    {0},
};

const api_field api_deleted_many[] = {
    {"deleted", T_STRS, 0, NULL, "Ids of those that are deleted now."},
    {"failed", T_LIST, 0, "DeleteProblem", "The others; the server goes on with them by itself."},
    {"more", T_BOOL, 0, NULL, "More match: repeat the request."},
    {0},
};

const api_field api_delete_problem[] = {
    {"id", T_ID, 0, NULL, "Of the sandbox."},
    {"problem", T_REF, 0, "Problem", "Why it is not deleted yet."},
    {0},
};
