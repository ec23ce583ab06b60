package audit

import (
	"bufio"
	"io"
)

// Export writes what the query selects as JSON Lines, oldest first, without regard to Limit. It returns how many lines
// it wrote, also when an error ended it.
func Export(w io.Writer, q *Query, s Source) (lines int, err error) {
	out := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	err = q.Walk(s.Entries(q.first(s)), func(r Row) error {
		line = append(r.AppendExport(line[:0]), '\n')
		lines++
		_, err := out.Write(line)
		return err
	})
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	return lines, err
}
