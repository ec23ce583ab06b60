package hmac

import (
	"encoding/base64"
	"strconv"
	"strings"
)

// Headers of the standard-webhooks scheme.
const (
	WebhookID        = "Webhook-Id"
	WebhookTimestamp = "Webhook-Timestamp"
	WebhookSignature = "Webhook-Signature" // v1,<base64> per secret, separated by spaces
)

func (k *Keys) signWebhook(c *Call, unix int64) ([]Field, error) {
	if c.ID == "" || strings.Contains(c.ID, ".") || hasControl(c.ID) {
		return nil, ErrUnsignable
	}
	signatures := make([]string, 0, len(k.keys))
	for _, key := range k.keys {
		sum := key.signer.sumWebhook(c.ID, unix, c.Body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(sum[:]))
	}
	return []Field{
		{WebhookID, c.ID},
		{WebhookTimestamp, strconv.FormatInt(unix, 10)},
		{WebhookSignature, strings.Join(signatures, " ")},
	}, nil
}

// sumWebhook signs id.timestamp.body without copying the body.
func (s *Signer) sumWebhook(id string, unix int64, body []byte) [32]byte {
	st := s.get()
	st.buf = append(append(st.buf, id...), '.')
	st.buf = append(strconv.AppendInt(st.buf, unix, 10), '.')
	st.hash.Write(st.buf)
	st.hash.Write(body)
	return s.put(st)
}
