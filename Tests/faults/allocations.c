/*
 * Lets the n-th allocation of a call fail, for each n of each function, in a child of its own. The call must return
 * CGRPO_OUT_OF_MEMORY and leave everything as it was: made again, it must write what it would have written.
 *
 *     allocations FOLDER [all]
 *
 * Without `all`, about 40 to 80 allocations of each call are tried.
 *
 * The header's promise is for what grows with the caller's numbers; every input here takes 1 KB or more. Allocations
 * below 2 KB are left out, or with `all` tried and counted apart: they may end the process. So may those of the
 * embedded trainer, which are counted apart too.
 */
#include "calls.h"

enum { PROMISED = 2048, MOST = 20000, AT_MOST_ABOUT = 40 };

/* Every allocation of this program and of the library goes through the functions below. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
static struct {
    long count, fails_at; /* 0: none */
    int armed;
    size_t *sizes; /* of each, where not null */
} heap;

static int fails(size_t size) {
    if (!heap.armed || looking) return 0;
    long count = __atomic_add_fetch(&heap.count, 1, __ATOMIC_RELAXED);
    if (heap.sizes != NULL && count <= MOST) heap.sizes[count - 1] = size;
    if (count != heap.fails_at) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return fails(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { return fails(size) ? NULL : __libc_memalign(alignment, size); }
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
enum { TOLD = 10, HARMLESS, WRONG_STATUS, WRONG_AFTERWARDS };

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
    heap.fails_at = t->fails_at, heap.armed = 1;
    cgrpo_status status = t->call->run();
    heap.armed = 0;
    if (status != CGRPO_OK && status != CGRPO_OUT_OF_MEMORY) return WRONG_STATUS;
    if (status == CGRPO_OK) return digest == t->account->digest ? HARMLESS : WRONG_AFTERWARDS;
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
    long told, harmless, wrong_status, wrong_afterwards, ended, hung;
} tally;

static void add(tally *to, int outcome) {
    to->told += outcome == TOLD, to->harmless += outcome == HARMLESS;
    to->wrong_status += outcome == WRONG_STATUS, to->wrong_afterwards += outcome == WRONG_AFTERWARDS;
    to->ended += outcome == ENDED, to->hung += outcome == HUNG;
}

static int bad(const tally *of) { return of->wrong_status + of->wrong_afterwards + of->ended + of->hung > 0; }

static void print(const char *what, const tally *of) {
    long total = of->told + of->harmless + of->wrong_status + of->wrong_afterwards + of->ended + of->hung;
    printf("%s: %ld failed: %ld told, %ld harmless, %ld another status, %ld another result, %ld ended the process, "
           "%ld hung\n",
           what, total, of->told, of->harmless, of->wrong_status, of->wrong_afterwards, of->ended, of->hung);
}

static int is_of_the_trainer(const call *of) { return strncmp(of->function, "cgrpo_trainer_", 14) == 0; }

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
    tally large = {0}, small = {0}, trainer = {0};
    calls_prepare(argc > 1 ? argv[1] : ".");
    for (int c = 0; c < CALL_COUNT; c++)
        right = try_call(&calls[c], account, all, is_of_the_trainer(&calls[c]) ? &trainer : &large, &small) && right;
    remove_folder(checkpoint);
    if (all) print("below 2,048 bytes (no promise)", &small);
    print("the trainer's (no promise but for its arrays)", &trainer);
    print("allocations", &large);
    return !right || bad(&large) || trainer.wrong_afterwards + trainer.hung + small.wrong_afterwards + small.hung > 0;
}
