package openai_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/httpapi/openai"
)

// apiError is the error shape, as a client reads it.
type apiError struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	} `json:"error"`
}

func decodeError(t *testing.T, w *httptest.ResponseRecorder) apiError {
	t.Helper()
	var e apiError
	decoder := json.NewDecoder(strings.NewReader(w.Body.String()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&e); err != nil {
		t.Fatalf("the body is not an error: %v\n%s", err, w.Body)
	}
	return e
}

func text(s *string) string {
	if s == nil {
		return "<null>"
	}
	return *s
}

// refusal is a body and the error that it gets.
type refusal struct {
	body  string
	param string
	code  string
	says  string // part of the message
}

func checkRefusal(t *testing.T, path string, test refusal) {
	t.Helper()
	engine := newFake()
	w := post(newHandler(t, engine), path, test.body)
	if w.Code != 400 {
		t.Fatalf("status %d, want 400: %s", w.Code, w.Body)
	}
	e := decodeError(t, w)
	if e.Error.Type != "invalid_request_error" || text(e.Error.Param) != test.param || text(e.Error.Code) != test.code {
		t.Errorf("type %s, param %s, code %s; want invalid_request_error, %s, %s", e.Error.Type, text(e.Error.Param), text(e.Error.Code), test.param, test.code)
	}
	if !strings.Contains(e.Error.Message, test.says) {
		t.Errorf("message %q does not say %q", e.Error.Message, test.says)
	}
	if engine.count() != 0 {
		t.Error("the request reached the engine")
	}
}

// TestBodies covers what is wrong with a body as a whole; both endpoints.
func TestBodies(t *testing.T) {
	for name, test := range map[string]refusal{
		"empty":             {"", "<null>", "invalid_json", "empty"},
		"blank":             {" \n", "<null>", "invalid_json", "empty"},
		"array":             {"[]", "<null>", "invalid_type", "must be a JSON object, not an array"},
		"string":            {`"hi"`, "<null>", "invalid_type", "not a string"},
		"number":            {"1", "<null>", "invalid_type", "not a number"},
		"null":              {"null", "<null>", "invalid_type", "not null"},
		"cut off":           {`{"model":"demo"`, "<null>", "invalid_json", "byte 15"},
		"trailing garbage":  {`{"model":"demo"} x`, "<null>", "invalid_json", "after top-level value"},
		"second object":     {`{"model":"demo"}{}`, "<null>", "invalid_json", "after top-level value"},
		"NaN":               {`{"model":"demo","temperature":NaN}`, "<null>", "invalid_json", "'N'"},
		"infinity":          {`{"model":"demo","temperature":-Infinity}`, "<null>", "invalid_json", "'I'"},
		"invalid UTF-8":     {"{\"model\":\"d\xffemo\"}", "<null>", "invalid_utf8", "byte 11"},
		"too deep":          {`{"model":` + strings.Repeat("[", 20000), "<null>", "invalid_json", "depth"},
		"no model":          {`{}`, "model", "missing_required_parameter", "/v1/models"},
		"null model":        {`{"model":null}`, "model", "missing_required_parameter", "/v1/models"},
		"empty model":       {`{"model":""}`, "model", "missing_required_parameter", "/v1/models"},
		"model is a number": {`{"model":7}`, "model", "invalid_type", "a string, not a number"},
		"model in capitals": {`{"MODEL":"demo"}`, "model", "missing_required_parameter", ""},
	} {
		for _, path := range []string{"/v1/chat/completions", "/v1/completions"} {
			t.Run(name+path, func(t *testing.T) { checkRefusal(t, path, test) })
		}
	}
}

// parameters are fields that both endpoints judge alike.
func parameters() map[string]refusal {
	return map[string]refusal{
		`"temperature":-0.1`:         {param: "temperature", code: "decimal_below_min_value", says: "between 0 and 2, not -0.1"},
		`"temperature":2.01`:         {param: "temperature", code: "decimal_above_max_value", says: "between 0 and 2"},
		`"temperature":1e999`:        {param: "temperature", code: "decimal_above_max_value", says: "1e999"},
		`"temperature":"1"`:          {param: "temperature", code: "invalid_type", says: "a number, not a string"},
		`"temperature":"NaN"`:        {param: "temperature", code: "invalid_type", says: "a number, not a string"},
		`"temperature":true`:         {param: "temperature", code: "invalid_type", says: "a boolean"},
		`"temperature":[1]`:          {param: "temperature", code: "invalid_type", says: "an array"},
		`"top_p":-1`:                 {param: "top_p", code: "decimal_below_min_value", says: "between 0 and 1"},
		`"top_p":1.5`:                {param: "top_p", code: "decimal_above_max_value", says: "between 0 and 1"},
		`"frequency_penalty":-2.5`:   {param: "frequency_penalty", code: "decimal_below_min_value", says: "between -2 and 2"},
		`"presence_penalty":3`:       {param: "presence_penalty", code: "decimal_above_max_value", says: "between -2 and 2"},
		`"top_k":-1`:                 {param: "top_k", code: "integer_below_min_value", says: "at least 0"},
		`"top_k":1.5`:                {param: "top_k", code: "invalid_type", says: "an integer"},
		`"min_p":-0.5`:               {param: "min_p", code: "decimal_below_min_value", says: "between 0 and 1"},
		`"typical_p":2`:              {param: "typical_p", code: "decimal_above_max_value", says: "between 0 and 1"},
		`"repeat_penalty":-1`:        {param: "repeat_penalty", code: "decimal_below_min_value", says: "between"},
		`"repeat_last_n":-2`:         {param: "repeat_last_n", code: "integer_below_min_value", says: "at least -1"},
		`"seed":"x"`:                 {param: "seed", code: "invalid_type", says: "an integer"},
		`"seed":9223372036854775808`: {param: "seed", code: "integer_above_max_value", says: "9223372036854775807"},
		`"seed":0.5`:                 {param: "seed", code: "invalid_type", says: "an integer, not 0.5"},
		`"n":0`:                      {param: "n", code: "integer_below_min_value", says: "at least 1"},
		`"n":17`:                     {param: "n", code: "integer_above_max_value", says: "at most 16"},
		`"n":1e300`:                  {param: "n", code: "integer_above_max_value", says: "at most 16"},
		`"n":-1e300`:                 {param: "n", code: "integer_below_min_value", says: "at least 1"},
		`"max_tokens":0`:             {param: "max_tokens", code: "integer_below_min_value", says: "at least 1"},
		`"max_tokens":-1`:            {param: "max_tokens", code: "integer_below_min_value", says: "at least 1"},
		`"max_tokens":"5"`:           {param: "max_tokens", code: "invalid_type", says: "an integer"},
		`"max_completion_tokens":-1`: {param: "max_completion_tokens", code: "integer_below_min_value", says: "at least 1"},
		`"max_tokens":5,"max_completion_tokens":6`: {param: "max_tokens", code: "invalid_value", says: "give one of them"},
		`"stop":5`:          {param: "stop", code: "invalid_type", says: "a string or an array of strings"},
		`"stop":""`:         {param: "stop", code: "invalid_value", says: "empty"},
		`"stop":["a",5]`:    {param: "stop[1]", code: "invalid_type", says: "a string, not a number"},
		`"stop":["a",null]`: {param: "stop[1]", code: "invalid_type", says: "not null"},
		`"stop":[` + strings.Repeat(`"a",`, 16) + `"b"]`: {param: "stop", code: "array_above_max_length", says: "at most 16"},
		`"stop":"` + strings.Repeat("a", 1025) + `"`:     {param: "stop", code: "string_above_max_length", says: "1024"},
		`"logit_bias":[1]`:                                            {param: "logit_bias", code: "invalid_type", says: "an object"},
		`"logit_bias":{"a":1}`:                                        {param: "logit_bias", code: "invalid_value", says: "token id"},
		`"logit_bias":{"-1":1}`:                                       {param: "logit_bias", code: "invalid_value", says: "token id"},
		`"logit_bias":{"9999999999":1}`:                               {param: "logit_bias", code: "invalid_value", says: "token id"},
		`"logit_bias":{"5":101}`:                                      {param: "logit_bias.5", code: "decimal_above_max_value", says: "between -100 and 100"},
		`"logit_bias":{"5":"x"}`:                                      {param: "logit_bias.5", code: "invalid_type", says: "a number"},
		`"logit_bias":{` + biases(4097) + `}`:                         {param: "logit_bias", code: "object_above_max_properties", says: "4096"},
		`"stream":"yes"`:                                              {param: "stream", code: "invalid_type", says: "true or false, not a string"},
		`"stream":1`:                                                  {param: "stream", code: "invalid_type", says: "true or false, not a number"},
		`"stream_options":{"include_usage":true}`:                     {param: "stream_options", code: "invalid_value", says: "stream: true"},
		`"stream":true,"stream_options":5`:                            {param: "stream_options", code: "invalid_type", says: "an object"},
		`"stream":true,"stream_options":{"include_usage":1}`:          {param: "stream_options.include_usage", code: "invalid_type", says: "true or false"},
		`"stream":true,"stream_options":{"include_obfuscation":true}`: {param: "stream_options.include_obfuscation", code: "unsupported_parameter", says: "not supported"},
		`"user":5`: {param: "user", code: "invalid_type", says: "a string"},
		`"user":"` + strings.Repeat("a", 1025) + `"`: {param: "user", code: "string_above_max_length", says: "1024"},
		`"metadata":"x"`:                                      {param: "metadata", code: "invalid_type", says: "an object"},
		`"metadata":{"a":5}`:                                  {param: "metadata.a", code: "invalid_type", says: "a string"},
		`"metadata":{"a":null}`:                               {param: "metadata.a", code: "invalid_type", says: "a string"},
		`"metadata":{` + pairs(17) + `}`:                      {param: "metadata", code: "object_above_max_properties", says: "16"},
		`"metadata":{"` + strings.Repeat("k", 257) + `":"v"}`: {param: "metadata", code: "string_above_max_length", says: "64"},
		`"ignore_eos":1`:                                      {param: "ignore_eos", code: "invalid_type", says: "true or false"},

		`"tool_choice":"required"`:                 {param: "tool_choice", code: "unsupported_parameter", says: "not supported"},
		`"parallel_tool_calls":false`:              {param: "parallel_tool_calls", code: "unsupported_parameter", says: "not supported"},
		`"functions":[{}]`:                         {param: "functions", code: "unsupported_parameter", says: "not supported"},
		`"function_call":{"name":"f"}`:             {param: "function_call", code: "unsupported_parameter", says: "not supported"},
		`"response_format":{"type":"json_object"}`: {param: "response_format", code: "unsupported_parameter", says: "json_object"},
		`"response_format":{"type":"text","x":1}`:  {param: "response_format", code: "unsupported_parameter", says: "not supported"},
		`"response_format":"text"`:                 {param: "response_format", code: "unsupported_parameter", says: "not supported"},
		`"modalities":["text","audio"]`:            {param: "modalities", code: "unsupported_parameter", says: "not supported"},
		`"audio":{"voice":"alloy"}`:                {param: "audio", code: "unsupported_parameter", says: "not supported"},
		`"prediction":{"type":"content"}`:          {param: "prediction", code: "unsupported_parameter", says: "not supported"},
		`"web_search_options":{}`:                  {param: "web_search_options", code: "unsupported_parameter", says: "not supported"},
		`"moderation":{}`:                          {param: "moderation", code: "unsupported_parameter", says: "not supported"},
		`"store":true`:                             {param: "store", code: "unsupported_parameter", says: "not supported"},
		`"service_tier":"flex"`:                    {param: "service_tier", code: "unsupported_parameter", says: "flex"},
		`"verbosity":"low"`:                        {param: "verbosity", code: "unsupported_parameter", says: "low"},
		`"prompt_cache_options":{}`:                {param: "prompt_cache_options", code: "unsupported_parameter", says: "not supported"},
		`"prompt_cache_retention":"24h"`:           {param: "prompt_cache_retention", code: "unsupported_parameter", says: "24h"},
		`"suffix":"end"`:                           {param: "suffix", code: "unsupported_parameter", says: "not supported"},
	}
}

func biases(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"%d":1`, i)
	}
	return strings.Join(all, ",")
}

func pairs(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"%d":"v"`, i)
	}
	return strings.Join(all, ",")
}

