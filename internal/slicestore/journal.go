package slicestore

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// entry is one line of the journal.
type entry struct {
	Block Block  `json:"block"`
	Sum   string `json:"sum"`
}

// openJournal reads what has arrived. A line cut off by a crash ends it: what
// it was about is fetched again.
func (f *fetch) openJournal() error {
	file, err := os.OpenFile(filepath.Join(f.dir, "journal"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.journal, f.have = file, map[Block]string{}
	var good int64
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadBytes('\n')
		var e entry
		if err != nil || json.Unmarshal(line, &e) != nil {
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read %s: %w", file.Name(), err)
			}
			break
		}
		f.have[e.Block] = e.Sum
		good += int64(len(line))
	}
	if err := file.Truncate(good); err != nil {
		return fmt.Errorf("prepare %s: %w", file.Name(), err)
	}
	if _, err := file.Seek(good, io.SeekStart); err != nil {
		return fmt.Errorf("prepare %s: %w", file.Name(), err)
	}
	return nil
}

// note writes down that a block is here.
func (f *fetch) note(b Block, sum string) error {
	line, err := json.Marshal(entry{b, sum})
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have[b] = sum
	if _, err := f.journal.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}
