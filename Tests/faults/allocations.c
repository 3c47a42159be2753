/*
 * Lets the n-th allocation of a call fail, for each n of each function, in a child of its own. The call must return
 * CGRPO_OUT_OF_MEMORY and leave everything as it was: made again, it must write what it would have written, and before
 * that a trainer's checkpoint is the same file.
 *
 *     allocations FOLDER [all]
 *
 * Without `all`, about 40 to 80 allocations of each call are tried.
 *
 * The header's promise is for what grows with the caller's numbers; every input here takes 1 KB or more. Allocations
 * below 1 KB are left out, or with `all` tried and counted apart: they may end the process. OpenBLAS's own are left
 * out: it ends the process where one fails, so the library looks before each product whether there is room for them.
 * address_space.c tries that.
 */
#include "calls.h"

#include <link.h>

enum { PROMISED = 1024, MOST = 20000, AT_MOST_ABOUT = 40 };

/* Every allocation of this program and of the library goes through the functions below. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
static struct {
    long count, fails_at; /* 0: none */
    int armed;
    size_t *sizes; /* of each, where not null */
} heap;

/* The addresses of OpenBLAS. */
static uintptr_t blas_first, blas_end;

static int find_blas(struct dl_phdr_info *library, size_t size, void *unused) {
    (void)size, (void)unused;
    if (strstr(library->dlpi_name, "openblas") == NULL) return 0;
    blas_first = library->dlpi_addr;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        uintptr_t end = library->dlpi_addr + library->dlpi_phdr[i].p_vaddr + library->dlpi_phdr[i].p_memsz;
        if (library->dlpi_phdr[i].p_type == PT_LOAD && end > blas_end) blas_end = end;
    }
    return 1;
}

static int fails(size_t size, const void *caller) {
    if (!heap.armed || looking || ((uintptr_t)caller >= blas_first && (uintptr_t)caller < blas_end)) return 0;
    long count = __atomic_add_fetch(&heap.count, 1, __ATOMIC_RELAXED);
    if (heap.sizes != NULL && count <= MOST) heap.sizes[count - 1] = size;
    if (count != heap.fails_at) return 0;
    errno = ENOMEM;
    return 1;
}

