/*
 * Data-parallel Chunk-GRPO of the embedded policy over MPI: each rank draws the samples of its prompts, and all end
 * with the same parameters, those of one process with all prompts.
 *
 *     mpirun -n 4 build/examples/replica_mpi [folder [iterations]]
 *
 * With a folder, rank 0 saves after each iteration, and a run that finds a checkpoint there goes on from it, on any
 * number of ranks. `make -C examples/c` builds it where mpicc is.
 */
#include <chunkgrpo.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = 16, PROMPTS = 8 };
static int rank, ranks;

static void fail(const char *call) {
    fprintf(stderr, "rank %d: %s: %s\n", rank, call, cgrpo_last_error());
    fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, 1); /* the others may wait for this one */
}
#define TRY(call) \
    if ((call) != CGRPO_OK) fail(#call)

/*
 * The sum over all ranks; 1 where one does not come within 20 seconds, after which the process must end, for MPI may
 * still write to `values`. MPI_Allreduce would wait for ever for a rank that hangs. For one that is dead it returns an
 * error, given MPI_ERRORS_RETURN, if MPI finds out; most mpirun end the others before.
 */
static int all_reduce(void *user, void *values, cgrpo_type type, int64_t count) {
    const double limit = MPI_Wtime() + 20;
    MPI_Request request;
    int done = 0;
    (void)user;
    if (MPI_Iallreduce(MPI_IN_PLACE, values, (int)count, type == CGRPO_TYPE_F64 ? MPI_DOUBLE : MPI_FLOAT, MPI_SUM,
                       MPI_COMM_WORLD, &request) != MPI_SUCCESS)
        return 1;
    while (!done)
        if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || (!done && MPI_Wtime() > limit)) return 1;
    return 0;
}

/* Minus the distance from an image of ones. A reward of your own may look at the prompt: number `prompt[i]` of this
 * rank is number prompt[i] * ranks + rank of all. */
static int reward(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *rewards) {
    const float *x = (const float *)images->data;
    (void)user, (void)prompt;
    for (int64_t i = 0; i < images->shape[0]; i++) {
        rewards[i] = 0;
        for (int j = 0; j < D; j++) rewards[i] -= (x[i * D + j] - 1) * (x[i * D + j] - 1) / D;
    }
    return 0;
}

static cgrpo_trainer *make_trainer(const char *checkpoint) {
    cgrpo_trainer *trainer = NULL;
    cgrpo_trainer_options options;
    if (checkpoint != NULL && cgrpo_trainer_load(checkpoint, &trainer) == CGRPO_OK) return trainer;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = D, options.condition_size = PROMPTS;
    options.width = 64, options.blocks = 1, options.seed = 7;
    options.threads = 1; /* a rank has one processor here */
    TRY(cgrpo_trainer_create(&options, &trainer));
    return trainer;
}

int main(int argc, char **argv) {
    const char *checkpoint = argc > 1 ? argv[1] : NULL;
    const int64_t iterations = argc > 2 ? atoll(argv[2]) : 20;
    float conditions[PROMPTS * PROMPTS] = {0};
    int64_t shape[2] = {0, PROMPTS}, done = 0;
    cgrpo_tensor own;
    cgrpo_trainer *trainer;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);

    trainer = make_trainer(checkpoint);
    TRY(cgrpo_trainer_set_replica(trainer, rank, ranks, all_reduce, NULL));
    TRY(cgrpo_trainer_info(trainer, NULL, NULL, &done));

    /* The prompts of this rank, one-hot: rank, rank + ranks, ... */
    for (int n = rank; n < PROMPTS; n += ranks) conditions[shape[0]++ * PROMPTS + n] = 1;
    memset(&own, 0, sizeof own);
    own.data = conditions, own.shape = shape, own.ndim = 2, own.type = CGRPO_TYPE_F32;
    while (done < iterations) {
        cgrpo_iteration_report report;
        report.struct_size = sizeof report;
        TRY(cgrpo_trainer_iterate(trainer, &own, reward, NULL, &report));
        done = report.iteration;
        if (rank == 0) {
            printf("%2d  reward %.9f  loss %+.9f  norm %.9f\n", (int)done, report.reward_mean, report.loss,
                   report.grad_norm);
            fflush(stdout);
            if (checkpoint != NULL) TRY(cgrpo_trainer_save(trainer, checkpoint));
        }
    }
    cgrpo_trainer_destroy(trainer);
    MPI_Finalize();
    return 0;
}
