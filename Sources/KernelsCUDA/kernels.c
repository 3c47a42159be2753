#include "arguments.h"

const char chunkgrpo_cuda_ptx[] = "";
