#include "chunkgrpo.h" /* SwiftPM builds a C target only where there is a source file. */
