// Package metrics tells of a cluster in the text format that Prometheus reads: what
// the overview and the health of the management API say, as numbers.
//
// It sends nothing; package manage mounts it.
package metrics

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/api"
)

// series is one metric with its samples, in the order in which they were added.
type series struct {
	name, help string
	samples    []string
}

// add adds a sample; labels are names and values in turns.
func (s *series) add(value float64, labels ...string) {
	var l []string
	for k := 0; k+1 < len(labels); k += 2 {
		l = append(l, labels[k]+`="`+labelValue.Replace(labels[k+1])+`"`)
	}
	at := ""
	if len(l) > 0 {
		at = "{" + strings.Join(l, ",") + "}"
	}
	s.samples = append(s.samples, fmt.Sprintf("%s%s %g", s.name, at, value))
}

// labelValue escapes what the format gives a meaning of its own.
var labelValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

const gib = 1 << 30

// Text is all of them. All are gauges: sums over nodes fall when one goes.
func Text(o api.Overview, h api.Health) string {
	var all []*series
	add := func(name, help string) *series {
		s := &series{name: "skein_" + name, help: help}
		all = append(all, s)
		return s
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	add("healthy", "1 when the cluster has nodes and a master that can write.").add(truth(h.Healthy))
	add("nodes_online", "Nodes that are online.").add(float64(o.NodeCount))
	add("memory_total_bytes", "Memory of the machines with online nodes, to a tenth of a GiB.").add(o.TotalRAMGB * gib)
	add("memory_available_bytes", "What is free of it.").add(o.AvailableRAMGB * gib)
	add("tokens_per_second", "What all models generate now.").add(o.TokensPerSecond)
	add("tasks", "Requests being worked on.").add(float64(o.ActiveTaskCount))
	add("downloads", "Downloads that are pending or running.").add(float64(o.ActiveDownloadCount))
	add("generations_resumed", "Generations that lost their place and went on, since the start of the nodes that answer.").add(float64(h.GenerationsResumed))
	add("generations_lost", "Generations that ended with an error instead.").add(float64(h.GenerationsLost))

	online := add("node_online", "1 when the node is online; nodes that were lost are told of for ten minutes.")
	master := add("node_master", "1 when the node leads.")
	draining := add("node_draining", "1 when the node gets nothing new.")
	info := add("node_info", "Always 1; its labels tell of the node.")
	measured := []struct {
		field string // of api.Node, as Unmeasured names it
		s     *series
		value func(api.Node) float64
	}{
		{"ram_total_gb", add("node_memory_total_bytes", "Memory of the node's machine, to a tenth of a GiB."), func(n api.Node) float64 { return n.RAMTotalGB * gib }},
		{"ram_available_gb", add("node_memory_available_bytes", "What is free of it."), func(n api.Node) float64 { return n.RAMAvailableGB * gib }},
		{"disk_available_gb", add("node_disk_available_bytes", "What is free of the disk where models lie."), func(n api.Node) float64 { return n.DiskAvailableGB * gib }},
		{"cpu_p_usage_percent", add("node_cpu_percent", "Use of the fast cores, 0 to 100."), func(n api.Node) float64 { return n.CPUPUsagePercent }},
		{"gpu_usage_percent", add("node_gpu_percent", "Use of the GPU, 0 to 100."), func(n api.Node) float64 { return n.GPUUsagePercent }},
		{"temperature_c", add("node_temperature_celsius", "Temperature of the machine."), func(n api.Node) float64 { return n.TemperatureC }},
		{"power_watts", add("node_power_watts", "What the machine takes."), func(n api.Node) float64 { return n.PowerWatts }},
	}
	for _, n := range o.Nodes {
		labels := []string{"node", n.FriendlyName, "node_id", n.NodeID}
		online.add(truth(n.Status == api.NodeOnline), labels...)
		master.add(truth(n.IsMaster), labels...)
		draining.add(truth(n.Draining), labels...)
		info.add(1, append(slices.Clone(labels), "version", n.Version, "chip", n.Chip)...)
		for _, m := range measured {
			if n.Status == api.NodeOnline && !slices.Contains(n.Unmeasured, m.field) {
				m.s.add(m.value(n), labels...)
			}
		}
	}

	ready := add("model_ready", "1 when the instance answers; 0 while it is loaded, or when it failed.")
	ofModel := []struct {
		s     *series
		value func(api.Model) float64
	}{
		{add("model_tokens_per_second", "What all its streams generate now."), func(m api.Model) float64 { return m.TokensPerSecond }},
		{add("model_running_requests", "Requests that it works on."), func(m api.Model) float64 { return float64(m.RunningRequests) }},
		{add("model_waiting_requests", "Requests that wait for a slot."), func(m api.Model) float64 { return float64(m.WaitingRequests) }},
		{add("model_slots", "Requests that run at once."), func(m api.Model) float64 { return float64(m.Slots) }},
		{add("model_memory_bytes", "Promised for weights, caches and buffers, to a tenth of a GiB."), func(m api.Model) float64 { return m.MemoryGB * gib }},
	}
	for _, m := range o.Models {
		labels := []string{"model", m.ModelID, "instance", m.InstanceID, "nodes", strings.Join(m.NodeNames, ",")}
		ready.add(truth(m.Ready), labels...)
		for _, x := range ofModel {
			if m.InstanceID != "" {
				x.s.add(x.value(m), labels...)
			}
		}
	}
	var b strings.Builder
	for _, s := range all {
		if len(s.samples) > 0 {
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s\n", s.name, s.help, s.name, strings.Join(s.samples, "\n"))
		}
	}
	return b.String()
}
