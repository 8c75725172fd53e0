package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// machineFacts is what a test sees of a machine without asking the API.
type machineFacts struct {
	Name     string   `json:"name"`
	ID       string   `json:"id"`
	Power    string   `json:"power"`
	Template bool     `json:"template"`
	Path     string   `json:"path"`
	Macs     []string `json:"macs"`
	Disks    []string `json:"disks"`
	Console  string   `json:"console"`
}

// serveControl listens on a socket of the test's own: what a test orders is no part of what clients see.
func (f *front) serveControl(socket string) (net.Listener, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/vcsim-fault", f.controlFaults)
	mux.HandleFunc("/calls", func(w http.ResponseWriter, r *http.Request) {
		f.calls.mutex.Lock()
		defer f.calls.mutex.Unlock()
		if r.Method == http.MethodDelete {
			f.calls.list = nil
		}
		writeJSON(w, append([]call{}, f.calls.list...))
	})
	mux.HandleFunc("/machines", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, f.machineFacts()) })
	mux.HandleFunc("/sessions", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			f.sessions.dropAll()
		}
		f.sessions.mutex.Lock()
		defer f.sessions.mutex.Unlock()
		writeJSON(w, len(f.sessions.live))
	})
	mux.HandleFunc("/task-time", func(w http.ResponseWriter, r *http.Request) {
		milliseconds, err := strconv.ParseInt(r.URL.Query().Get("milliseconds"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.times.set(r.URL.Query().Get("method"), time.Duration(milliseconds)*time.Millisecond)
		writeJSON(w, true)
	})
	go func() { _ = (&http.Server{Handler: mux}).Serve(listener) }()
	return listener, nil
}

// controlFaults takes orders (POST: JSON, or METHOD:FAULT:TIMES) and forgets those not yet played (DELETE).
func (f *front) controlFaults(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodDelete {
		f.faults.clear()
		writeJSON(w, true)
		return
	}
	text, err := io.ReadAll(r.Body)
	if err == nil {
		var made []*fault
		if made, err = parseFaults(text); err == nil {
			f.faults.add(made...)
			writeJSON(w, true)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

func (f *front) machineFacts() []machineFacts {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	all := []machineFacts{}
	for _, machine := range machines() {
		plan := f.planOf(machine)
		all = append(all, machineFacts{
			Name:     machine.Name,
			ID:       machine.Self.Value,
			Power:    string(machine.Runtime.PowerState),
			Template: machine.Config.Template,
			Path:     machine.Config.Files.VmPathName,
			Macs:     append([]string{}, plan.cards...),
			Disks:    append([]string{}, disksOf(machine)...),
			Console:  consoleFile(f.config.Directory, machine.Name),
		})
	}
	return all
}

func writeJSON(w http.ResponseWriter, value interface{}) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}
