package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// guestConfig is how machines that are on are played by qemu.
type guestConfig struct {
	// Kernel, Initrd and Cmdline boot a guest directly; without a kernel it boots from its disk.
	Kernel  string `json:"kernel"`
	Initrd  string `json:"initrd"`
	Cmdline string `json:"cmdline"`
	// Addresses are where each machine's port 22 is reached, by the MAC address of one of its cards.
	Addresses map[string]string `json:"addresses"`
	// Only leaves machines without such an address without a guest: their power is a mere state.
	Only bool `json:"only"`
	// Tools lets guests be asked to shut down: the power button does what VMware Tools would do inside.
	Tools bool `json:"tools"`
}

// guestPlan is what a machine's configuration says of the hardware.
type guestPlan struct {
	name, firmware, variables, address string
	memory, cpus                       int32
	cards, disks                       []string
}

// guests are the qemu processes behind machines that are on. A nil *guests has none, and power is then a mere state.
type guests struct {
	config    *guestConfig
	directory string
	spawn     chan func()

	mutex   sync.Mutex
	number  int
	running map[types.ManagedObjectReference]*guest
}

type guest struct {
	command *exec.Cmd
	monitor net.Conn
	ended   chan struct{}
}

const startPatience = 30 * time.Second

func newGuests(c config) *guests {
	if c.Guests == nil {
		return nil
	}
	made := &guests{
		config:    c.Guests,
		directory: c.Directory,
		spawn:     make(chan func()),
		running:   make(map[types.ManagedObjectReference]*guest),
	}
	// The kernel ends a child with the thread that made it, where that is asked for. So one thread makes them all.
	go func() {
		runtime.LockOSThread()
		for start := range made.spawn {
			start()
		}
	}()
	return made
}

// consoleFile is where a machine's serial console is written, over all its boots.
func consoleFile(directory, name string) string {
	return filepath.Join(directory, "console-"+strings.ReplaceAll(name, "/", "_"))
}

