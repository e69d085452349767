package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"

	"github.com/anishathalye/porcupine"
)

// An operation as a client has seen it; tests/src/history.rs writes it.
type operation struct {
	Client int    `json:"client"`
	Call   int64  `json:"call"`   // nanoseconds of a clock that all clients share
	Return int64  `json:"return"` // the same
	Op     string `json:"op"`     // read or write
	Key    string `json:"key"`
	// What was written, or read; empty: nothing was there.
	Value string `json:"value"`
	// How many writes there had been, this one included. 0: none.
	Version uint64 `json:"version"`
	// ok; refused: it has not happened; unknown: nobody knows, and it may happen yet.
	Outcome string `json:"outcome"`
}

// read gives the operations that say something.
func read(path string) ([]porcupine.Operation, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var history []porcupine.Operation
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, number, err)
		}
		counts, err := op.counts()
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, number, err)
		}
		if counts {
			history = append(history, op.observed())
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(history) == 0 {
		return nil, fmt.Errorf("%s has no operation with an outcome", path)
	}
	separate(history)
	return history, nil
}

// counts is false for what says nothing: writes that have not happened, and reads without an answer.
func (op operation) counts() (bool, error) {
	if op.Op != "read" && op.Op != "write" {
		return false, fmt.Errorf("there is no operation %q", op.Op)
	}
	switch op.Outcome {
	case "ok":
		if op.Return < op.Call {
			return false, fmt.Errorf("it returned before it was called")
		}
		return true, nil
	case "refused":
		return false, nil
	case "unknown":
		return op.Op == "write", nil
	default:
		return false, fmt.Errorf("there is no outcome %q", op.Outcome)
	}
}

// observed is the operation for the checker. What may happen at any time, or never, returns at the end of time: behind
// everything that was seen it makes no difference whether it has happened.
func (op operation) observed() porcupine.Operation {
	end := op.Return
	if op.Outcome == "unknown" {
		end = math.MaxInt64
	}
	return porcupine.Operation{
		ClientId: op.Client,
		Input:    input{key: op.Key, write: op.Op == "write", value: op.Value},
		Call:     op.Call,
		Output:   output{known: op.Outcome == "ok", value: op.Value, version: op.Version},
		Return:   end,
	}
}

// separate gives writes that may still happen a line of their own in the picture: their clients have gone on.
func separate(history []porcupine.Operation) {
	next := 0
	for _, op := range history {
		next = max(next, op.ClientId+1)
	}
	for i := range history {
		if history[i].Return == math.MaxInt64 {
			history[i].ClientId = next
			next++
		}
	}
}
