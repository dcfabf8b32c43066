/* The text that explains the contract to people: part of the API document and of its page. */
#ifndef SBX_API_GUIDE_H
#define SBX_API_GUIDE_H

#include "sbx/core/buf.h"

extern const unsigned char api_guide_text[]; /* guide.md, terminated; made by the build */

/** The guide as Markdown, with its {{marks}} filled in from the tables. */
void api_guide(sbx_buf *out);

#endif