func (g *guests) start(reference types.ManagedObjectReference, plan guestPlan, exited func()) error {
	if g == nil || g.config.Only && g.addressOf(plan) == "" {
		return nil
	}
	if len(plan.disks) == 0 {
		return errors.New("there is no disk to boot from")
	}
	g.mutex.Lock()
	g.number++
	socket := filepath.Join(g.directory, fmt.Sprintf("monitor-%d", g.number))
	g.mutex.Unlock()
	arguments, err := g.arguments(plan, socket)
	if err != nil {
		return err
	}
	command := exec.Command("qemu-system-x86_64", arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	command.Stderr = &said
	result := make(chan error)
	g.spawn <- func() { result <- command.Start() }
	if err := <-result; err != nil {
		return fmt.Errorf("qemu does not start: %w", err)
	}
	log.Printf("guest %s: qemu-system-x86_64 %s", plan.name, strings.Join(arguments, " "))
	made := &guest{command: command, ended: make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(made.ended)
	}()
	if made.monitor, err = greet(socket, made.ended); err != nil {
		_ = command.Process.Kill()
		<-made.ended
		return fmt.Errorf("qemu does not start: %w: %s", err, said.String())
	}
	g.mutex.Lock()
	g.running[reference] = made
	g.mutex.Unlock()
	go func() {
		<-made.ended
		exited()
	}()
	return nil
}

// greet waits for the monitor's prompt, which comes once the whole machine is there, its forwarded ports included.
func greet(socket string, ended chan struct{}) (net.Conn, error) {
	for deadline := time.Now().Add(startPatience); time.Now().Before(deadline); {
		select {
		case <-ended:
			return nil, errors.New("it ended")
		default:
		}
		connection, err := net.Dial("unix", socket)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		_ = connection.SetReadDeadline(deadline)
		var seen []byte
		part := make([]byte, 256)
		for !bytes.Contains(seen, []byte("(qemu)")) {
			count, err := connection.Read(part)
			if err != nil {
				connection.Close()
				return nil, err
			}
			seen = append(seen, part[:count]...)
		}
		_ = connection.SetReadDeadline(time.Time{})
		go func() { _, _ = io.Copy(io.Discard, connection) }()
		return connection, nil
	}
	return nil, errors.New("its monitor does not answer")
}

// arguments make qemu's machine of a plan. Its devices are virtio's, whatever the plan's are called: the guests of these
// tests have no drivers for VMware's.
func (g *guests) arguments(plan guestPlan, socket string) ([]string, error) {
	arguments := []string{
		"-accel", "tcg", "-machine", "pc", "-cpu", "max", "-display", "none", "-no-user-config", "-nodefaults",
		"-vga", "std", // grub waits for good on a machine without a screen
		"-smp", fmt.Sprint(plan.cpus), "-m", fmt.Sprint(plan.memory),
		"-monitor", "unix:" + socket + ",server=on,wait=off",
		"-chardev", "file,id=console,append=on,path=" + consoleFile(g.directory, plan.name),
		"-serial", "chardev:console",
		"-device", "virtio-rng-pci",
	}
	for _, disk := range plan.disks {
		arguments = append(arguments, "-drive",
			"if=virtio,format=raw,cache=unsafe,file="+strings.ReplaceAll(disk, ",", ",,"))
	}
	address := g.addressOf(plan)
	for at, card := range plan.cards {
		network := fmt.Sprintf("user,id=n%d", at)
		if at == 0 && address != "" {
			network += ",hostfwd=tcp:" + address + ":22-:22"
		}
		arguments = append(arguments, "-netdev", network,
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=%s,romfile=", at, card))
	}
	if g.config.Kernel != "" {
		arguments = append(arguments,
			"-kernel", g.config.Kernel, "-initrd", g.config.Initrd, "-append", g.config.Cmdline)
	} else if plan.firmware == string(types.GuestOsDescriptorFirmwareTypeEfi) {
		if err := keepVariables(plan.variables); err != nil {
			return nil, err
		}
		arguments = append(arguments,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,format=raw,unit=1,file="+strings.ReplaceAll(plan.variables, ",", ",,"))
	}
	return arguments, nil
}

// addressOf is where a machine's port 22 is reached, if anywhere.
func (g *guests) addressOf(plan guestPlan) string {
	address := plan.address
	for _, card := range plan.cards {
		for wanted, at := range g.config.Addresses {
			if address == "" && strings.EqualFold(wanted, card) {
				address = at
			}
		}
	}
	return address
}

// keepVariables gives a machine firmware variables at its first boot; the simulator made an empty file for them.
func keepVariables(file string) error {
	if state, err := os.Stat(file); err == nil && state.Size() > 0 {
		return nil
	}
	empty, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		return err
	}
	return os.WriteFile(file, empty, 0o600)
}

func (g *guests) find(reference types.ManagedObjectReference) *guest {
	if g == nil {
		return nil
	}
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.running[reference]
}

func (g *guests) runs(reference types.ManagedObjectReference) bool { return g.find(reference) != nil }

func (g *guests) hasTools(reference types.ManagedObjectReference) bool {
	return g.runs(reference) && g.config.Tools
}

// forget is told that a guest ended, and says whether it was expected to run.
func (g *guests) forget(reference types.ManagedObjectReference) bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	found, ok := g.running[reference]
	if !ok {
		return false
	}
	select {
	case <-found.ended:
	default:
		return false // another one runs since
	}
	_ = found.monitor.Close()
	delete(g.running, reference)
	return true
}

// stop pulls the plug and waits until the guest is gone.
func (g *guests) stop(reference types.ManagedObjectReference) {
	found := g.find(reference)
	if found == nil {
		return
	}
	g.mutex.Lock()
	delete(g.running, reference)
	g.mutex.Unlock()
	_ = found.command.Process.Kill()
	<-found.ended
	_ = found.monitor.Close()
}

func (g *guests) stopAll() {
	if g == nil {
		return
	}
	g.mutex.Lock()
	var all []types.ManagedObjectReference
	for reference := range g.running {
		all = append(all, reference)
	}
	g.mutex.Unlock()
	for _, reference := range all {
		g.stop(reference)
	}
}

// tell gives a guest's machine a command of qemu's monitor; without guests there is nobody to tell.
func (g *guests) tell(reference types.ManagedObjectReference, command string) error {
	found := g.find(reference)
	if found == nil {
		return nil
	}
	_, err := fmt.Fprintf(found.monitor, "%s\n", command)
	return err
}
