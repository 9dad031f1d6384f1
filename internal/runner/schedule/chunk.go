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
