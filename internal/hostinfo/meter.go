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
	GPUs                      []GPU    // those that have a memory of their own and tell of it
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
	gpuKeep   = 2 * time.Second        // the driver's program takes a moment each time
	gpuOld    = 15 * time.Second       // an answer older than this says nothing of now
	gpuPause  = time.Minute            // after it failed
)

// Meter reads the gauges of this machine. It reads when it is asked, and keeps
// the last counters, since use and power are differences. What the GPUs' driver
// is asked in a child process comes with the next reading: nobody waits for it.
// Any goroutine may ask; Close ends and joins what runs.
type Meter struct {
	root  fs.FS // of the file system; nil: not Linux
	times func(context.Context) ([]cpu.TimesStat, error)
	now   func() time.Time
	gpus  func(context.Context) ([]GPU, error) // nil: there is no driver to ask

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	asking sync.WaitGroup

	mu     sync.Mutex // guards what follows
	told   []GPU
	toldAt time.Time // when told was asked for
	next   time.Time // when to ask again
	asked  bool      // a child runs
	last   sample
	kept   Gauges
	at     time.Time // when kept was read
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
	m := newMeter(ctx, root, func(ctx context.Context) ([]cpu.TimesStat, error) { return cpu.TimesWithContext(ctx, true) }, time.Now)
	m.gpus = nvidiaGPUs()
	return m
}

func newMeter(ctx context.Context, root fs.FS, times func(context.Context) ([]cpu.TimesStat, error), now func() time.Time) *Meter {
	m := &Meter{root: root, times: times, now: now}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.last = m.sample(ctx)
	return m
}

// Close ends a child that runs. A closed meter can be read, but for GPUs.
func (m *Meter) Close() {
	m.mu.Lock()
	m.cancel() // with mu held, so that none begins behind it
	m.mu.Unlock()
	m.asking.Wait()
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
		g.GPUs = amdGPUs(m.root)
	}
	g.add(m.driver(now))
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

// driver gives what the GPUs' driver told last, with mu held, and asks it anew
// when that is old.
func (m *Meter) driver(now time.Time) []GPU {
	if m.gpus == nil {
		return nil
	}
	if !m.asked && m.ctx.Err() == nil && !now.Before(m.next) {
		m.asked = true
		m.asking.Go(func() {
			gpus, err := m.gpus(m.ctx)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.asked, m.next = false, now.Add(gpuKeep)
			if err != nil {
				m.next = now.Add(gpuPause) // not measured until then
				return
			}
			m.told, m.toldAt = gpus, now
		})
	}
	if now.Sub(m.toldAt) > gpuOld {
		return nil
	}
	return m.told
}

// add puts GPUs beside what is known already.
func (g *Gauges) add(gpus []GPU) {
	if len(gpus) == 0 {
		return
	}
	sum, n := 0.0, 0
	if g.GPU != nil { // a mean of those before, which are few
		sum, n = *g.GPU*float64(max(1, len(g.GPUs))), max(1, len(g.GPUs))
	}
	for _, x := range gpus {
		if x.Use != nil {
			sum, n = sum+*x.Use, n+1
		}
		if x.Temperature != nil && (g.Temperature == nil || *x.Temperature > *g.Temperature) {
			g.Temperature = x.Temperature
		}
		if x.Power != nil {
			watts := *x.Power
			if g.Power != nil {
				watts += *g.Power
			}
			g.Power = &watts
		}
	}
	if n > 0 {
		mean := sum / float64(n)
		g.GPU = &mean
	}
	g.GPUs = append(g.GPUs, gpus...)
}
