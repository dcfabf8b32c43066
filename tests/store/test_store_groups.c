/* Groups with a real database: members, owners, and statements that are run twice. */
#include "fixture.h"
#include "sbx/core/limits.h"
#include "sbx/store/groups.h"

static proxy p;
static char proxy_url[512];
static sbx_id boxes[4];

static void setup(void)
{
    migrated_database();
    sbx_store_free(store);
    proxy_start(&p, proxy_url, sizeof proxy_url);
    OK(sbx_store_new(proxy_url, NULL, secrets, &store, &err));
    for (size_t i = 0; i < ARRAY_LEN(boxes); i++)
        boxes[i] = make_sandbox("running");
}

static void teardown(void)
{
    sbx_store_free(store);
    store = NULL;
    proxy_end(&p);
    drop_database();
}

TestSuite(store_groups, .init = setup, .fini = teardown, .timeout = 60);

static int insert(const char *id, char *const *members, size_t count)
{
    sbx_group_change c = {.name = "g", .metadata = "{}", .add = members, .add_count = count};

    return sbx_store_group_insert(store, owner.s, id, &c, 3, &err);
}

/* The members, joined. */
static const char *members_of(const char *id)
{
    static char text[128];
    sbx_group g = {0};
    size_t at = 0;

    OK(sbx_store_group_get(store, owner.s, id, &g, &err));
    *text = '\0';
    for (size_t i = 0; i < g.member_count; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", i ? " " : "", g.members[i]);
    sbx_group_done(&g);
    return text;
}

static const char *joined(const char *a, const char *b)
{
    static char text[64];

    snprintf(text, sizeof text, "%s %s", a, b);
    return text;
}

Test(store_groups, members_stay_in_order_and_leave_when_they_are_deleted)
{
    sbx_id id = sbx_id_new();
    char *members[] = {boxes[2].s, boxes[0].s, boxes[1].s};

    OK(insert(id.s, members, 3));
    sql("UPDATE sandboxes SET state = 'deleting' WHERE id = '%s'", boxes[0].s);
    cr_expect_str_eq(members_of(id.s), joined(boxes[2].s, boxes[1].s));
    sql("DELETE FROM sandboxes WHERE id = '%s'", boxes[2].s);
    cr_expect_str_eq(members_of(id.s), boxes[1].s);
    cr_expect_eq(sql("SELECT count(*) FROM group_members"), 2);
    OK(sbx_store_group_delete(store, owner.s, id.s, &err));
    cr_expect_eq(sql("SELECT count(*) FROM group_members"), 0);
    FAILS(sbx_store_group_delete(store, owner.s, id.s, &err), NOT_FOUND);
}

Test(store_groups, a_sandbox_that_the_owner_does_not_have_is_named_and_nothing_is_written)
{
    sbx_id id = sbx_id_new(), other = sbx_id_new();
    char *members[] = {boxes[0].s, boxes[1].s};

    sql("INSERT INTO users (id, name, role) VALUES ('%s', 'other', 'user')", other.s);
    sql("UPDATE sandboxes SET owner = '%s' WHERE id = '%s'", other.s, boxes[1].s);
    FAILS(insert(id.s, members, 2), INVALID);
    cr_expect_str_eq(err.field, "add[1]");
    cr_expect_eq(sql("SELECT count(*) FROM groups"), 0);
    OK(insert(id.s, members, 1));
    sbx_group g = {0};
    OK(sbx_store_group_get(store, owner.s, id.s, &g, &err));
    sbx_group_change c = {.name = "other", .add = &members[1], .add_count = 1};
    FAILS(sbx_store_group_change(store, owner.s, &g, &c, &err), INVALID);
    cr_expect_str_eq(err.field, "add[0]");
    FAILS(sbx_store_group_change(store, other.s, &g, &(sbx_group_change){.name = "x"}, &err),
          CONFLICT);
    sbx_group_done(&g);
    FAILS(sbx_store_group_get(store, other.s, id.s, &g, &err), NOT_FOUND);
    cr_expect_str_eq(members_of(id.s), boxes[0].s);
    cr_expect_eq(sql("SELECT count(*) FROM groups WHERE name = 'g' AND version = 1"), 1);
}

Test(store_groups, a_change_is_made_to_what_was_read)
{
    sbx_id id = sbx_id_new();
    char *members[] = {boxes[0].s, boxes[1].s};
    sbx_group_change c = {.metadata = "{\"a\":\"1\",\"b\":null}",
                          .add = &members[1],
                          .add_count = 1,
                          .remove = members,
                          .remove_count = 1};
    sbx_group g = {0};

    OK(insert(id.s, members, 1));
    OK(sbx_store_group_get(store, owner.s, id.s, &g, &err));
    OK(sbx_store_group_change(store, owner.s, &g, &c, &err));
    cr_expect_str_eq(members_of(id.s), boxes[1].s);
    cr_expect_eq(sql("SELECT count(*) FROM groups WHERE metadata = '{\"a\":\"1\"}' AND name = 'g'"),
                 1);
    FAILS(sbx_store_group_change(store, owner.s, &g, &c, &err), CONFLICT);
    sbx_group_done(&g);
}

Test(store_groups, an_insert_whose_answer_was_lost_is_recognised)
{
    sbx_id id = sbx_id_new();
    char *members[] = {boxes[0].s};

    atomic_store(&p.mode, PROXY_CUT_ANSWER);
    OK(insert(id.s, members, 1));
    cr_expect_eq(atomic_load(&p.cuts), 1);
    OK(insert(id.s, members, 1));
    cr_expect_eq(sql("SELECT count(*) FROM groups"), 1);
}

Test(store_groups, their_number_is_bounded)
{
    for (int i = 0; i < 3; i++)
        OK(insert(sbx_id_new().s, NULL, 0));
    FAILS(insert(sbx_id_new().s, NULL, 0), QUOTA);
}

Test(store_groups, lists_come_in_pages_newest_first)
{
    sbx_group_filter f = {.owner = owner.s, .limit = 2};
    sbx_group_list page = {0}, rest = {0};

    for (int i = 0; i < 3; i++)
        OK(insert(sbx_id_new().s, NULL, 0));
    OK(sbx_store_group_list(store, &f, &page, &err));
    cr_assert_eq(page.count, 2u);
    f.before_us = page.items[1].created_us;
    f.before_id = page.items[1].id;
    OK(sbx_store_group_list(store, &f, &rest, &err));
    cr_expect_eq(rest.count, 1u);
    cr_expect_geq(page.items[0].created_us, page.items[1].created_us);
    sbx_group_list_done(&page);
    sbx_group_list_done(&rest);
    f = (sbx_group_filter){.owner = "nobody", .limit = 2};
    OK(sbx_store_group_list(store, &f, &rest, &err));
    cr_expect_eq(rest.count, 0u);
    sbx_group_list_done(&rest);
}
