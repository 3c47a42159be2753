/* The header alone. Compiled as C99 and as C++17: what it declares must be usable from both. */
#include <chunkgrpo.h>
/* Including it twice is harmless. */
#include <chunkgrpo.h>

#include "check.h"

static void library_fits_header(void) { CHECK(cgrpo_abi_version() == CGRPO_ABI_VERSION); }

static void version_is_the_packages(void) { CHECK(strcmp(cgrpo_version(), EXPECTED_VERSION) == 0); }

static void every_status_has_its_name(void) {
    CHECK(strcmp(cgrpo_status_name(CGRPO_OK), "CGRPO_OK") == 0);
    CHECK(strcmp(cgrpo_status_name(CGRPO_INVALID_ARGUMENT), "CGRPO_INVALID_ARGUMENT") == 0);
    CHECK(strcmp(cgrpo_status_name(CGRPO_WRONG_TYPE), "CGRPO_WRONG_TYPE") == 0);
    CHECK(strcmp(cgrpo_status_name(CGRPO_NON_FINITE), "CGRPO_NON_FINITE") == 0);
    CHECK(strcmp(cgrpo_status_name(CGRPO_OUT_OF_MEMORY), "CGRPO_OUT_OF_MEMORY") == 0);
    CHECK(strcmp(cgrpo_status_name(CGRPO_CALLBACK_FAILED), "CGRPO_CALLBACK_FAILED") == 0);
    CHECK(strcmp(cgrpo_status_name(CGRPO_IO_ERROR), "CGRPO_IO_ERROR") == 0);
    CHECK(strcmp(cgrpo_status_name(CGRPO_DEVICE_FAILED), "CGRPO_DEVICE_FAILED") == 0);
    CHECK(strcmp(cgrpo_status_name(8), "unknown status") == 0);
    CHECK(strcmp(cgrpo_status_name(-2147483647 - 1), "unknown status") == 0);
}

static void no_error_before_the_first(void) { CHECK(strcmp(cgrpo_last_error(), "") == 0); }

static void a_success_keeps_the_last_error(void) {
    double sigmas[3];
    char message[512];
    CHECK_REFUSED(cgrpo_schedule_make(0, NULL, sigmas), CGRPO_INVALID_ARGUMENT, "steps");
    strncpy(message, cgrpo_last_error(), sizeof message - 1);
    message[sizeof message - 1] = 0;
    CHECK_OK(cgrpo_schedule_make(2, NULL, sigmas));
    CHECK(strcmp(cgrpo_last_error(), message) == 0);
}

/* A caller built against an older header has a smaller struct; one against a newer header, a larger one. */
static void init_writes_no_more_than_the_struct(void) {
    cgrpo_advantage_options options[3];
    const unsigned char *room = (const unsigned char *)options;
    size_t size, i;
    for (size = 0; size <= sizeof options; size++) {
        memset(options, 0xa5, sizeof options);
        cgrpo_advantage_options_init(options, size);
        for (i = size; i < sizeof options; i++) CHECK(room[i] == 0xa5);
        for (i = sizeof(cgrpo_advantage_options); i < size; i++) CHECK(room[i] == 0);
    }
}

static void destroying_null_is_fine(void) {
    cgrpo_sampler_destroy(NULL);
    cgrpo_trainer_destroy(NULL);
}

int main(void) {
    RUN(no_error_before_the_first);
    RUN(library_fits_header);
    RUN(version_is_the_packages);
    RUN(every_status_has_its_name);
    RUN(a_success_keeps_the_last_error);
    RUN(init_writes_no_more_than_the_struct);
    RUN(destroying_null_is_fine);
    return finish(NAME);
}
