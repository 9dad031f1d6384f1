module github.com/skein-run/skein

go 1.26
