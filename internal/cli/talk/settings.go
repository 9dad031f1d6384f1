package talk

import "github.com/skein-run/skein/client"

// Settings are everything about a chat but what was said.
type Settings struct {
	Model  string
	System string
	Params Params
	// Think asks the model's template for thinking or against it; nil leaves
	// it to the model.
	Think *bool
}

// Request makes the request that continues a conversation.
func (s Settings) Request(messages []client.Message) client.ChatRequest {
	req := client.ChatRequest{Model: s.Model}
	if s.System != "" {
		req.Messages = append(req.Messages, client.Message{Role: "system", Content: s.System})
	}
	req.Messages = append(req.Messages, messages...)
	s.Params.Apply(&req)
	if s.Think != nil {
		req.TemplateArgs = map[string]any{"enable_thinking": *s.Think}
	}
	return req
}
