package openai_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	sdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/skein-run/skein/internal/generation"
)

// The official Go client, against the whole server on a socket.
func newClient(t *testing.T, engine *fakeEngine) sdk.Client {
	t.Helper()
	_, url := listen(t, engine)
	return sdk.NewClient(option.WithBaseURL(url+"/v1/"), option.WithAPIKey("none"), option.WithMaxRetries(0))
}

func ask(extra ...func(*sdk.ChatCompletionNewParams)) sdk.ChatCompletionNewParams {
	params := sdk.ChatCompletionNewParams{
		Model:    "demo",
		Messages: []sdk.ChatCompletionMessageParamUnion{sdk.SystemMessage("Be brief."), sdk.UserMessage("Hi")},
	}
	for _, f := range extra {
		f(&params)
	}
	return params
}

func TestSDKChat(t *testing.T) {
	client := newClient(t, newFake())
	answer, err := client.Chat.Completions.New(t.Context(), ask(func(p *sdk.ChatCompletionNewParams) {
		p.N = sdk.Int(2)
		p.Temperature = sdk.Float(0)
		p.Seed = sdk.Int(7)
		p.Stop = sdk.ChatCompletionNewParamsStopUnion{OfStringArray: []string{"END"}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Choices) != 2 || answer.Choices[1].Message.Content != "Hello, world" || answer.Choices[1].FinishReason != "stop" {
		t.Errorf("answer %s", answer.RawJSON())
	}
	if answer.Usage.TotalTokens != 16 || answer.Usage.PromptTokensDetails.CachedTokens != 4 {
		t.Errorf("usage %s", answer.Usage.RawJSON())
	}
}

func TestSDKStream(t *testing.T) {
	client := newClient(t, newFake())
	stream := client.Chat.Completions.NewStreaming(t.Context(), ask(func(p *sdk.ChatCompletionNewParams) {
		p.StreamOptions = sdk.ChatCompletionStreamOptionsParam{IncludeUsage: sdk.Bool(true)}
	}))
	var all sdk.ChatCompletionAccumulator
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Fatalf("chunk does not fit: %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all.Choices) != 1 || all.Choices[0].Message.Content != "Hello, world" || all.Choices[0].Message.Role != "assistant" || all.Usage.TotalTokens != 13 {
		t.Errorf("answer %+v", all.ChatCompletion)
	}
}

func TestSDKLogprobs(t *testing.T) {
	engine := newFake()
	engine.generate = logprobs()
	client := newClient(t, engine)
	answer, err := client.Chat.Completions.New(t.Context(), ask(func(p *sdk.ChatCompletionNewParams) {
		p.Logprobs, p.TopLogprobs = sdk.Bool(true), sdk.Int(2)
	}))
	if err != nil {
		t.Fatal(err)
	}
	content := answer.Choices[0].Logprobs.Content
	if len(content) != 4 || content[0].Token != "Hi" || content[0].TopLogprobs[1].Token != "Yo" || content[0].TopLogprobs[1].Logprob != -1.5 {
		t.Errorf("logprobs %s", answer.Choices[0].Logprobs.RawJSON())
	}
	texts, err := client.Completions.New(t.Context(), sdk.CompletionNewParams{
		Model: "demo", Prompt: sdk.CompletionNewParamsPromptUnion{OfString: sdk.String("Hi")}, Logprobs: sdk.Int(2),
	})
	if err != nil {
		t.Fatal(err)
	}
	legacy := texts.Choices[0].Logprobs
	if len(legacy.Tokens) != 4 || legacy.TopLogprobs[0]["Yo"] != -1.5 || legacy.TextOffset[3] != 4 || legacy.TokenLogprobs[0] != -0.25 {
		t.Errorf("logprobs %s", legacy.RawJSON())
	}
}

func TestSDKErrors(t *testing.T) {
	engine := newFake()
	client := newClient(t, engine)
	var apiErr *sdk.Error
	_, err := client.Chat.Completions.New(t.Context(), ask(func(p *sdk.ChatCompletionNewParams) { p.Model = "nope" }))
	if !errors.As(err, &apiErr) || apiErr.StatusCode != 404 || apiErr.Code != "model_not_found" {
		t.Errorf("error %v", err)
	}
	_, err = client.Chat.Completions.New(t.Context(), ask(func(p *sdk.ChatCompletionNewParams) { p.Temperature = sdk.Float(3) }))
	if !errors.As(err, &apiErr) || apiErr.StatusCode != 400 || apiErr.Param != "temperature" {
		t.Errorf("error %v", err)
	}
	engine.generate = func(_ context.Context, _ generation.Request, emit func(generation.Event) error) error {
		if err := emit(generation.Event{Text: "Hel"}); err != nil {
			return err
		}
		return &generation.Error{Kind: generation.KindFailed, Message: "the runner died"}
	}
	stream := client.Chat.Completions.NewStreaming(t.Context(), ask())
	text := ""
	for stream.Next() {
		text += stream.Current().Choices[0].Delta.Content
	}
	if err := stream.Err(); text != "Hel" || err == nil || !strings.Contains(err.Error(), "the runner died") {
		t.Errorf("text %q, error %v", text, err)
	}
}

func TestSDKModelsAndTexts(t *testing.T) {
	client := newClient(t, newFake())
	page, err := client.Models.List(t.Context())
	if err != nil || len(page.Data) != 3 || page.Data[0].ID != "demo" {
		t.Errorf("models %+v, %v", page, err)
	}
	model, err := client.Models.Get(t.Context(), "org/Thinker-GGUF")
	if err != nil || model.ID != "org/Thinker-GGUF" || model.OwnedBy != "org" {
		t.Errorf("model %+v, %v", model, err)
	}
	stream := client.Completions.NewStreaming(t.Context(), sdk.CompletionNewParams{
		Model:  "demo",
		Prompt: sdk.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"a", "b"}},
	})
	texts := make([]string, 2)
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			texts[choice.Index] += choice.Text
		}
	}
	if err := stream.Err(); err != nil || texts[0] != "Hello, world" || texts[1] != "Hello, world" {
		t.Errorf("texts %q, %v", texts, err)
	}
}
