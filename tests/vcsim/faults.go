package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// fault is a disturbance that a test orders for the next calls of a method.
type fault struct {
	// Method is a SOAP method's name, "PUT", "GET", "HEAD" or "DELETE" for the datastore's HTTP, or "*".
	Method string `json:"method"`
	// Kind is one of the kinds below.
	Kind string `json:"kind"`
	// Name is the API's fault, for soap and task.
	Name string `json:"name,omitempty"`
	// Bytes, for drop: how much of an upload or a download passes before the connection is cut.
	Bytes int64 `json:"bytes,omitempty"`
	// Status, for status: the answer's HTTP status.
	Status int `json:"status,omitempty"`
	// Skip is how many calls go undisturbed first.
	Skip int `json:"skip,omitempty"`
	// Times is how many calls are disturbed after that; 0 means all.
	Times int `json:"times,omitempty"`

	left int
}

const (
	kindSoap   = "soap"   // the call answers a SOAP fault and does nothing
	kindTask   = "task"   // the call answers a task, which fails half way
	kindDrop   = "drop"   // the connection is cut before anything is done, or in the middle of a transfer
	kindLose   = "lose"   // all is done, then the connection is cut in place of the answer
	kindExpire = "expire" // all is done and answered, then every session is gone
	kindStatus = "status" // HTTP status in place of the transfer
)

// parseFault reads the short form METHOD:FAULT[:TIMES], where FAULT is an API's fault, `drop`, `lose` or `expire`.
// The fault of a method that answers a task is the task's.
func parseFault(text string) (*fault, error) {
	words := strings.Split(text, ":")
	if len(words) < 2 || len(words) > 3 {
		return nil, fmt.Errorf("%q is not METHOD:FAULT[:TIMES]", text)
	}
	made := &fault{Method: words[0], Kind: words[1], Times: 1}
	switch words[1] {
	case kindDrop, kindLose, kindExpire:
	default:
		made.Kind, made.Name = kindSoap, words[1]
		if strings.HasSuffix(made.Method, "_Task") {
			made.Kind = kindTask
		}
	}
	if len(words) == 3 {
		times, err := strconv.Atoi(words[2])
		if err != nil {
			return nil, fmt.Errorf("%q is no number of times", words[2])
		}
		made.Times = times
	}
	return made, made.check()
}

// parseFaults reads a JSON object, a JSON array or the short form.
func parseFaults(text []byte) ([]*fault, error) {
	trimmed := strings.TrimSpace(string(text))
	var made []*fault
	switch {
	case strings.HasPrefix(trimmed, "["):
		if err := json.Unmarshal(text, &made); err != nil {
			return nil, err
		}
	case strings.HasPrefix(trimmed, "{"):
		one := new(fault)
		if err := json.Unmarshal(text, one); err != nil {
			return nil, err
		}
		made = append(made, one)
	default:
		for _, word := range strings.Split(trimmed, ",") {
			one, err := parseFault(word)
			if err != nil {
				return nil, err
			}
			made = append(made, one)
		}
	}
	for _, one := range made {
		if err := one.check(); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func (f *fault) check() error {
	if f.Method == "" {
		return fmt.Errorf("a fault names the method that it disturbs")
	}
	switch f.Kind {
	case kindSoap, kindTask:
		_, err := faultNamed(f.Name)
		return err
	case kindDrop, kindLose, kindExpire:
		return nil
	case kindStatus:
		if f.Status < 400 || f.Status > 599 {
			return fmt.Errorf("%d is no status of a failure", f.Status)
		}
		return nil
	}
	return fmt.Errorf("no kind of fault %q", f.Kind)
}

// faults are those that have been ordered and not yet played.
type faults struct {
	mutex sync.Mutex
	list  []*fault
}

func (fs *faults) add(made ...*fault) {
	fs.mutex.Lock()
	defer fs.mutex.Unlock()
	for _, one := range made {
		one.left = one.Times
		if one.Times == 0 {
			one.left = -1
		}
		fs.list = append(fs.list, one)
	}
}

func (fs *faults) clear() {
	fs.mutex.Lock()
	defer fs.mutex.Unlock()
	fs.list = nil
}

// take is the fault that this call of `method` gets, if any. The one ordered first is played first.
func (fs *faults) take(method string) *fault {
	fs.mutex.Lock()
	defer fs.mutex.Unlock()
	for at, one := range fs.list {
		if one.Method != method && one.Method != "*" {
			continue
		}
		if one.Skip > 0 {
			one.Skip--
			continue
		}
		if one.left > 0 {
			one.left--
		}
		if one.left == 0 {
			fs.list = append(fs.list[:at:at], fs.list[at+1:]...)
		}
		return one
	}
	return nil
}
