// Chunk-GRPO from Go over the C interface: examples/c/first.c, and what that prints.
//
//	make lib && cd examples/go && lib=$PWD/../../build/lib && PKG_CONFIG_PATH=$lib/pkgconfig LD_LIBRARY_PATH=$lib go run .
//
// Memory that a struct of C points to is C's (`zeros`): C gets no pointer of Go's in it.
package main

/*
#cgo pkg-config: chunkgrpo
#include <chunkgrpo.h>
#include <stdlib.h>
int goVelocity(void *, int64_t, double, cgrpo_tensor *, cgrpo_tensor *);
*/
import "C"
import "fmt"
import "runtime"
import "unsafe"

const group, B, T, S, D = 12, 4 * 12, 17, 16, 2

var bias, velocities = [D]float64{}, zeros[float32](B * S * D) // the model's weights, and what it said in the rollout
func zeros[E any](n int) []E                                   { return unsafe.Slice((*E)(C.calloc(C.size_t(n), 8)), n) }
func integers(values ...C.int64_t) *C.int64_t {
	return &append(zeros[C.int64_t](len(values))[:0], values...)[0]
}

func tensor(data []float32, ndim C.int32_t, shape, strides *C.int64_t) *C.cgrpo_tensor {
	t := (*C.cgrpo_tensor)(C.calloc(1, C.sizeof_cgrpo_tensor))
	t.data, t.shape, t.strides, t.ndim, t._type = unsafe.Pointer(&data[0]), shape, strides, ndim, C.CGRPO_TYPE_F32
	return t
}
func try(status C.cgrpo_status) {
	if status != C.CGRPO_OK {
		panic(C.GoString(C.cgrpo_last_error()))
	}
}

// Optimal for x0 ~ N(0, 1); the bias moves it. A panic must not leave it: return non-zero instead, which stops the rollout.
//
//export goVelocity
func goVelocity(user unsafe.Pointer, step C.int64_t, sigma C.double, latents, out *C.cgrpo_tensor) C.int {
	row := func(t *C.cgrpo_tensor, i int) *[D]float32 {
		return (*[D]float32)(unsafe.Add(t.data, 4*i*int(*t.strides)))
	}
	for n := 0; n < B*D; n++ {
		i, j, s := n/D, n%D, float64(sigma)
		v := float64(row(latents, i)[j])*(2*s-1)/((1-s)*(1-s)+s*s) + bias[j]
		row(out, i)[j] = float32(v)
		if step < S { // the last step is not trained
			velocities[(i*S+int(step))*D+j] = float32(v)
		}
	}
	return 0
}

func main() {
	runtime.LockOSThread() // the message of an error is its thread's
	target := [D]float64{2, -1}
	x, gradient := zeros[float32](B*(T+1)*D), zeros[float32](B*S*D)
	sigmas, logProbs, grads, advantages := [T + 1]C.double{}, zeros[C.double](B*S), [B * S]C.double{}, [B]C.double{}
	start := tensor(x, 2, integers(B, D), integers((T+1)*D, 1))
	latents, v := tensor(x, 3, integers(B, T+1, D), nil), tensor(velocities, 3, integers(B, S, D), nil)
	dv, chunks := tensor(gradient, 3, v.shape, nil), integers(2, 3, 4, 7)
	spacing, grouping, noise := C.cgrpo_schedule_options{}, C.cgrpo_advantage_options{}, C.cgrpo_noise{}
	var sampler *C.cgrpo_sampler
	C.cgrpo_schedule_options_init(&spacing, C.sizeof_cgrpo_schedule_options)
	spacing.shift = 3
	try(C.cgrpo_schedule_make(T, &spacing, &sigmas[0]))
	try(C.cgrpo_sampler_create(&sigmas[0], T+1, nil, &sampler)) // nil: Flow-SDE with eta 0.7
	C.cgrpo_noise_init(&noise, C.sizeof_cgrpo_noise)
	C.cgrpo_advantage_options_init(&grouping, C.sizeof_cgrpo_advantage_options)
	grouping.group_size = group
	for iteration := 0; iteration <= 100; iteration++ {
		noise.seed = C.uint64_t(iteration)
		try(C.cgrpo_normal(noise.seed, nil, C.CGRPO_INITIAL_NOISE, 1, start))
		var trajectory C.cgrpo_trajectory
		C.cgrpo_trajectory_init(&trajectory, C.sizeof_cgrpo_trajectory)
		trajectory.latents, trajectory.log_probs = *latents, &logProbs[0]
		try(C.cgrpo_rollout(sampler, &trajectory, T, &noise, C.cgrpo_velocity_fn(C.goVelocity), nil))
		rewards, mean := [B]C.double{}, 0.0
		for i := range rewards {
			for j, value := range x[(i*(T+1)+T)*D:][:D] {
				rewards[i] -= C.double((float64(value) - target[j]) * (float64(value) - target[j]))
			}
			mean += float64(rewards[i]) / B
		}
		try(C.cgrpo_advantages(&rewards[0], B, &grouping, &advantages[0]))
		var loss C.double // on the policy that sampled, new and old log-probabilities are the same
		try(C.cgrpo_chunk_loss(&logProbs[0], &logProbs[0], &advantages[0], B, S, chunks, 4, nil, &loss, &grads[0], nil, nil))
		try(C.cgrpo_trajectory_log_probs_vjp(sampler, 0, nil, latents, v, &grads[0], dv))
		if iteration%20 == 0 {
			fmt.Printf("iteration %3d   mean reward %7.3f   bias %6.3f %6.3f\n", iteration, mean, bias[0], bias[1])
		}
		for i, g := range gradient {
			bias[i%D] -= 0.5 * float64(g)
		}
	}
	C.cgrpo_sampler_destroy(sampler)
}
