/*
 * Every function of the library from a table of signatures, called through libffi with null for every pointer and
 * random numbers for the rest: an error status or nothing, and never a crash.
 *
 * `nullcalls --names` prints the names of the table; scripts/check-exports compares them with the header and the
 * library.
 */
#include "check.h"

#include <ffi.h>
#include <inttypes.h>

enum { CALLS = 10000 };

/*
 * A signature is its result and then its arguments:
 *   v nothing   p pointer   i int32_t   u uint32_t   l int64_t   U uint64_t   z size_t   d double
 *   s as a result: a cgrpo_status, which must not be CGRPO_OK; t as a result: a text, which must not be null
 */
#define FUNCTION(name, signature) \
    { #name, signature, (void (*)(void))name }
static const struct {
    const char *name, *signature;
    void (*call)(void);
} functions[] = {
#include "signatures.inc"
};

typedef union value {
    void *p;
    int32_t i;
    uint32_t u;
    int64_t l;
    uint64_t U;
    size_t z;
    double d;
    ffi_arg result; /* libffi widens small results to this */
} value;

static uint64_t random_state = 1;

static uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* As often small and plausible as at the edges or anything at all. */
static int64_t random_integer(void) {
    static const int64_t edges[] = {
        0, -1, 1, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, INT64_MAX / 8, (int64_t)1 << 32};
    uint64_t kind = random_bits() % 3, bits = random_bits();
    if (kind == 0) return (int64_t)(bits % 40) - 4;
    return kind == 1 ? edges[bits % 9] : (int64_t)bits;
}

static double random_double(void) {
    static const double edges[] = {0,     -0.0,  1, -1, 0.5, (double)NAN, (double)INFINITY, -(double)INFINITY,
                                   1e308, 5e-324};
    uint64_t bits = random_bits();
    double any;
    if (bits % 2) return edges[bits / 2 % 10];
    memcpy(&any, &bits, sizeof any);
    return any;
}

static ffi_type *type_of(char letter) {
    switch (letter) {
        case 'v': return &ffi_type_void;
        case 'p':
        case 't': return &ffi_type_pointer;
        case 'i':
        case 's': return &ffi_type_sint32;
        case 'u': return &ffi_type_uint32;
        case 'l': return &ffi_type_sint64;
        case 'U': return &ffi_type_uint64;
        case 'z': return sizeof(size_t) == 8 ? &ffi_type_uint64 : &ffi_type_uint32;
        case 'd': return &ffi_type_double;
        default: return NULL;
    }
}

static size_t current;

static void nothing_but_nulls_and_garbage(void) {
    const char *signature = functions[current].signature;
    unsigned count = (unsigned)strlen(signature) - 1;
    ffi_type *types[16];
    value values[16], result;
    void *pointers[16];
    ffi_cif cif;
    for (unsigned i = 0; i < count; i++) types[i] = type_of(signature[i + 1]), pointers[i] = &values[i];
    if (!CHECK(ffi_prep_cif(&cif, FFI_DEFAULT_ABI, count, type_of(signature[0]), types) == FFI_OK)) return;
    for (int call = 0; call < CALLS && check_wrong == 0; call++) {
        for (unsigned i = 0; i < count; i++) switch (signature[i + 1]) {
                case 'p': values[i].p = NULL; break;
                case 'i': values[i].i = (int32_t)random_integer(); break;
                case 'd': values[i].d = random_double(); break;
                default: values[i].l = random_integer();
            }
        memset(&result, 0, sizeof result);
        ffi_call(&cif, functions[current].call, &result, pointers);
        if (signature[0] == 's') {
            CHECK((int32_t)result.result > CGRPO_OK && (int32_t)result.result <= CGRPO_DEVICE_FAILED);
            CHECK(cgrpo_last_error()[0] != 0);
        }
        if (signature[0] == 't') CHECK(result.p != NULL);
    }
    if (check_wrong) printf("    (%s)\n", functions[current].name);
}

int main(int argc, char **argv) {
    int names = argc > 1 && strcmp(argv[1], "--names") == 0;
    for (current = 0; current < sizeof functions / sizeof *functions; current++) {
        if (names) puts(functions[current].name);
        else RUN(nothing_but_nulls_and_garbage);
    }
    return names ? 0 : finish("nullcalls");
}
