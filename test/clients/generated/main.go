// Command generated uses a client that oapi-codegen made out of /openapi.json
// (package skein, which is made anew for each run) against a running node. It
// is a module of its own, so that the generator and its runtime are pinned and
// no part of skein.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"generated/skein"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, strings.TrimSuffix(os.Getenv("SKEIN_BASE_URL"), "/v1"), os.Getenv("SKEIN_MODEL")); err != nil {
		log.Fatal(err)
	}
}

func withKey(key string) skein.RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+key)
		return nil
	}
}

func run(ctx context.Context, url, model string) error {
	c, err := skein.NewClientWithResponses(url, skein.WithRequestEditorFn(withKey(os.Getenv("SKEIN_API_KEY"))))
	if err != nil {
		return err
	}
	overview, err := c.GetClusterWithResponse(ctx)
	if err != nil {
		return err
	}
	if o := overview.JSON200; o == nil || o.NodeCount != 1 || o.TotalRamGb <= 0 || o.MasterNodeId != o.Nodes[0].NodeId {
		return fmt.Errorf("overview: %s", overview.Body)
	}
	nodes, err := c.ListNodesWithResponse(ctx)
	if err != nil {
		return err
	}
	if nodes.JSON200 == nil || nodes.JSON200.Nodes[0].NodeId != overview.JSON200.MasterNodeId || nodes.JSON200.Nodes[0].Status != skein.Online {
		return fmt.Errorf("nodes: %s", nodes.Body)
	}

	yes := true
	dry, err := c.LoadModelWithResponse(ctx, nil, skein.LoadRequest{ModelId: model, DryRun: &yes})
	if err != nil {
		return err
	}
	if dry.JSON200 == nil || !dry.JSON200.DryRun || dry.JSON200.InstanceId != "" || len(dry.JSON200.Placement) != 1 {
		return fmt.Errorf("dry run: %s", dry.Body)
	}
	key := "generated-2"
	done, err := c.LoadModelWithResponse(ctx, &skein.LoadModelParams{IdempotencyKey: &key}, skein.LoadRequest{ModelId: model})
	if err != nil {
		return err
	}
	if done.JSON200 == nil || done.JSON200.CommandId != key || done.JSON200.InstanceId == "" {
		return fmt.Errorf("load: %s", done.Body)
	}
	if err := await(ctx, c, model, skein.ModelStatusAnswerStatusReady); err != nil {
		return err
	}

	tokens, temperature := int64(16), 0.0
	answer, err := c.CreateChatCompletionWithResponse(ctx, skein.ChatCompletionRequest{
		Model: model, MaxTokens: &tokens, Temperature: &temperature,
		Messages: []skein.ChatMessage{{Role: skein.ChatMessageRoleUser, Content: "What is the capital of France?"}},
	})
	if err != nil {
		return err
	}
	if answer.JSON200 == nil || answer.JSON200.Choices[0].Message.Content == "" || answer.JSON200.Usage.CompletionTokens == 0 {
		return fmt.Errorf("chat: %s", answer.Body)
	}

	gone, err := c.UnloadModelWithResponse(ctx, model, nil)
	if err != nil {
		return err
	}
	if gone.JSON200 == nil || gone.JSON200.InstanceId != done.JSON200.InstanceId {
		return fmt.Errorf("unload: %s", gone.Body)
	}
	if err := await(ctx, c, model, skein.ModelStatusAnswerStatusNotLoaded); err != nil {
		return err
	}
	return refusals(ctx, c, model)
}

// refusals come as their schema says, with their status.
func refusals(ctx context.Context, c *skein.ClientWithResponses, model string) error {
	again, err := c.UnloadModelWithResponse(ctx, model, nil)
	if err != nil {
		return err
	}
	if e := again.JSON404; e == nil || e.Error.Code == nil || *e.Error.Code != "model_not_loaded" || e.Error.Param == nil || *e.Error.Param != "name" {
		return fmt.Errorf("unload again: %d %s", again.StatusCode(), again.Body)
	}
	few := int64(-1)
	wrong, err := c.LoadModelWithResponse(ctx, nil, skein.LoadRequest{ModelId: model, MinNodes: &few})
	if err != nil {
		return err
	}
	if e := wrong.JSON422; e == nil || *e.Error.Code != "invalid_value" || *e.Error.Param != "min_nodes" {
		return fmt.Errorf("min_nodes -1: %d %s", wrong.StatusCode(), wrong.Body)
	}
	stranger, err := c.GetClusterWithResponse(ctx, withKey("sk-nobody"))
	if err != nil {
		return err
	}
	if e := stranger.JSON401; e == nil || *e.Error.Code != "invalid_api_key" {
		return fmt.Errorf("a stranger: %d %s", stranger.StatusCode(), stranger.Body)
	}
	return nil
}

func await(ctx context.Context, c *skein.ClientWithResponses, model string, want skein.ModelStatusAnswerStatus) error {
	for {
		s, err := c.GetModelStatusWithResponse(ctx, model)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", want, err)
		}
		if s.JSON200 == nil || s.JSON200.Status == skein.ModelStatusAnswerStatusFailed {
			return fmt.Errorf("status: %d %s", s.StatusCode(), s.Body)
		}
		if s.JSON200.Status == want {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}
