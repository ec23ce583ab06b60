package api

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/listen"
)

// Bodies are kept in memory, and a sender may take its time. All requests together hold no more than this of them; one
// that finds no room within bodyPatience is told 429. The beginnings have room of their own, so that large bodies
// that stall do not stop check-lock.
const (
	smallBody    = 64 << 10 // of a body this much is its beginning
	smallRoom    = 16 << 20 // of the beginnings
	largeRoom    = 32 << 20 // of the rest
	bodyPatience = time.Second
)

// rooms are what bodies share.
type rooms struct{ small, large listen.Room }

var errNoRoom = errors.New("the bodies of other requests fill the room that there is for them")

// held is a body that takes room for what it yields.
type held struct {
	io.ReadCloser
	rooms        *rooms
	small, large int64
}

func (b *held) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	small := min(int64(n), smallBody-b.small)
	large := int64(n) - small
	if small > 0 && !b.rooms.small.Take(small, smallRoom, bodyPatience) {
		return 0, errNoRoom
	}
	b.small += small
	if large > 0 && !b.rooms.large.Take(large, largeRoom, bodyPatience) {
		return 0, errNoRoom
	}
	b.large += large
	return n, err
}

func (b *held) release() {
	b.rooms.small.Give(b.small)
	b.rooms.large.Give(b.large)
}

// holding has the bodies of requests share the rooms until they are answered.
func (k *rooms) holding(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &held{ReadCloser: r.Body, rooms: k}
		defer b.release()
		r.Body = b
		next.ServeHTTP(w, r)
	})
}

// bodyOf reads a body of at most limit bytes. It answers for itself when ok is false.
func bodyOf(w http.ResponseWriter, r *http.Request, limit int64) (data []byte, ok bool) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	tooLarge := new(http.MaxBytesError)
	switch {
	case err == nil:
		return data, true
	case errors.As(err, &tooLarge):
		fail(w, http.StatusRequestEntityTooLarge, problem{"request_too_large", "the body may have " + strconv.FormatInt(limit, 10) + " bytes"})
	case errors.Is(err, errNoRoom):
		tooMany(w, 1, errNoRoom.Error()+"; nothing has changed")
	default:
		fail(w, http.StatusBadRequest, problem{"bad_request", "the body could not be read"})
	}
	return nil, false
}
