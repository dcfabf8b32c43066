/* What a client would like to get, and what it has already: Accept, Accept-Encoding, If-None-Match
 * and Content-Type (RFC 9110, sections 8.3, 12.5 and 13.1).
 *
 * Any thread, no allocation; the texts that are given stay as they are. */
#ifndef SBX_HTTP_NEGOTIATE_H
#define SBX_HTTP_NEGOTIATE_H

#include "sbx/core/base.h"

#define SBX_MAX_LIST_LINES 8

/* A header whose value is a list, which may stand on several lines; all zero: not given. */
typedef struct sbx_list {
    const char *lines[SBX_MAX_LIST_LINES];
    size_t count;
} sbx_list;

/* How a list of media ranges judges a type: by the most specific range that names it. Parameters
 * of ranges other than q are not looked at; an element with a malformed q is passed over. */
typedef struct sbx_weight {
    int q;         /* 0 to 1000; 0: not acceptable, also if nothing names it */
    int exactness; /* 2 type/subtype, 1 of type and *, 0 of * and *, -1 not named */
    size_t place;  /* of the range in the list */
} sbx_weight;

/** @param type  "application/json". An empty list accepts everything. */
sbx_weight sbx_accept_weight(const sbx_list *accept, const char *type);

/** Whether gzip may be used, and is not liked less than identity. */
bool sbx_accepts_gzip(const sbx_list *accept_encoding);

/** Whether If-None-Match names an entity tag, by weak comparison; "*" names all. What is no entity
 * tag matches nothing. @param tag  with its quotes. */
bool sbx_etag_listed(const sbx_list *if_none_match, const char *tag);

typedef enum sbx_type_verdict { SBX_TYPE_OK, SBX_TYPE_OTHER, SBX_TYPE_CHARSET } sbx_type_verdict;

/** Judge a Content-Type. @return OTHER for another media type or what is none, CHARSET for the
 * right type in another charset than UTF-8; other parameters are not looked at. */
sbx_type_verdict sbx_content_type_judge(const char *value, const char *type);

#endif
