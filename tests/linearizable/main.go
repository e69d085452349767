// Command linearizable says whether a history of clients can be explained by one register for each key.
//
//	linearizable HISTORY.jsonl
//
// One line is one operation, see operation. Exit code 0: it can; 1: it cannot, and a page that shows where is written
// beside the history; 2: nobody knows, since the history cannot be read or the time has run out.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history of 20 s takes well under a second; one that takes so long has too many operations without an outcome.
const patience = 2 * time.Minute

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: linearizable HISTORY.jsonl")
		os.Exit(2)
	}
	code, err := check(os.Args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "linearizable: %v\n", err)
	}
	os.Exit(code)
}

func check(path string) (int, error) {
	history, err := read(path)
	if err != nil {
		return 2, err
	}
	result, info := porcupine.CheckOperationsVerbose(registers, history, patience)
	fmt.Printf("%s: %d operations that count: %s\n", path, len(history), verdict(result))
	switch result {
	case porcupine.Ok:
		return 0, nil
	case porcupine.Illegal:
		page := path + ".html"
		if err := porcupine.VisualizePath(registers, info, page); err != nil {
			return 1, fmt.Errorf("the history is not linearizable, and %s cannot be written: %w", page, err)
		}
		fmt.Printf("look at %s\n", page)
		return 1, nil
	default:
		return 2, fmt.Errorf("not decided within %s", patience)
	}
}

func verdict(result porcupine.CheckResult) string {
	switch result {
	case porcupine.Ok:
		return "linearizable"
	case porcupine.Illegal:
		return "NOT linearizable"
	default:
		return "not decided"
	}
}
