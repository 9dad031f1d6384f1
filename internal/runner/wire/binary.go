package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// TokenizeRequest turns text into token ids.
type TokenizeRequest struct {
	Text         string
	AddSpecial   bool // add BOS and the like, as the model wants
	ParseSpecial bool // read control tokens written out in the text
}

// AppendTokenize encodes r: one flag byte, then the text.
func AppendTokenize(b []byte, r TokenizeRequest) []byte {
	var flags byte
	if r.AddSpecial {
		flags |= 1
	}
	if r.ParseSpecial {
		flags |= 2
	}
	return append(append(b, flags), r.Text...)
}

// DecodeTokenize is the inverse of AppendTokenize.
func DecodeTokenize(b []byte) (TokenizeRequest, error) {
	if len(b) == 0 || b[0] > 3 {
		return TokenizeRequest{}, fmt.Errorf("%w: tokenize request", ErrFrame)
	}
	return TokenizeRequest{Text: string(b[1:]), AddSpecial: b[0]&1 != 0, ParseSpecial: b[0]&2 != 0}, nil
}

// AppendIDs encodes token ids, four bytes each, little endian.
func AppendIDs(b []byte, ids []int32) []byte {
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return b
}

// DecodeIDs is the inverse of AppendIDs.
func DecodeIDs(b []byte) ([]int32, error) {
	if len(b)%4 != 0 {
		return nil, fmt.Errorf("%w: %d bytes of token ids", ErrFrame, len(b))
	}
	ids := make([]int32, len(b)/4)
	for i := range ids {
		ids[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return ids, nil
}

// AppendToken encodes one token of a Step frame's body: varint generation id,
// varint token, length-prefixed piece, a flag byte, then with flag 1 the
// logprob and the candidates.
func AppendToken(b []byte, t *Token) []byte {
	b = binary.AppendUvarint(b, t.ID)
	b = binary.AppendUvarint(b, uint64(uint32(t.Token)))
	b = appendBytes(b, t.Piece)
	if !t.HasLogprob {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.LittleEndian.AppendUint32(b, math.Float32bits(t.Logprob))
	b = binary.AppendUvarint(b, uint64(len(t.Top)))
	for i := range t.Top {
		b = binary.AppendUvarint(b, uint64(uint32(t.Top[i].Token)))
		b = appendBytes(b, t.Top[i].Piece)
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(t.Top[i].Logprob))
	}
	return b
}

func appendBytes(b, p []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(b, p...)
}

// DecodeTokens reads a Step frame's body and calls f for each token. Slices
// in a Token point into body.
func DecodeTokens(body []byte, f func(Token)) error {
	d := decoder{b: body}
	for len(d.b) > 0 && d.err == nil {
		t := Token{ID: d.uvarint(), Token: d.token(), Piece: d.bytes()}
		switch flag := d.byte(); flag {
		case 0:
		case 1:
			t.HasLogprob = true
			t.Logprob = d.float()
			n := d.uvarint()
			if n > uint64(len(d.b)) { // each candidate takes at least one byte
				d.fail()
				break
			}
			for range n {
				c := TokenLogprob{Token: d.token(), Piece: d.bytes(), Logprob: d.float()}
				if d.err != nil {
					break
				}
				t.Top = append(t.Top, c)
			}
		default:
			d.fail()
		}
		if d.err == nil {
			f(t)
		}
	}
	return d.err
}

// decoder consumes b; after the first fault every read gives zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = fmt.Errorf("%w: step body", ErrFrame)
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) token() int32 {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.fail()
		return 0
	}
	return int32(uint32(v))
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) float() float32 {
	if len(d.b) < 4 {
		d.fail()
		return 0
	}
	v := math.Float32frombits(binary.LittleEndian.Uint32(d.b))
	d.b = d.b[4:]
	return v
}

// AppendLogits writes the body of a Logits frame: the token that was fed, and the
// row that came of it.
func AppendLogits(b []byte, token int32, row []float32) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(token))
	for _, v := range row {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// DecodeLogits reads what AppendLogits wrote.
func DecodeLogits(b []byte) (token int32, row []float32, err error) {
	if len(b) < 4 || len(b)%4 != 0 {
		return 0, nil, fmt.Errorf("%w: %d bytes of logits", ErrFrame, len(b))
	}
	row = make([]float32, len(b)/4-1)
	for i := range row {
		row[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4+4*i:]))
	}
	return int32(binary.LittleEndian.Uint32(b)), row, nil
}
