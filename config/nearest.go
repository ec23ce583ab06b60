package config

import (
	"slices"
	"strings"
)

// didYouMean is the mend for a name that is not among known: the nearest one, or all when none is near.
func didYouMean(name string, known []string) string {
	best, distance := nearest(name, known)
	if best == "" {
		return ""
	}
	if distance <= max(2, len(name)/2) {
		return "did you mean " + best + "?"
	}
	return "known here: " + strings.Join(known, ", ")
}

// nearest is the known name with the fewest edits from name.
func nearest(name string, known []string) (best string, distance int) {
	for _, k := range known {
		if d := edits(strings.ToLower(name), strings.ToLower(k)); best == "" || d < distance {
			best, distance = k, d
		}
	}
	return best, distance
}

// edits is the number of letters inserted, removed, replaced or swapped with their neighbour between two words.
func edits(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := slices.Repeat([]int{i}, len(b)+1)
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
