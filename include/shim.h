/* For Sources/ChunkGRPOABI alone; not installed. */
#include "chunkgrpo.h"

/* In Swift, CGRPO_VERSION would be a String without an address. */
const char *chunkgrpo_version_text(void);
