#include "shim.h" /* SwiftPM builds a C target only where there is a source file. */

const char *chunkgrpo_version_text(void) { return CGRPO_VERSION; }