func TestRefusedParameters(t *testing.T) {
	for fields, test := range parameters() {
		name := fields
		if len(name) > 60 {
			name = name[:60]
		}
		t.Run("chat/"+name, func(t *testing.T) {
			test.body = `{"model":"demo","messages":[{"role":"user","content":"Hi"}],` + fields + `}`
			checkRefusal(t, "/v1/chat/completions", test)
		})
		t.Run("text/"+name, func(t *testing.T) {
			test.body = `{"model":"demo","prompt":"Hi",` + fields + `}`
			checkRefusal(t, "/v1/completions", test)
		})
	}
}

func TestRefusedChat(t *testing.T) {
	for fields, test := range map[string]refusal{
		`"stream":false`:                                                     {param: "messages", code: "missing_required_parameter", says: "messages is missing"},
		`"messages":[]`:                                                      {param: "messages", code: "empty_array", says: "messages is empty"},
		`"messages":"Hi"`:                                                    {param: "messages", code: "invalid_type", says: "an array, not a string"},
		`"messages":{}`:                                                      {param: "messages", code: "invalid_type", says: "an array, not an object"},
		`"messages":["Hi"]`:                                                  {param: "messages[0]", code: "invalid_type", says: "an object, not a string"},
		`"messages":[null]`:                                                  {param: "messages[0]", code: "invalid_type", says: "not null"},
		`"messages":[{}]`:                                                    {param: "messages[0].role", code: "missing_required_parameter", says: "role"},
		`"messages":[{"role":"user"}]`:                                       {param: "messages[0].content", code: "missing_required_parameter", says: "content"},
		`"messages":[{"role":"user","content":null}]`:                        {param: "messages[0].content", code: "missing_required_parameter", says: "content"},
		`"messages":[{"role":"user","content":5}]`:                           {param: "messages[0].content", code: "invalid_type", says: "a string or an array of content parts"},
		`"messages":[{"role":"user","content":[]}]`:                          {param: "messages[0].content", code: "empty_array", says: "empty"},
		`"messages":[{"role":"user","content":["Hi"]}]`:                      {param: "messages[0].content[0]", code: "invalid_type", says: "an object"},
		`"messages":[{"role":"user","content":[{}]}]`:                        {param: "messages[0].content[0].type", code: "missing_required_parameter", says: "type"},
		`"messages":[{"role":"user","content":[{"type":"text"}]}]`:           {param: "messages[0].content[0].text", code: "missing_required_parameter", says: "text"},
		`"messages":[{"role":"user","content":[{"type":"text","text":5}]}]`:  {param: "messages[0].content[0].text", code: "invalid_type", says: "a string"},
		`"messages":[{"role":"user","content":[{"type":"poem","text":""}]}]`: {param: "messages[0].content[0].type", code: "invalid_value", says: "poem"},
		`"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:"}}]}]`: {param: "messages[0].content[1].type", code: "unsupported_parameter", says: "image_url"},
		`"messages":[{"role":"user","content":[{"type":"input_audio"}]}]`:                                                      {param: "messages[0].content[0].type", code: "unsupported_parameter", says: "input_audio"},
		`"messages":[{"role":"user","content":[{"type":"file"}]}]`:                                                             {param: "messages[0].content[0].type", code: "unsupported_parameter", says: "file"},
		`"messages":[{"role":"user","content":[{"type":"text","text":"a","prompt_cache_breakpoint":{}}]}]`:                     {param: "messages[0].content[0].prompt_cache_breakpoint", code: "unsupported_parameter", says: "leave it out"},
		`"messages":[{"role":"boss","content":"Hi"}]`:                                                                          {param: "messages[0].role", code: "invalid_value", says: "boss"},
		`"messages":[{"role":5,"content":"Hi"}]`:                                                                               {param: "messages[0].role", code: "invalid_type", says: "a string"},
		`"messages":[{"role":"function","content":"Hi"}]`:                                                                      {param: "messages[0].role", code: "unsupported_parameter", says: "function"},
		`"messages":[{"role":"tool","content":"Hi"}]`:                                                                          {param: "messages[0].tool_call_id", code: "missing_required_parameter", says: "tool_call_id"},
		`"messages":[{"role":"assistant"}]`:                                                                                    {param: "messages[0].content", code: "missing_required_parameter", says: "content"},
		`"messages":[{"role":"user","content":"Hi","name":5}]`:                                                                 {param: "messages[0].name", code: "invalid_type", says: "a string"},
		`"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}]`:            {param: "messages[1].tool_calls[0].type", code: "missing_required_parameter", says: "function"},
		`"messages":[{"role":"assistant","content":"","function_call":{}}]`:                                                    {param: "messages[0].function_call", code: "unsupported_parameter", says: "not supported"},
		`"messages":[{"role":"assistant","content":"","refusal":"no"}]`:                                                        {param: "messages[0].refusal", code: "unsupported_parameter", says: "not supported"},
		`"messages":[{"role":"assistant","content":"","audio":{"id":"1"}}]`:                                                    {param: "messages[0].audio", code: "unsupported_parameter", says: "not supported"},

		`"messages":[{"role":"user","content":"Hi"}],"logprobs":3`:                               {param: "logprobs", code: "invalid_type", says: "true or false"},
		`"messages":[{"role":"user","content":"Hi"}],"top_logprobs":3`:                           {param: "top_logprobs", code: "invalid_value", says: "logprobs: true"},
		`"messages":[{"role":"user","content":"Hi"}],"logprobs":true,"top_logprobs":21`:          {param: "top_logprobs", code: "integer_above_max_value", says: "at most 20"},
		`"messages":[{"role":"user","content":"Hi"}],"chat_template_kwargs":5`:                   {param: "chat_template_kwargs", code: "invalid_type", says: "an object"},
		`"messages":[{"role":"user","content":"Hi"}],"chat_template_kwargs":{"messages":[]}`:     {param: "chat_template_kwargs.messages", code: "invalid_value", says: "cannot be set"},
		`"messages":[{"role":"user","content":"Hi"}],"chat_template_kwargs":{` + pairs(65) + `}`: {param: "chat_template_kwargs", code: "object_above_max_properties", says: "64"},
		`"messages":[{"role":"user","content":"Hi"}],"reasoning_effort":"hard"`:                  {param: "reasoning_effort", code: "invalid_value", says: "one of none"},
		`"messages":[{"role":"user","content":"Hi"}],"reasoning_effort":"high"`:                  {param: "reasoning_effort", code: "unsupported_parameter", says: "chat template"},
	} {
		t.Run(fields[:min(len(fields), 120)], func(t *testing.T) {
			test.body = `{"model":"demo",` + fields + `}`
			checkRefusal(t, "/v1/chat/completions", test)
		})
	}
}

