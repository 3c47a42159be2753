// Kernels on the CPU, for kernels.cpp.
#include "arrays.h"

bool run_kernel(const std::string &name, const void *arguments, unsigned x, unsigned y, unsigned z) {
    return cta::launch(name, arguments, x, y, z);
}

int compare_all(const char *name, bool first_pair_alone);

// NAME SEED [first]: what the count is called, of the order of threads, and whether only f32 is compared.
int main(int argc, char **argv) {
    if (argc > 2) cta::random_state ^= strtoull(argv[2], nullptr, 10) << 32;
    return compare_all(argc > 1 ? argv[1] : "kernels", argc > 3);
}
