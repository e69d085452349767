package main

import (
	"fmt"
	"sort"

	"github.com/anishathalye/porcupine"
)

type input struct {
	key   string
	write bool
	value string
}

type output struct {
	known   bool
	value   string
	version uint64
}

// register is what stands under a key. A write is compare-and-set by version inside of the server: it makes the next
// version of the one that it has seen, so two writes with one version, or a version that is left out, are as wrong as an
// old value.
type register struct {
	version uint64
	value   string
}

// registers is one register for each key.
var registers = porcupine.Model{
	Partition: byKey,
	Init:      func() interface{} { return register{} },
	Step: func(state, in, out interface{}) (bool, interface{}) {
		return step(state.(register), in.(input), out.(output))
	},
	DescribeOperation: func(in, out interface{}) string { return describe(in.(input), out.(output)) },
	DescribeState: func(state interface{}) string {
		now := state.(register)
		return fmt.Sprintf("%d: %q", now.version, now.value)
	},
}

func step(now register, in input, out output) (bool, register) {
	if !in.write {
		return out.value == now.value && out.version == now.version, now
	}
	next := register{version: now.version + 1, value: in.value}
	return !out.known || out.version == next.version, next
}

func describe(in input, out output) string {
	switch {
	case !in.write:
		return fmt.Sprintf("read %s: %d %q", in.key, out.version, out.value)
	case out.known:
		return fmt.Sprintf("write %s %q: %d", in.key, in.value, out.version)
	default:
		return fmt.Sprintf("write %s %q: unknown", in.key, in.value)
	}
}

func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	keys := make(map[string][]porcupine.Operation)
	for _, op := range history {
		key := op.Input.(input).key
		keys[key] = append(keys[key], op)
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	sort.Strings(names)
	parts := make([][]porcupine.Operation, 0, len(names))
	for _, name := range names {
		parts = append(parts, keys[name])
	}
	return parts
}
