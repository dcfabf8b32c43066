/* The codec of the agent protocol: frames, fields and log entries.
 *
 * Pure functions over the caller's memory, shared by the server and by sbx-agent. Both sides read
 * what a hostile program may have written, so every length is checked against what is left before
 * it is used, and nothing is ever read through a cast: the bytes have no alignment.
 *
 * Threads: any; there is no state.
 */
#include "sbx/core/agent_proto.h"

#include <string.h>

#define FIELD_HEADER_BYTES 6  /* u16 tag | u32 length */
#define ENTRY_FIXED_BYTES  23 /* seq, ts_ms, stream, source, id_len, len */

static void put_le(unsigned char *out, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        out[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_le(const unsigned char *in, size_t bytes)
{
    uint64_t value = 0;

    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)in[i] << (8 * i);
    return value;
}

void sbx_frame_put_header(unsigned char *out, uint32_t len, uint8_t type, uint16_t epoch,
                          uint32_t req)
{
    put_le(out, len, 4);
    out[4] = type;
    out[5] = 0;
    put_le(out + 6, epoch, 2);
    put_le(out + 8, req, 4);
}

long sbx_frame_take(const unsigned char *data, size_t len, uint32_t max, sbx_frame *ret)
{
    uint32_t payload;

    if (len < SBX_PROTO_HEADER_BYTES)
        return 0;
    payload = (uint32_t)get_le(data, 4);
    if (payload > max || data[5] != 0)
        return -1;
    if (len - SBX_PROTO_HEADER_BYTES < payload)
        return 0;

    ret->len = payload;
    ret->type = data[4];
    ret->epoch = (uint16_t)get_le(data + 6, 2);
    ret->req = (uint32_t)get_le(data + 8, 4);
    ret->payload = data + SBX_PROTO_HEADER_BYTES;
    return SBX_PROTO_HEADER_BYTES + (long)payload;
}

void sbx_fields_init(sbx_fields *f, const void *payload, size_t len)
{
    f->at = payload;
    f->left = len;
}

/* Steps over bytes that are known to be there. */
static const unsigned char *advance(sbx_fields *f, size_t bytes)
{
    const unsigned char *at = f->at;

    f->at += bytes;
    f->left -= bytes;
    return at;
}

int sbx_fields_next(sbx_fields *f, sbx_field *ret)
{
    const unsigned char *head;
    uint32_t len;

    if (f->left == 0)
        return 0;
    if (f->left < FIELD_HEADER_BYTES)
        return -1;
    len = (uint32_t)get_le(f->at + 2, 4);
    if (f->left - FIELD_HEADER_BYTES < len)
        return -1;

    head = advance(f, FIELD_HEADER_BYTES + (size_t)len);
    ret->tag = (uint16_t)get_le(head, 2);
    ret->len = len;
    ret->data = (const char *)head + FIELD_HEADER_BYTES;
    ret->num = len == 8 ? get_le(head + FIELD_HEADER_BYTES, 8) : 0;
    return 1;
}

size_t sbx_field_put(unsigned char *out, size_t cap, uint16_t tag, const void *data, uint32_t len)
{
    if (cap < FIELD_HEADER_BYTES || cap - FIELD_HEADER_BYTES < len)
        return 0;
    put_le(out, tag, 2);
    put_le(out + 2, len, 4);
    if (len > 0)
        memcpy(out + FIELD_HEADER_BYTES, data, len);
    return FIELD_HEADER_BYTES + (size_t)len;
}

size_t sbx_field_put_num(unsigned char *out, size_t cap, uint16_t tag, uint64_t value)
{
    unsigned char bytes[8];

    put_le(bytes, value, sizeof bytes);
    return sbx_field_put(out, cap, tag, bytes, sizeof bytes);
}

int sbx_log_entry_take(sbx_fields *f, sbx_log_entry *ret)
{
    const unsigned char *at = f->at;
    size_t id_len;
    uint32_t len;

    if (f->left == 0)
        return 0;
    if (f->left < ENTRY_FIXED_BYTES)
        return -1;
    id_len = at[18];
    if (id_len > SBX_LOG_ID_BYTES || f->left - ENTRY_FIXED_BYTES < id_len)
        return -1;
    len = (uint32_t)get_le(at + 19 + id_len, 4);
    if (len > SBX_LOG_LINE_BYTES || f->left - ENTRY_FIXED_BYTES - id_len < len)
        return -1;
    if (at[16] > SBX_LOG_SYSTEM || at[17] > SBX_SRC_SYSTEM)
        return -1;

    ret->seq = get_le(at, 8);
    ret->ts_ms = (int64_t)get_le(at + 8, 8);
    ret->stream = at[16];
    ret->source = at[17];
    ret->exec_id_len = (uint8_t)id_len;
    ret->exec_id = (const char *)at + 19;
    ret->len = len;
    ret->data = (const char *)at + ENTRY_FIXED_BYTES + id_len;
    advance(f, ENTRY_FIXED_BYTES + id_len + len);
    return 1;
}

size_t sbx_log_entry_size(const sbx_log_entry *e)
{
    return ENTRY_FIXED_BYTES + (size_t)e->exec_id_len + e->len;
}

size_t sbx_log_entry_put(unsigned char *out, size_t cap, const sbx_log_entry *e)
{
    size_t size = sbx_log_entry_size(e);
    unsigned char *at = out;

    if (cap < size || e->exec_id_len > SBX_LOG_ID_BYTES || e->len > SBX_LOG_LINE_BYTES)
        return 0;
    put_le(at, e->seq, 8);
    put_le(at + 8, (uint64_t)e->ts_ms, 8);
    at[16] = e->stream;
    at[17] = e->source;
    at[18] = e->exec_id_len;
    at += 19;
    if (e->exec_id_len > 0)
        memcpy(at, e->exec_id, e->exec_id_len);
    at += e->exec_id_len;
    put_le(at, e->len, 4);
    if (e->len > 0)
        memcpy(at + 4, e->data, e->len);
    return size;
}
