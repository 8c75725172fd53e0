// Command vcsim is a vCenter or a standalone ESXi host for tests: govmomi's simulator, as Debian packages it, behind a
// front of our own.
//
// The simulator answers the API and keeps the inventory. The front (this program) is there because the simulator is
// kinder than the servers that it stands for. What it changes, file by file:
//
//   - front.go: sessions that expire, calls that a session is needed for, what an ESXi host does not support, a
//     licence that allows reading only, faults ordered by a test; soap.go: answers, and the order of a request's
//     elements;
//   - tasks.go: tasks that take their time, tell their progress, can be called off and outlive their session;
//   - machines.go, clone.go, disks.go: disks with bytes in them, clones that are copies, files that are locked while a machine is on;
//   - files.go: the datastore's HTTP, with authentication, ranges and broken transfers;
//   - power.go, guests.go: a machine that is powered on is a qemu that runs from the machine's own disk.
//
// Its configuration is one line of JSON on standard input, and it ends when that ends, so that it cannot outlive the
// test that started it. What a client needs to reach it is one line of JSON on standard output. A test steers it by
// control.go's socket.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// config is what a test orders at the start.
type config struct {
	// Esx makes it a standalone host; otherwise it is a vCenter.
	Esx bool `json:"esx"`
	// Directory is where everything is kept: datastores, the certificate, consoles, the control socket.
	Directory string `json:"directory"`
	User      string `json:"user"`
	Password  string `json:"password"`
	// Idle is after how many milliseconds without a call a session expires; 0 is never.
	Idle int64 `json:"idle"`
	// TaskTime is how many milliseconds a task takes at least.
	TaskTime int64 `json:"task_time"`
	// PutRange is what a PUT with Content-Range meets: refused, ignored or honoured.
	PutRange string `json:"put_range"`
	// Capacity of each datastore in bytes; 0 is that of the file system.
	Capacity int64 `json:"capacity"`
	// ReadOnly is a licence that forbids every change.
	ReadOnly   bool     `json:"read_only"`
	Datastores int      `json:"datastores"`
	Faults     []*fault `json:"faults"`
	// Guests is what boots when a machine is powered on; without it nothing does.
	Guests *guestConfig `json:"guests"`
}

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("no configuration on standard input: %w", err)
	}
	var c config
	if err := json.Unmarshal(line, &c); err != nil {
		return err
	}
	for _, one := range c.Faults {
		if err := one.check(); err != nil {
			return err
		}
	}
	// The simulator puts its datastores into temporary directories.
	if err := os.Setenv("TMPDIR", c.Directory); err != nil {
		return err
	}

	model := simulator.VPX()
	if c.Esx {
		model = simulator.ESX()
	}
	model.Autostart = false
	model.Machine = 0
	model.Datastore = c.Datastores
	if err := model.Create(); err != nil {
		return err
	}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(c.User, c.Password)}
	// The simulator's own server takes what ours refuses. Its handlers are wanted, its listener is not.
	model.Service.NewServer().Close()

	f := newFront(c, model.Service)
	identity, err := newIdentity(filepath.Join(c.Directory, "ca.pem"))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:      f,
		TLSConfig:    identity.config(),
		TLSNextProto: identity.noHTTP2(),
		// What goes wrong in TLS is a test's intention as often as not.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	control, err := f.serveControl(filepath.Join(c.Directory, "control"))
	if err != nil {
		return err
	}
	facts, err := json.Marshal(map[string]interface{}{
		"address":    listener.Addr().String(),
		"sha1":       identity.sha1,
		"sha256":     identity.sha256,
		"datastores": f.datastores,
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Printf("%s\n", facts); err != nil {
		return err
	}
	go func() {
		if err := server.ServeTLS(listener, "", ""); err != nil {
			log.Fatal(err)
		}
	}()

	// Until standard input ends, which it does with the test's process, however that ends.
	_, _ = io.Copy(io.Discard, input)
	_ = control.Close()
	f.guests.stopAll()
	model.Remove()
	return nil
}

func newFront(c config, service *simulator.Service) *front {
	f := &front{
		config:     c,
		service:    service,
		datastores: make(map[string]string),
		sessions:   sessions{idle: time.Duration(c.Idle) * time.Millisecond, live: make(map[string]*session)},
		times:      taskTimes{times: map[string]time.Duration{"*": time.Duration(c.TaskTime) * time.Millisecond}},
	}
	f.guests = newGuests(c)
	f.faults.add(c.Faults...)
	var references []types.ManagedObjectReference
	for _, entity := range simulator.Map.All("Datastore") {
		datastore := entity.(*simulator.Datastore)
		f.datastores[datastore.Name] = datastore.Info.GetDatastoreInfo().Url
		references = append(references, datastore.Self)
	}
	if c.Esx {
		// The simulator's standalone host names a datastore that it does not have.
		for _, entity := range simulator.Map.All("Datacenter") {
			entity.(*simulator.Datacenter).Datastore = references
		}
	}
	f.refreshSpace()
	return f
}
