package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
)

func newInit(a *app) *cobra.Command {
	var out string
	var force bool
	cmd := &cobra.Command{
		Use: "init", Short: "Write a commented starter configuration", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := config.Starter(os.Environ())
			if err != nil {
				return err
			}
			if out == "-" {
				_, err := fmt.Fprint(a.stdout, text)
				return err
			}
			path, err := writeStarter(out, text, force)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "wrote %s\nnext: oo-sidecar check %[1]s && oo-sidecar serve --config %[1]s\n", path)
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", config.Search[0], "file or directory to write to; - for standard output")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite the file if it exists")
	return cmd
}

// writeStarter writes the file, which nobody else may read: secrets may be put into it.
func writeStarter(path, text string, force bool) (string, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, config.Search[0])
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, mode, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return path, fmt.Errorf("%s exists; --force overwrites it, --out FILE writes elsewhere", path)
	}
	if err != nil {
		return path, err
	}
	_, err = f.WriteString(text)
	return path, errors.Join(err, f.Close())
}
