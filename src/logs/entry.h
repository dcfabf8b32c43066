/* One log entry as JSON, and what can be told of it without parsing it again. */
#ifndef SBX_LOGS_ENTRY_H
#define SBX_LOGS_ENTRY_H

#include "sbx/core/agent_proto.h"
#include "sbx/core/buf.h"
#include "sbx/logs/logs.h"

/* A line of 16 KiB of control characters, each escaped by six bytes, and the other fields. */
#define LOG_ITEM_BYTES (128 * KIB)

/* Append the entry as one JSON object. */
void log_entry_json(sbx_buf *out, const sbx_log_entry *e);

/* True if an item of the bus can stand in a frame: an object on one line, not too long. */
bool log_item_ok(const char *data, size_t len);

/* The source that log_entry_json() wrote; SBX_LOGS_ALL if there is none (it passes no filter). */
sbx_logs_source log_item_source(const char *data, size_t len);

/* Read digits, and nothing else, as a number up to `max`. */
bool log_number(const char *s, size_t len, uint64_t max, uint64_t *ret);

/* The name of a source, or NULL. */
const char *log_source_name(unsigned source);

#endif
