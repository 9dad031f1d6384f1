package clients

import (
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var openapiTime = flag.Duration("openapi-time", 0, "how long schemathesis asks three nodes, with random seeds; 0: one node, briefly, with a fixed seed")

// secret is the key of the nodes that these tests start: the document says that
// a key is asked for, so it has to be.
const secret = "sk-test-of-the-document"

// call asks a node and gives the whole answer.
func call(t *testing.T, method, url, body string) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+secret)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

// object is a part of the document.
type object = map[string]any

// at goes down into a document; nil: there is nothing.
func at(o object, path ...string) object {
	for _, p := range path {
		o, _ = o[p].(object)
	}
	return o
}

// strict makes the document say no more than it has to, so that less can hide
// behind it: every status must be listed, every answer must have the fields
// that are listed and no other, and no operation goes without a key. Names in
// examples become ones that the node knows, so that commands do something.
func strict(t *testing.T, document []byte, names map[string]any) []byte {
	t.Helper()
	var doc object
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	schemas := at(doc, "components", "schemas")
	// reach notes all schemas that something refers to.
	var reach func(v any, into map[string]bool)
	reach = func(v any, into map[string]bool) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				reach(item, into)
			}
		case object:
			if ref, ok := v["$ref"].(string); ok {
				if name := ref[strings.LastIndexByte(ref, '/')+1:]; !into[name] {
					into[name] = true
					reach(schemas[name], into)
				}
			}
			for _, item := range v {
				reach(item, into)
			}
		}
	}
	requests, openai := map[string]bool{}, map[string]bool{}
	for _, item := range at(doc, "paths") {
		for _, o := range item.(object) {
			op := o.(object)
			delete(at(op, "responses"), "default")
			op["security"] = slices.DeleteFunc(op["security"].([]any), func(v any) bool { return len(v.(object)) == 0 })
			reach(op["requestBody"], requests)
			// OpenAI's answers have more fields than their part here.
			if slices.Contains(op["tags"].([]any), any("inference")) {
				reach(op["responses"], openai)
			}
			parameters, _ := op["parameters"].([]any)
			for _, p := range parameters {
				if name, ok := names[p.(object)["name"].(string)]; ok && p.(object)["in"] == "path" {
					p.(object)["example"], at(p.(object), "schema")["examples"] = name, []any{name}
				}
			}
			for _, media := range at(op, "requestBody", "content") {
				delete(media.(object), "example")
			}
		}
	}
	for name, s := range schemas {
		schema := s.(object)
		if !requests[name] && !openai[name] && schema["additionalProperties"] == nil {
			schema["additionalProperties"] = false
		}
		for field, p := range at(schema, "properties") {
			if example, ok := names[field]; ok && requests[name] {
				p.(object)["examples"] = []any{example}
			}
		}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A stranger's tool that makes requests out of the document, right and wrong
// ones, finds no answer that the document does not allow. What it does not
// check, and why, is in openapi/schemathesis.toml.
func TestSchemathesis(t *testing.T) {
	packages := path(t, "build", "clients", "openapi")
	if !exists(packages) {
		missing(t, packages+" is not there")
	}
	n := 1
	if *openapiTime > 0 {
		n = 3
	}
	nodes, first := make([]string, n), freePort(t)
	for i := range nodes {
		args := []string{"--api-key", secret, "--namespace", "openapi" + first}
		if i == 0 {
			args = append(args, "--load", model, "--gossip-port", first, "--models-dir", folder(t, second))
		} else {
			args = append(args, "--join", "127.0.0.1:"+first, "--gossip-port", "0")
		}
		nodes[i] = strings.TrimSuffix(serve(t, args...), "/v1")
	}
	var list struct {
		Nodes []struct {
			ID string `json:"node_id"`
		}
	}
	for deadline := time.Now().Add(time.Minute); len(list.Nodes) < n; {
		if _, b := call(t, http.MethodGet, nodes[0]+"/v1/cluster/nodes", ""); json.Unmarshal(b, &list) != nil || time.Now().After(deadline) {
			t.Fatalf("the nodes do not meet: %s", b)
		}
	}
	status, document := call(t, http.MethodGet, nodes[0]+"/openapi.json", "")
	if status != http.StatusOK {
		t.Fatalf("the document: %d %s", status, document)
	}
	last := list.Nodes[n-1].ID
	file := filepath.Join(t.TempDir(), "openapi.json")
	if err := os.WriteFile(file, strict(t, document, map[string]any{
		"name": model, "model_id": model, "load_model_id": second, "unload_model_id": model, "model": model, "node_id": last, "node_ids": []string{last}, "id": last, "key": "ci",
		"paths": []string{filepath.Join(folder(t, third), third+".gguf")},
	}), 0o600); err != nil {
		t.Fatal(err)
	}
	// The long form gives each node its share of the time.
	for i, url := range nodes {
		args := []string{
			"-c", "from schemathesis.cli import schemathesis; schemathesis()",
			"--config-file", path(t, "test", "clients", "openapi", "schemathesis.toml"),
			"run", file, "--url", url, "--header", "Authorization: Bearer " + secret,
		}
		if share := *openapiTime / time.Duration(n); share > 0 {
			seed := time.Now().UnixNano() % 1_000_000_000
			args = append(args, "--max-time", strconv.Itoa(int(share.Seconds())), "--seed", strconv.FormatInt(seed, 10))
		} else {
			args = append(args, "--generation-deterministic", "--seed", "1", "--max-examples", "3", "--phases", "examples,coverage,fuzzing")
		}
		cmd := exec.CommandContext(t.Context(), "python3", args...)
		cmd.Dir = filepath.Dir(file) // it keeps what it found in its working directory
		cmd.Env = append(os.Environ(), "PYTHONPATH="+packages, "PYTHONDONTWRITEBYTECODE=1", "NO_COLOR=1",
			"SCHEMATHESIS_HOOKS="+path(t, "test", "clients", "openapi", "hooks.py"))
		begin := time.Now()
		output, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("node %d: %v\n%s", i+1, err, output)
		}
		t.Logf("node %d, %.0f s: %s", i+1, time.Since(begin).Seconds(), summary(string(output)))
	}
}

// second is the demo model by another name, and third one that is not listed
// before somebody adds it.
const second, third = "org-second", "org-third"

// folder is one with the demo model by another name.
func folder(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(path(t, "bin", "models", model+".gguf"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name+".gguf"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort is a port that nothing listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// summary is the end of what schemathesis tells.
func summary(output string) string {
	if i := strings.LastIndex(output, "Test cases:"); i >= 0 {
		output = output[i:]
	}
	return strings.Join(strings.Fields(output), " ")
}
