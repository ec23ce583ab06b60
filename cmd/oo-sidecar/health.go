package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// newHealth is the probe for an image that has neither a shell nor curl.
func newHealth(a *app) *cobra.Command {
	var live bool
	var timeout, wait time.Duration
	cmd := &cobra.Command{
		Use: "health", Short: "Ask the running sidecar whether it is ready; exits with 1 when it is not", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.reach()
			if err != nil {
				return err
			}
			path := "/readyz?verbose"
			if live {
				path = "/livez"
			}
			for deadline := time.Now().Add(wait); ; {
				err = a.probe(cmd, dialable(cfg.Health.Listen), path, timeout)
				if err == nil || !time.Now().Before(deadline) {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return err
				case <-time.After(100 * time.Millisecond):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "ask only whether the process answers")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "how long to wait for the answer")
	cmd.Flags().DurationVar(&wait, "wait", 0, "ask again until it is well or this long has passed")
	return cmd
}

func (a *app) probe(cmd *cobra.Command, address, path string, timeout time.Duration) error {
	r, err := http.NewRequestWithContext(cmd.Context(), "GET", "http://"+address+path, nil)
	if err != nil {
		return err
	}
	resp, err := direct(timeout).Do(r)
	if err != nil {
		return unreachable(address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return unreachable(address, err)
	}
	said := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return exit{1, errors.New(said)}
	}
	_, err = fmt.Fprintln(a.stdout, said)
	return err
}
