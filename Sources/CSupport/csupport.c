#include "csupport.h"

#include <string.h>

static _Thread_local char message[1024];

void chunkgrpo_support_set_error(const char *text, size_t length) {
    if (length >= sizeof message) {
        length = sizeof message - 1;
        /* Not in the middle of a UTF-8 character. */
        while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
    }
    memcpy(message, text, length);
    message[length] = '\0';
}

const char *chunkgrpo_support_last_error(void) { return message; }
