package main

import (
	"syscall"
	"testing"
	"time"
)

func used(t *testing.T) (cpu time.Duration, peakKiB int64) {
	t.Helper()
	var rusage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &rusage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(rusage.Utime.Nano() + rusage.Stime.Nano()), rusage.Maxrss
}

func TestBurnKeepsACoreBusyForSoLong(t *testing.T) {
	before, _ := used(t)
	start := time.Now()
	if err := run([]string{"burn", "500ms"}, nil); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	// Others may want the core as well; whoever only waits uses less than one.
	if after, _ := used(t); took < 500*time.Millisecond || after-before < 5*time.Millisecond {
		t.Errorf("in %v it used %v", took, after-before)
	}
}

func TestHoldHasItsMemoryInUse(t *testing.T) {
	if err := run([]string{"hold", "64", "1ms"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, peak := used(t); peak < 64<<10 {
		t.Errorf("at most %d KiB were in use", peak)
	}
}
