package manage

import (
	"net/http"

	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/manage/metrics"
)

// metrics writes what GET /v1/cluster and /health tell in the text format that
// Prometheus reads. Every node tells of the whole cluster, so that one is asked.
func (d *Dialect) metrics(w http.ResponseWriter, r *http.Request) {
	v, err := d.look(r.Context())
	if err != nil {
		httpapi.WriteError(w, fail(err, ""))
		return
	}
	health, err := v.Health()
	if err != nil {
		httpapi.WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(metrics.Text(v.Overview(), health))) // a client that hung up needs no answer
}
