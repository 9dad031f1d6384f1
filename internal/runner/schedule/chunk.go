package schedule

// Sizes of the prompt chunk. A chunk bounds how long running streams wait for
// an arriving prompt, and is the grid of prefix reuse. Smaller ones keep the
// streams smoother and cost prompts speed: 128 tokens took up to a tenth longer
// than 256 (docs/benchmarks.md). Larger models take smaller ones, GPUs larger.
const (
	chunkCPU      = 256
	chunkCPULarge = 64
	chunkGPU      = 512
	largeModel    = 3e9 // parameters
	// From here on 64 tokens are computed as fast as 256 (42.5 tok/s of 2.4 B on a
	// core, either way). In a pipeline the last stage waits for a chunk at the
	// beginning of a prompt, and the first one at its end: so they are short.
	middleModel = 1e9
)

// Kernels for repacked weights take 16 tokens of a prompt at once, then 4, and what
// is left over one by one; those of attention take 64. Of 2.4 B parameters in Q4_0 on
// a core with AVX-512, 16 tokens took 369 ms, 15 took 495, 64 took 1,435, 63 took
// 1,564. Kernels without tiles (Q4_1) are not slower for the one token more: of
// SmolLM2 15 tokens took 79 ms, 16 took 81, 240 took 1,210, 239 took 1,258.
const tileCPU = 16

// TileTokens is how many tokens the kernels compute at once; 0: any number alike.
func TileTokens(gpu bool) int {
	if gpu {
		return 0
	}
	return tileCPU
}

// ChunkTokens is how many tokens of a prompt a step takes, of a model in so many
// stages. It depends on nothing that varies between two starts on one machine,
// so that answers do not either.
func ChunkTokens(parameters uint64, gpu bool, stages int) int {
	switch {
	case gpu:
		return chunkGPU
	case parameters >= largeModel, stages > 1 && parameters >= middleModel:
		return chunkCPULarge
	}
	return chunkCPU
}
