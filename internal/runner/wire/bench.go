package wire

// BenchSpec says what the raw loop of `skein runner --bench` computes: no
// scheduler, no frames, no server between the library and the clock. It is
// read as JSON from stdin.
type BenchSpec struct {
	Engine  EngineSpec  `json:"engine"`
	Load    LoadRequest `json:"load"`
	Prompt  int         `json:"prompt"`  // tokens of each prefill
	Decode  int         `json:"decode"`  // tokens of each decode run
	Streams int         `json:"streams"` // sequences decoded together
	Repeat  int         `json:"repeat"`  // runs; medians are reported
}

// BenchResult is what the raw loop measured, written as JSON to stdout. Rates
// are tokens a second over all streams, Each in the order of the runs.
type BenchResult struct {
	Engine      string    `json:"engine"` // version of the library
	Model       string    `json:"model"`
	Threads     int       `json:"threads"`
	ChunkTokens int       `json:"chunk_tokens"` // prompt tokens of a step
	Layers      int       `json:"layers"`       // the output head is one
	GPULayers   int       `json:"gpu_layers"`   // of them on accelerators
	LoadSeconds float64   `json:"load_seconds"`
	PrefillEach []float64 `json:"prefill_each"`
	DecodeEach  []float64 `json:"decode_each"`
	Prefill     float64   `json:"prefill"` // median
	Decode      float64   `json:"decode"`
}