func TestRefusedText(t *testing.T) {
	for fields, test := range map[string]refusal{
		`"echo":false`:             {param: "prompt", code: "missing_required_parameter", says: "prompt is missing"},
		`"prompt":5`:               {param: "prompt", code: "invalid_type", says: "a string, an array of strings"},
		`"prompt":{}`:              {param: "prompt", code: "invalid_type", says: "not an object"},
		`"prompt":[]`:              {param: "prompt", code: "empty_array", says: "empty"},
		`"prompt":[[]]`:            {param: "prompt[0]", code: "empty_array", says: "token id"},
		`"prompt":["a",1]`:         {param: "prompt", code: "invalid_type", says: "prompt[1] is a number but prompt[0] is a string"},
		`"prompt":[1,"a"]`:         {param: "prompt[1]", code: "invalid_type", says: "an integer, not a string"},
		`"prompt":[1,-2]`:          {param: "prompt[1]", code: "integer_below_min_value", says: "at least 0"},
		`"prompt":[1,99999999999]`: {param: "prompt[1]", code: "integer_above_max_value", says: "at most"},
		`"prompt":[[1],[2.5]]`:     {param: "prompt[1][0]", code: "invalid_type", says: "an integer"},
		`"prompt":[true]`:          {param: "prompt[0]", code: "invalid_type", says: "a boolean"},
		`"prompt":[null]`:          {param: "prompt[0]", code: "invalid_type", says: "null"},
		`"prompt":[` + strings.Repeat(`"a",`, 2048) + `"a"]`: {param: "prompt", code: "array_above_max_length", says: "2048"},
		`"prompt":"Hi","logprobs":6`:                         {param: "logprobs", code: "integer_above_max_value", says: "at most 5"},
		`"prompt":"Hi","logprobs":true`:                      {param: "logprobs", code: "invalid_type", says: "an integer"},
		`"prompt":"Hi","echo":true,"logprobs":1`:             {param: "logprobs", code: "unsupported_parameter", says: "echo"},
		`"prompt":"Hi","echo":"yes"`:                         {param: "echo", code: "invalid_type", says: "true or false"},
		`"prompt":"Hi","best_of":3`:                          {param: "best_of", code: "unsupported_parameter", says: "best_of"},
		`"prompt":"Hi","best_of":0`:                          {param: "best_of", code: "integer_below_min_value", says: "at least 1"},
	} {
		t.Run(fields[:min(len(fields), 60)], func(t *testing.T) {
			test.body = `{"model":"demo",` + fields + `}`
			checkRefusal(t, "/v1/completions", test)
		})
	}
}

