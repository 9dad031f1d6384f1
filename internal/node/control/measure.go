package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/ids"
)

// speed is what was measured of a machine once, and kept.
type speed struct {
	Chip       string  `json:"chip"`
	Cores      int     `json:"cores"`
	Bandwidth  float64 `json:"bandwidth"`  // bytes/s
	Arithmetic float64 `json:"arithmetic"` // flop/s of prompts
}

// What is not measured: 0.3 ms a step beside the weights; kernels for single
// streams reach half of what those for prompts do; and so a token of Q4_0 weights
// (4.5 bits each, two operations) is bound by arithmetic where memory is fast.
const (
	assumedStep    = 300e-6
	streamShare    = 0.5
	bytesOperation = 4.5 / 8 / 2
)

// assumed is the speed where measuring fails: AVX2, and one channel of memory.
var assumed = speed{Bandwidth: 10e9, Arithmetic: 75e9}

// machineSpeed gives the speed of this machine: its memory and arithmetic as
// measured, at the first start or after it became another machine.
func (c *Control) machineSpeed(ctx context.Context, f hostinfo.Facts) placement.Speed {
	file := filepath.Join(c.place(), "speed.json")
	s := speed{}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil || s.Chip != f.Chip || s.Cores != f.CoresUsable || s.Bandwidth <= 0 || s.Arithmetic <= 0 {
		s = speed{Chip: f.Chip, Cores: f.CoresUsable}
		if s.Bandwidth, err = hostinfo.MemoryBandwidth(ctx); err == nil {
			s.Arithmetic, err = hostinfo.Arithmetic(ctx)
		}
		if err != nil {
			return assumed.placed()
		}
		if b, err = json.Marshal(s); err == nil {
			err = os.WriteFile(file, b, 0o600)
		}
		if err != nil {
			c.log.Debug("the machine's speed is not kept and measured at each start", "error", err)
		}
	}
	return s.placed()
}

// placed is s in placement's words.
func (s speed) placed() placement.Speed {
	streams := s.Arithmetic * streamShare
	return placement.Speed{Bandwidth: min(s.Bandwidth, streams*bytesOperation), Compute: s.Arithmetic, Batch: streams, Step: assumedStep}
}

// What measures a line: pings, and one transfer.
const (
	pathProbe   = "/probe"
	probePings  = 5
	probeBytes  = 4 << 20
	probePause  = 5 * time.Minute // between two measurements of a line
	probeSettle = time.Second     // after a peer came, while it has other things to do
	// probeSpread comes between two lines for each peer there is: 50 nodes that
	// start together would otherwise keep each other busy with 10 GB of zeros.
	probeSpread = 20 * time.Millisecond
)

// serveProbe answers with as many bytes as are asked for, up to probeBytes.
func serveProbe(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("bytes"))
	if err != nil || n < 0 || n > probeBytes {
		http.Error(w, "bytes is a number up to "+strconv.Itoa(probeBytes), http.StatusBadRequest)
		return
	}
	_, _ = io.CopyN(w, zeros{}, int64(n)) // a caller that is gone needs no answer
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// measureLinks measures the lines to peers, one after the other, now and then.
func (c *Control) measureLinks() {
	timer := time.NewTimer(probeSettle)
	defer timer.Stop()
	due := map[ids.Node]time.Time{} // zero: now
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.came:
			timer.Reset(probeSettle)
			continue
		case <-timer.C:
		}
		peers := c.peers()
		if len(peers) == 0 {
			timer.Reset(probePause) // or until one comes
			continue
		}
		p := slices.MinFunc(peers, func(a, b ids.Node) int { return due[a].Compare(due[b]) })
		if wait := time.Until(due[p]); wait > 0 {
			timer.Reset(wait)
			continue
		}
		due[p] = time.Now().Add(probePause)
		if line, err := c.measureLink(c.ctx, p); err != nil {
			c.log.Debug("the line to a node is not measured", "node", p, "error", err)
		} else {
			c.vitals.line(p, line)
			c.log.Debug("measured the line to a node", "node", p, "latency", line.Latency, "bandwidth", line.Bandwidth)
		}
		timer.Reset(time.Duration(len(peers)) * probeSpread)
	}
}

// measureLink asks a peer for nothing a few times, and then for much.
func (c *Control) measureLink(ctx context.Context, node ids.Node) (placement.Line, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	least := time.Hour
	for range probePings {
		t, err := c.probe(ctx, node, 0)
		if err != nil {
			return placement.Line{}, err
		}
		least = min(least, t)
	}
	t, err := c.probe(ctx, node, probeBytes)
	if err != nil {
		return placement.Line{}, err
	}
	return placement.Line{Latency: least.Seconds() / 2, Bandwidth: probeBytes / max(t-least, time.Microsecond).Seconds()}, nil
}

func (c *Control) probe(ctx context.Context, node ids.Node, bytes int) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s%s?bytes=%d", node, pathProbe, bytes), nil)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != int64(bytes)) {
		err = fmt.Errorf("status %d, %d bytes of %d", resp.StatusCode, n, bytes)
	}
	return time.Since(begin), err
}
