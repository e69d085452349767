package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checked writes the lines as a history and checks it.
func checked(t *testing.T, lines ...string) (int, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, err := check(path)
	return code, path, err
}

func expect(t *testing.T, want int, lines ...string) string {
	t.Helper()
	code, path, err := checked(t, lines...)
	if err != nil || code != want {
		t.Fatalf("exit code %d (%v), want %d", code, err, want)
	}
	return path
}

const first = `{"client":0,"call":1,"return":2,"op":"write","key":"a","value":"x","version":1,"outcome":"ok"}`
const second = `{"client":0,"call":3,"return":4,"op":"write","key":"a","value":"y","version":2,"outcome":"ok"}`

func TestReadsOfWhatWasWrittenAreLinearizable(t *testing.T) {
	expect(t, 0,
		`{"client":1,"call":0,"return":1,"op":"read","key":"a","value":"","version":0,"outcome":"ok"}`,
		first, second,
		`{"client":1,"call":3,"return":9,"op":"read","key":"a","value":"x","version":1,"outcome":"ok"}`,
		`{"client":2,"call":5,"return":6,"op":"read","key":"a","value":"y","version":2,"outcome":"ok"}`,
		`{"client":2,"call":7,"return":8,"op":"read","key":"b","value":"","version":0,"outcome":"ok"}`)
}

func TestAStaleReadIsFoundAndShown(t *testing.T) {
	path := expect(t, 1, first, second,
		`{"client":1,"call":5,"return":6,"op":"read","key":"a","value":"x","version":1,"outcome":"ok"}`)
	if page, err := os.ReadFile(path + ".html"); err != nil || len(page) == 0 {
		t.Fatalf("no page beside the history: %v", err)
	}
}

func TestALostWriteIsFound(t *testing.T) {
	expect(t, 1, first,
		`{"client":1,"call":3,"return":4,"op":"read","key":"a","value":"","version":0,"outcome":"ok"}`)
}

func TestTwoWritesOfOneVersionAreFound(t *testing.T) {
	expect(t, 1, first,
		`{"client":1,"call":1,"return":4,"op":"write","key":"a","value":"y","version":1,"outcome":"ok"}`)
}

func TestAWriteWithoutAnOutcomeMayHappenLaterOrNever(t *testing.T) {
	unknown := `{"client":0,"call":3,"return":4,"op":"write","key":"a","value":"y","version":0,"outcome":"unknown"}`
	seen := func(value, version, call, end string) string {
		return `{"client":1,"call":` + call + `,"return":` + end + `,"op":"read","key":"a","value":"` + value +
			`","version":` + version + `,"outcome":"ok"}`
	}
	expect(t, 0, first, unknown, seen("x", "1", "8", "9"))
	expect(t, 0, first, unknown, seen("x", "1", "8", "9"), seen("y", "2", "10", "11"))
	expect(t, 1, first, unknown, seen("y", "2", "8", "9"), seen("x", "1", "10", "11"))
}

func TestARefusedWriteHasNotHappened(t *testing.T) {
	refused := `{"client":0,"call":3,"return":4,"op":"write","key":"a","value":"y","version":0,"outcome":"refused"}`
	expect(t, 1, first, refused,
		`{"client":1,"call":5,"return":6,"op":"read","key":"a","value":"y","version":2,"outcome":"ok"}`)
}

func TestAHistoryThatSaysNothingIsNoProof(t *testing.T) {
	for _, line := range []string{
		`{"client":0,"call":1,"return":2,"op":"read","key":"a","outcome":"unknown"}`,
		`{"client":0,"call":1,"return":2,"op":"erase","key":"a","outcome":"ok"}`,
		`{"client":0,"call":1,"return":2,"op":"read","key":"a","outcome":"maybe"}`,
		`{"client":0,"call":2,"return":1,"op":"read","key":"a","outcome":"ok"}`,
		`not json`,
	} {
		if code, _, err := checked(t, line); err == nil || code != 2 {
			t.Errorf("%s: exit code %d without an error", line, code)
		}
	}
}
