# Writes OUT, a C file with the text FILE as an array of bytes.
file(READ ${FILE} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUT}
    "/* Made of guide.md by embed.cmake. */\n#include \"guide.h\"\n\n"
    "const unsigned char api_guide_text[] = {${bytes}0};\n")