// A chat of 100,000 messages is refused at once, one at the limit is served.
func TestManyMessages(t *testing.T) {
	chat := func(n int) string {
		return `{"model":"demo","messages":[` + strings.Repeat(`{"role":"user","content":"Hi"},`, n-1) + `{"role":"user","content":"Hi"}]}`
	}
	checkRefusal(t, "/v1/chat/completions", refusal{chat(100000), "messages", "array_above_max_length", "at most 16384 entries, not 100000"})
	engine := newFake()
	if w := post(newHandler(t, engine), "/v1/chat/completions", chat(16384)); w.Code != 200 {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	if got := len(engine.last(t).Messages); got != 16384 {
		t.Errorf("%d messages reached the engine", got)
	}
	// The limit is the node's choice.
	w := post(newHandler(t, newFake(), func(o *openai.Options) { o.MaxMessages = 2 }), "/v1/chat/completions", chat(3))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "at most 2 entries") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

// A body of 10 MB is read; the prompt in it is the engine's to judge.
func TestLargeBody(t *testing.T) {
	engine := newFake()
	content := strings.Repeat("0123456789", 1<<20)
	if w := post(newHandler(t, engine), "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"`+content+`"}]}`); w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if got := engine.last(t).Messages[0].Content; got != content {
		t.Errorf("%d bytes of content reached the engine, want %d", len(got), len(content))
	}
	w := post(newHandler(t, newFake()), "/v1/chat/completions", strings.Repeat(" ", 16<<20)+"{}")
	if w.Code != 413 || text(decodeError(t, w).Error.Code) != "request_too_large" {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}
