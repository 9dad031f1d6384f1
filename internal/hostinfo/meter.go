package hostinfo

import (
	"context"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
)

// Gauges are what changes all the time. A pointer that is nil was not measured:
// the machine or the platform does not tell, or not to this user.
type Gauges struct {
	// Use of the fast and of the efficient cores in percent, since the reading
	// before. Where cores are all alike they are fast.
	FastCores, EfficientCores *float64
	GPU                       *float64 // mean use of the GPUs, percent
	Temperature               *float64 // of the hottest of processor and GPUs, degrees Celsius
	// Power in W: of the whole machine if it tells, otherwise of processor
	// packages, memory and GPUs, as far as they tell.
	Power *float64
	Lines Lines
}

// Times of a Meter.
const (
	meterKeep = time.Second            // a reading this young is given again
	meterLong = 30 * time.Second       // a use over more than this says nothing of now
	meterPair = 100 * time.Millisecond // then two samples are taken, so far apart
)

// Meter reads the gauges of this machine. It reads when it is asked, and keeps
// the last counters, since use and power are differences. Any goroutine may
// ask.
type Meter struct {
	root  fs.FS // of the file system; nil: not Linux
	times func(context.Context) ([]cpu.TimesStat, error)
	now   func() time.Time

	mu   sync.Mutex // guards what follows
	last sample
	kept Gauges
	at   time.Time // when kept was read
}

// sample is the counters at one moment.
type sample struct {
	at     time.Time
	cores  map[int]coreTime
	energy map[string]energy
}

type coreTime struct{ busy, total float64 } // s

// NewMeter makes a meter and takes the first sample.
func NewMeter(ctx context.Context) *Meter {
	var root fs.FS
	if runtime.GOOS == "linux" {
		root = os.DirFS("/")
	}
	return newMeter(ctx, root, func(ctx context.Context) ([]cpu.TimesStat, error) { return cpu.TimesWithContext(ctx, true) }, time.Now)
}

func newMeter(ctx context.Context, root fs.FS, times func(context.Context) ([]cpu.TimesStat, error), now func() time.Time) *Meter {
	m := &Meter{root: root, times: times, now: now}
	m.last = m.sample(ctx)
	return m
}

// Read gives the gauges, at most a second old.
func (m *Meter) Read(ctx context.Context) Gauges {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if !m.at.IsZero() && now.Sub(m.at) < meterKeep {
		return m.kept
	}
	before := m.last
	if now.Sub(before.at) > meterLong {
		before = m.sample(ctx)
		timer := time.NewTimer(meterPair)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return Gauges{}
		}
	}
	m.last = m.sample(ctx)
	var g Gauges
	g.FastCores, g.EfficientCores = use(before.cores, m.last.cores, m.efficient())
	if m.root != nil {
		g.GPU = gpuUse(m.root)
		g.Temperature = temperature(m.root)
		g.Power = power(m.root, before, m.last)
		g.Lines = lines(m.root)
	}
	m.kept, m.at = g, m.now()
	return g
}

func (m *Meter) sample(ctx context.Context) sample {
	s := sample{at: m.now(), cores: map[int]coreTime{}}
	// What can't be read is not measured.
	stats, err := m.times(ctx)
	for _, t := range stats {
		id, numberErr := strconv.Atoi(strings.TrimPrefix(t.CPU, "cpu"))
		if err != nil || numberErr != nil {
			continue
		}
		// Time of guests is counted in user and nice already.
		total := t.User + t.System + t.Idle + t.Nice + t.Iowait + t.Irq + t.Softirq + t.Steal
		s.cores[id] = coreTime{busy: total - t.Idle - t.Iowait, total: total}
	}
	if m.root != nil {
		s.energy = energies(m.root)
	}
	return s
}

// efficient tells which cores are the slower ones; nil where all are alike or
// the platform does not tell.
func (m *Meter) efficient() map[int]bool {
	if m.root == nil {
		return nil
	}
	return efficientCores(m.root)
}

// use gives the mean use of both kinds of cores between two samples.
func use(before, after map[int]coreTime, efficient map[int]bool) (fast, slow *float64) {
	var busy, total [2]float64
	for id, a := range after {
		b, ok := before[id]
		if !ok || a.total <= b.total {
			continue // it came meanwhile, or stood still
		}
		kind := 0
		if efficient[id] {
			kind = 1
		}
		busy[kind] += max(0, a.busy-b.busy)
		total[kind] += a.total - b.total
	}
	percent := func(kind int) *float64 {
		if total[kind] <= 0 {
			return nil
		}
		p := math.Min(100, 100*busy[kind]/total[kind])
		return &p
	}
	return percent(0), percent(1)
}
