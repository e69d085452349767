// The checker of histories: tests/tests/linearizable.rs builds and runs it.
// Raise the version with `go get github.com/anishathalye/porcupine@<version>`.
module linearizable

go 1.25.0

require github.com/anishathalye/porcupine v1.3.1
