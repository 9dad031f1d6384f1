package chat

import "testing"

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(b.Context(), Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRender(b *testing.B) {
	tmpl, err := Compile(b.Context(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	in := Input{Messages: []Message{{Role: "system", Content: "Be brief."}}}
	for range 10 {
		in.Messages = append(in.Messages, Message{Role: "user", Content: "Hi"}, Message{Role: "assistant", Content: "Hello"})
	}
	for b.Loop() {
		if _, err := tmpl.Render(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecoder(b *testing.B) {
	piece := []byte(" token")
	for b.Loop() {
		d := NewDecoder(DecoderOptions{Reasoning: tags[0], Stops: []string{"\n\nUser:", "END"}})
		for range 100 {
			d.Write(piece)
		}
		d.Close()
	}
}
