package slicestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Holder is a server that has a model.
type Holder struct {
	Name   string // for messages
	URL    string // of a Source: "http://10.0.0.1:7000"; of a Shelf: ShelfURL
	Token  string // "": the client proves who it is
	Client *http.Client
}

// holderError is a fault of the holder, or of the way to it: another may do.
type holderError struct{ err error }

func (e *holderError) Error() string { return e.err.Error() }
func (e *holderError) Unwrap() error { return e.err }

// maxParts bounds the answer that lists a model's parts, in bytes.
const maxParts = 1 << 20

// identify gives a wanted model's ID with its headers, from the holder where
// they are not known.
func (h *Holder) identify(ctx context.Context, want ID, stall time.Duration) (ID, error) {
	if want.Is(want) == nil {
		return want, nil
	}
	var id ID
	body, _, err := h.call(ctx, "/parts", maxParts, stall)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(body, &id); err != nil {
		return id, &holderError{fmt.Errorf("it lists the model's files in another way: %w", err)}
	}
	if err := id.Is(want); err != nil {
		return id, &holderError{err}
	}
	return id, nil
}

// get fetches a block and compares its hash.
func (h *Holder) get(ctx context.Context, b Block, stall time.Duration) (body []byte, sum string, err error) {
	body, trailer, err := h.call(ctx, path+"?"+b.Query(), b.Bytes(), stall)
	if err != nil {
		return nil, "", err
	}
	if int64(len(body)) != b.Bytes() {
		return nil, "", &holderError{fmt.Errorf("%d bytes arrived of %d", len(body), b.Bytes())}
	}
	digest := sha256.Sum256(body)
	sum = hex.EncodeToString(digest[:])
	if told := trailer.Get(digestTrailer); told != sum {
		return nil, "", &holderError{fmt.Errorf("bytes %d and on of part %d were changed on their way: their hash is %s instead of %q", b.Offset, b.Part, sum, told)}
	}
	return body, sum, nil
}

// call reads an answer of at most limit bytes and its trailer. A holder that
// sends nothing for as long as stall is given up.
func (h *Holder) call(ctx context.Context, what string, limit int64, stall time.Duration) ([]byte, http.Header, error) {
	guarded, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(fmt.Errorf("it sent nothing for %v", stall)) })
	defer watch.Stop()
	fail := func(err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case guarded.Err() != nil:
			err = context.Cause(guarded)
		}
		return &holderError{err}
	}
	req, err := http.NewRequestWithContext(guarded, http.MethodGet, h.URL+what, nil)
	if err != nil {
		return nil, nil, err
	}
	if h.Token != "" {
		req.Header.Set("Authorization", "Bearer "+h.Token)
	}
	res, err := h.Client.Do(req)
	if err != nil {
		return nil, nil, fail(err)
	}
	defer res.Body.Close() // read to its end below, or of no use
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // the status says enough without it
		return nil, nil, fail(fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(text)))
	}
	body, err := io.ReadAll(&alive{r: io.LimitReader(res.Body, limit+1), seen: func() { watch.Reset(stall) }})
	if err != nil {
		return nil, nil, fail(err)
	}
	if int64(len(body)) > limit {
		return nil, nil, fail(errors.New("it sends more than was asked for"))
	}
	return body, res.Trailer, nil
}

// alive tells of every read that brought something.
type alive struct {
	r    io.Reader
	seen func()
}

func (a *alive) Read(b []byte) (int, error) {
	n, err := a.r.Read(b)
	if n > 0 {
		a.seen()
	}
	return n, err
}