#define FAILS(size) fails(size, __builtin_return_address(0))
void *malloc(size_t size) { return FAILS(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return FAILS(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return FAILS(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { return FAILS(size) ? NULL : __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **memory, size_t alignment, size_t size) {
    void *made = memalign(alignment, size);
    if (made == NULL) return ENOMEM;
    *memory = made;
    return 0;
}

typedef struct account {
    long count;
    uint64_t digest;
    cgrpo_status status;
    char error[200];
    size_t sizes[MOST];
} account;

typedef struct trial {
    const call *call;
    account *account;
    long fails_at;
} trial;

/* What a child ends with: the call told of it, was not harmed, went wrong */
enum { TOLD = 10, HARMLESS, WRONG_STATUS, WRONG_STATE, WRONG_AFTERWARDS };

static int is_of_the_trainer(const call *of) { return strncmp(of->function, "cgrpo_trainer_", 14) == 0; }

/* All that the trainer is, as a checkpoint in a folder of the child's own. */
static uint64_t saved_state(void) {
    char folder[400], file[430];
    snprintf(folder, sizeof folder, "%s-%d", checkpoint, (int)getpid());
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    if (cgrpo_trainer_save(trainer, folder) != CGRPO_OK) abort();
    uint64_t result = 0;
    unsigned char bytes[4096];
    FILE *saved = fopen(file, "rb");
    if (saved == NULL) abort();
    for (size_t count; (count = fread(bytes, 1, sizeof bytes, saved)) > 0;) result = digest_bytes(result, bytes, count);
    fclose(saved);
    if (unlink(file) != 0 || rmdir(folder) != 0) abort();
    return result;
}

static int count_allocations(void *argument) {
    trial *t = argument;
    heap.sizes = t->account->sizes, heap.armed = 1;
    t->account->status = t->call->run();
    heap.armed = 0;
    t->account->count = heap.count, t->account->digest = digest;
    snprintf(t->account->error, sizeof t->account->error, "%s", cgrpo_last_error());
    return 0;
}

static int with_a_failure(void *argument) {
    trial *t = argument;
    uint64_t state = is_of_the_trainer(t->call) ? saved_state() : 0;
    heap.fails_at = t->fails_at, heap.armed = 1;
    cgrpo_status status = t->call->run();
    heap.armed = 0;
    if (status != CGRPO_OK && status != CGRPO_OUT_OF_MEMORY) return WRONG_STATUS;
    if (status == CGRPO_OK) return digest == t->account->digest ? HARMLESS : WRONG_AFTERWARDS;
    if (is_of_the_trainer(t->call) && saved_state() != state) return WRONG_STATE;
    digest = 0;
    return t->call->run() == CGRPO_OK && digest == t->account->digest ? TOLD : WRONG_AFTERWARDS;
}

static int every_function_is_called(void) {
    static const char *const names[] = {
#define FUNCTION(name, signature) signature[0] == 's' ? #name : NULL
#include "../c/signatures.inc"
    };
    int missing = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int found = names[i] == NULL;
        for (int c = 0; c < CALL_COUNT && !found; c++) found = strcmp(calls[c].function, names[i]) == 0;
        if (!found) missing++, printf("calls.h does not call %s\n", names[i]);
    }
    return missing == 0;
}

typedef struct tally {
    long told, harmless, wrong_status, wrong_state, wrong_afterwards, ended, hung;
} tally;

static void add(tally *to, int outcome) {
    to->told += outcome == TOLD, to->harmless += outcome == HARMLESS;
    to->wrong_status += outcome == WRONG_STATUS, to->wrong_state += outcome == WRONG_STATE;
    to->wrong_afterwards += outcome == WRONG_AFTERWARDS;
    to->ended += outcome == ENDED, to->hung += outcome == HUNG;
}

static int bad(const tally *of) {
    return of->wrong_status + of->wrong_state + of->wrong_afterwards + of->ended + of->hung > 0;
}

static void print(const char *what, const tally *of) {
    long total =
        of->told + of->harmless + of->wrong_status + of->wrong_state + of->wrong_afterwards + of->ended + of->hung;
    printf("%s: %ld failed: %ld told, %ld harmless, %ld another status, %ld another state, %ld another result, "
           "%ld ended the process, %ld hung\n",
           what, total, of->told, of->harmless, of->wrong_status, of->wrong_state, of->wrong_afterwards, of->ended,
           of->hung);
}

static int try_call(const call *of, account *account, int all, tally *large, tally *small) {
    trial t = {of, account, 0};
    tally here = {0};
    char name[120], first[60] = "";
    if (of->run() != CGRPO_OK || of->run() != CGRPO_OK) { /* warm: metadata, threads */
        printf("%s %s: %s\n", of->function, of->note, cgrpo_last_error());
        return 0;
    }
    digest = 0;
    if (in_child(count_allocations, &t, 20) != 0 || account->status != CGRPO_OK || account->count > MOST) {
        printf("%s %s: no count: %s\n", of->function, of->note, account->error);
        return 0;
    }
    long large_count = 0, seen = 0;
    for (long n = 0; n < account->count; n++) large_count += account->sizes[n] >= PROMISED;
    for (long n = 1; n <= account->count; n++) {
        int is_small = account->sizes[n - 1] < PROMISED;
        if (!all && (is_small || seen++ % (1 + large_count / AT_MOST_ABOUT) != 0)) continue;
        t.fails_at = n;
        int outcome = in_child(with_a_failure, &t, 20);
        add(is_small ? small : large, outcome);
        if (!is_small) add(&here, outcome);
        if (!is_small && outcome != TOLD && outcome != HARMLESS && first[0] == 0)
            snprintf(first, sizeof first, "; first: allocation %ld, %zu bytes", n, account->sizes[n - 1]);
    }
    if (!bad(&here)) return 1;
    snprintf(name, sizeof name, "%s %s%s", of->function, of->note, first);
    print(name, &here);
    return 1;
}

int main(int argc, char **argv) {
    int all = argc > 2 && strcmp(argv[2], "all") == 0, right = every_function_is_called();
    account *account = shared_memory(sizeof *account);
    tally large = {0}, small = {0};
    dl_iterate_phdr(find_blas, NULL);
    calls_prepare(argc > 1 ? argv[1] : ".");
    for (int c = 0; c < CALL_COUNT; c++) right = try_call(&calls[c], account, all, &large, &small) && right;
    remove_folder(checkpoint);
    if (all) print("below 1,024 bytes (no promise)", &small);
    print("allocations", &large);
    return !right || bad(&large) || small.wrong_state + small.wrong_afterwards + small.hung > 0;
}
