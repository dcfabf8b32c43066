# Writes OUT, a C file with the text FILE as a terminated array of bytes, NAME.
file(READ ${FILE} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
get_filename_component(from ${FILE} NAME)
file(WRITE ${OUT}
    "/* Made of ${from} by embed.cmake. */\n#include \"context.h\"\n\n"
    "const unsigned char ${NAME}[] = {${bytes}0};\n")
