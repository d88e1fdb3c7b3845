package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"
)

// burn keeps one core busy for so long.
func burn(duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
	return nil
}

// hold has so many MiB of memory in use for so long.
func hold(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%w: hold needs a number of MiB and a duration", errUsage)
	}
	mib, err := strconv.ParseUint(args[0], 10, 20)
	if err != nil {
		return fmt.Errorf("%w: %q is not a number of MiB below a million", errUsage, args[0])
	}
	memory := make([]byte, mib<<20)
	// A page that nobody wrote to is not there.
	for at := 0; at < len(memory); at += os.Getpagesize() {
		memory[at] = 1
	}
	err = sleep(args[1])
	runtime.KeepAlive(memory)
	return err
}
