/* The part of Markdown that the guide and the tables use, as HTML.
 *
 * Headings (##, ###), paragraphs, lists of one line each, tables, fenced code, `code`, **bold** and
 * [links](#anchor). Everything else is text. The input is ours, and is escaped all the same. */
#ifndef SBX_API_MARKDOWN_H
#define SBX_API_MARKDOWN_H

#include "sbx/core/buf.h"

void api_html_text(sbx_buf *out, const char *text, size_t len); /* escaped, also for attributes */
/** One run of text: `code`, **bold**, links. */
void api_html_inline(sbx_buf *out, const char *text, size_t len);
/** A whole document. Headings get an id of their words. */
void api_html_markdown(sbx_buf *out, const char *text);
/** "Lists and pages" -> "lists-and-pages". */
void api_html_slug(sbx_buf *out, const char *text, size_t len);

#endif
