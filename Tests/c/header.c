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
    CHECK(strcmp(cgrpo_status_name(7), "unknown status") == 0);
    CHECK(strcmp(cgrpo_status_name(-2147483647 - 1), "unknown status") == 0);
}

static void no_error_before_the_first(void) { CHECK(strcmp(cgrpo_last_error(), "") == 0); }

static void a_success_keeps_the_last_error(void) {
    double sigmas[3];
    char message[512];
    CHECK_REFUSED(cgrpo_schedule_linear(0, sigmas), CGRPO_INVALID_ARGUMENT, "steps");
    strncpy(message, cgrpo_last_error(), sizeof message - 1);
    message[sizeof message - 1] = 0;
    CHECK_OK(cgrpo_schedule_linear(2, sigmas));
    CHECK(strcmp(cgrpo_last_error(), message) == 0);
}

/* Both with garbage before, so that every default is really written. */
#define FRESH(type, options)                \
    type options;                           \
    memset(&options, 0xa5, sizeof options); \
    type##_init(&options, sizeof options);  \
    CHECK(options.struct_size == sizeof options)

static void defaults_are_the_documented_ones(void) {
    FRESH(cgrpo_sampler_options, sampler);
    CHECK(sampler.dynamics == CGRPO_FLOW_SDE && sampler.log_prob_form == CGRPO_LOG_PROB_GAUSSIAN && sampler.eta == 0.7);
    CHECK(sampler.last_step == CGRPO_LAST_STEP_AS_OTHERS && sampler.threads == 1);
    FRESH(cgrpo_noise, noise);
    CHECK(noise.given == NULL && noise.seed == 0 && noise.sample_ids == NULL);
    FRESH(cgrpo_trajectory, trajectory);
    CHECK(trajectory.latents.data == NULL && trajectory.log_probs == NULL && trajectory.relative_l1 == NULL);
    CHECK(trajectory.position == 0);
    FRESH(cgrpo_adaptive_options, adaptive);
    CHECK(adaptive.max_size == 7 && adaptive.min_size == 2);
    FRESH(cgrpo_select_options, select);
    CHECK(select.fraction == 1 && select.weights == NULL && select.weighting == CGRPO_WEIGHTS_NORMALISED);
    CHECK(select.reserved == 0 && select.fixed == NULL && select.fixed_count == 0);
    CHECK(select.seed == 0 && select.sample_ids == NULL);
    FRESH(cgrpo_advantage_options, advantage);
    CHECK(advantage.group_size == 0 && advantage.clamp == 5 && advantage.epsilon == 1e-8);
    FRESH(cgrpo_chunk_loss_options, loss);
    CHECK(loss.clip_low == 5e-5 && loss.clip_high == 5e-5 && loss.kl == 0 && loss.selection == NULL);
    CHECK(loss.surrogate == CGRPO_SURROGATE_CLIPPED && loss.average == CGRPO_AVERAGE_CHUNKS);
    CHECK(loss.ratio_cap == HUGE_VAL && loss.dual_clip == HUGE_VAL && loss.kl_estimator == CGRPO_KL_K3);
    CHECK(loss.kl_level == CGRPO_KL_OF_CHUNKS && loss.normaliser == 0 && loss.divergence_threshold == 1e-5);
    CHECK(loss.mask == NULL && loss.reference_log_probs == NULL && loss.weights == NULL && loss.ratio_bias == NULL);
    CHECK(loss.ratio_scale == NULL && loss.divergence == NULL && loss.grad_ratio_bias == NULL);
    CHECK(loss.weights_per_sample == 0 && loss.reserved == 0);
    FRESH(cgrpo_pretrain_options, pretrain);
    CHECK(pretrain.steps == 2000 && pretrain.batch_size == 256 && pretrain.learning_rate == 2e-3);
    CHECK(pretrain.ema_decay == 0.99);
    FRESH(cgrpo_trainer_options, trainer);
    CHECK(trainer.latent_size == 0 && trainer.condition_size == 0);
    CHECK(trainer.width == 256 && trainer.blocks == 3 && trainer.embedding_size == 128);
    CHECK(trainer.steps == 17 && trainer.shift == 3 && trainer.dynamics == CGRPO_FLOW_SDE && trainer.share_noise == 1);
    CHECK(trainer.eta == 0.7 && trainer.chunk_sizes == NULL && trainer.chunk_count == 0 && trainer.group_size == 12);
    CHECK(trainer.chunk_fraction == 0.5 && trainer.weighted_selection == 0 && trainer.threads == 0);
    CHECK(trainer.advantage_clamp == 5 && trainer.clip_low == 1e-3 && trainer.clip_high == 1e-3 && trainer.kl == 0);
    CHECK(trainer.updates_per_rollout == 2 && trainer.learning_rate == 3e-4);
    CHECK(trainer.beta1 == 0.9 && trainer.beta2 == 0.999 && trainer.adam_epsilon == 1e-8);
    CHECK(trainer.weight_decay == 1e-4 && trainer.max_grad_norm == 1 && trainer.ema_decay == 0.9 && trainer.seed == 0);
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
    RUN(defaults_are_the_documented_ones);
    RUN(init_writes_no_more_than_the_struct);
    RUN(destroying_null_is_fine);
    return finish(NAME);
}
