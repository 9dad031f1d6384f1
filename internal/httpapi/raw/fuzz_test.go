package raw_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/skein-run/skein/internal/httpapi/raw/shape"
)

// Whatever is sent, there is an answer in JSON, and no fault of ours.
func FuzzBodies(f *testing.F) {
	w := newWorld(f, 3)
	h := serve(f, w)
	placed := call(h, "GET", "/instance/placement?model_id="+smol+"&min_nodes=2", "").Body.String()
	for i, body := range []string{
		`{"model_id":"` + smol + `","min_nodes":2}`, `{"instance":` + placed + `}`, `{"targetNodeId":"n1","modelId":"` + smol + `"}`,
		`{"targetNodeId":"n1","shardMetadata":{"PipelineShardMetadata":{"deviceRank":0,"worldSize":1,"startLayer":0,"endLayer":1,"nLayers":1,"modelCard":{"modelId":"x"}}}}`,
		`{"taskIds":["a"]}`, `{"model":"` + smol + `","messages":[{"role":"user","content":"Hi"}],"max_tokens":3}`, `{`, `null`, `[]`, `{"instance":{"MlxRingInstance":null}}`,
	} {
		f.Add(i, body)
	}
	paths := []string{"/place_instance", "/instance", "/download/start", "/download/cancel", "/v1/traces/delete", "/bench/chat/completions"}
	f.Fuzz(func(t *testing.T, i int, body string) {
		path := paths[uint(i)%uint(len(paths))]
		r := call(serve(t, newWorld(t, 2)), "POST", path, body)
		if r.Code == 500 || !json.Valid(r.Body.Bytes()) && r.Header().Get("Content-Type") == "application/json" {
			t.Errorf("POST %s: status %d: %s", path, r.Code, r.Body)
		}
	})
}

// An instance that is read has ranks in order, and can be shown again.
func FuzzParseInstance(f *testing.F) {
	w := newWorld(f, 3)
	h := serve(f, w)
	for _, q := range []string{"&min_nodes=1", "&min_nodes=3", "&min_nodes=3&sharding=Tensor", "&min_nodes=2&sharding=Tensor"} {
		f.Add(call(h, "GET", "/instance/placement?model_id="+smol+q, "").Body.String())
	}
	f.Fuzz(func(t *testing.T, body string) {
		i, err := shape.ParseInstance("instance", json.RawMessage(body))
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if len(i.Shards) == 0 || !shape.ValidID(i.ID) {
			t.Fatalf("got %+v", i)
		}
		for k, s := range i.Shards {
			if s.Spec.End <= s.Spec.First || s.Spec.Rank >= s.Spec.Ranks() {
				t.Errorf("shard %d is %+v", k, s.Spec)
			}
		}
		b, err := json.Marshal(shape.InstanceOf(w.current(), i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := shape.ParseInstance("instance", b); err != nil {
			t.Errorf("%v: %s", err, b)
		}
	})
}

// BenchmarkState is what a dashboard that asks once a second costs.
func BenchmarkState(b *testing.B) {
	for _, nodes := range []int{3, 1000} {
		w := newWorld(b, nodes)
		h := serve(b, w)
		for range min(nodes, 50) {
			if r := call(h, "POST", "/place_instance", `{"model_id":"`+smol+`","min_nodes":2}`); r.Code != 200 {
				b.Fatalf("status %d: %s", r.Code, r.Body)
			}
		}
		for _, path := range []string{"/state", "/state/nodeMemory", "/state/runners/id-2-0"} {
			b.Run(fmt.Sprintf("%d%s", nodes, path), func(b *testing.B) {
				size := 0
				for b.Loop() {
					r := call(h, "GET", path, "")
					if r.Code != 200 {
						b.Fatalf("status %d: %s", r.Code, r.Body)
					}
					size = r.Body.Len()
				}
				b.ReportMetric(float64(size), "bytes")
			})
		}
	}
}
