#ifndef CHUNKGRPO_SUPPORT_H
#define CHUNKGRPO_SUPPORT_H

#include <stddef.h>

/* The error message of this thread. In C, since Swift has no thread-local storage of its own. */
void chunkgrpo_support_set_error(const char *message, size_t length);
const char *chunkgrpo_support_last_error(void);

#endif
