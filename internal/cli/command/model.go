package command

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ModelFiles gives the absolute path when what was typed as a model is a file;
// none: it is a name.
func ModelFiles(model string) ([]string, error) {
	path := model
	looksLikePath := strings.ContainsRune(model, os.PathSeparator) || strings.Contains(model, "/")
	isFile := false
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		isFile = looksLikePath || strings.EqualFold(filepath.Ext(path), ".gguf")
	}
	if isFile {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", model, err)
		}
		return []string{abs}, nil
	}
	// "org/name" may be a model id; "./x" and "/x" can only be files.
	if filepath.IsAbs(model) || strings.HasPrefix(model, ".") && looksLikePath {
		return nil, fmt.Errorf("there is no file %s; give the path of a .gguf file or a name of 'skein models list'", model)
	}
	return nil, nil
}
