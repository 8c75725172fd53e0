package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const sector = 512

// descriptor is the text file `X.vmdk`, which names the file with the disk's bytes.
type descriptor struct {
	file    string // where it is here
	extent  string // where the bytes are here
	sectors int64
	thin    bool
}

// locate is where a datastore path, "[datastore] directory/file", lies on this machine.
func (f *front) locate(name string) (string, types.BaseMethodFault) {
	var parsed object.DatastorePath
	if !parsed.FromString(name) {
		return "", &types.InvalidDatastorePath{DatastorePath: name}
	}
	directory, ok := f.datastores[parsed.Datastore]
	if !ok {
		return "", &types.InvalidDatastorePath{
			InvalidDatastore: types.InvalidDatastore{Name: parsed.Datastore},
			DatastorePath:    name,
		}
	}
	return filepath.Join(directory, path.Clean("/"+parsed.Path)), nil
}

// datastoreOf is the name of the datastore in which a file of this machine is.
func (f *front) datastoreOf(file string) string {
	for name, directory := range f.datastores {
		if strings.HasPrefix(file, directory+"/") {
			return name
		}
	}
	return ""
}

func flatName(file string) string {
	return strings.TrimSuffix(file, ".vmdk") + "-flat.vmdk"
}

// readDescriptor reads what a host reads before it opens a disk, and refuses what a host refuses: sparse and streamed
// formats, a missing extent, an extent of another size than is said.
func (f *front) readDescriptor(name string) (*descriptor, types.BaseMethodFault) {
	file, fault := f.locate(name)
	if fault != nil {
		return nil, fault
	}
	opened, err := os.Open(file)
	if err != nil {
		return nil, &types.FileNotFound{FileFault: types.FileFault{File: name}}
	}
	defer opened.Close()
	text, err := io.ReadAll(io.LimitReader(opened, 64<<10))
	if err != nil {
		return nil, &types.FileFault{File: name}
	}
	bad := &types.InvalidDiskFormat{}
	if !bytes.HasPrefix(text, []byte("# Disk DescriptorFile")) {
		return nil, bad
	}
	read := &descriptor{file: file}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		switch {
		case strings.HasPrefix(line, "createType="):
			if line != `createType="vmfs"` {
				return nil, bad
			}
		case strings.HasPrefix(line, "RW "):
			words := strings.SplitN(line, " ", 4)
			if len(words) != 4 || words[2] != "VMFS" || read.extent != "" {
				return nil, bad
			}
			sectors, err := strconv.ParseInt(words[1], 10, 64)
			extent := strings.Trim(words[3], `"`)
			if err != nil || sectors <= 0 || extent == "" || strings.Contains(extent, "/") {
				return nil, bad
			}
			read.sectors, read.extent = sectors, filepath.Join(filepath.Dir(file), extent)
		case strings.HasPrefix(line, "ddb.thinProvisioned"):
			read.thin = strings.Contains(line, `"1"`)
		}
	}
	if read.extent == "" {
		return nil, bad
	}
	bytes, err := os.Stat(read.extent)
	if err != nil {
		return nil, &types.FileNotFound{FileFault: types.FileFault{File: path.Join(path.Dir(name), filepath.Base(read.extent))}}
	}
	if bytes.Size() != read.sectors*sector {
		return nil, bad
	}
	return read, nil
}

// writeDescriptor writes `file`, a descriptor of the flat file beside it.
func writeDescriptor(file string, sectors int64, thin bool) error {
	provisioned := ""
	if thin {
		provisioned = "ddb.thinProvisioned = \"1\"\n"
	}
	text := fmt.Sprintf(`# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
createType="vmfs"

# Extent description
RW %d VMFS "%s"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
%sddb.virtualHWVersion = "13"
`, sectors, filepath.Base(flatName(file)), sectors/(255*63), provisioned)
	return os.WriteFile(file, []byte(text), 0o600)
}

// copyDisk copies the disk `source` (a datastore path) to the descriptor `target` and a flat file beside it. What has
// been written of a copy that does not come to its end is removed.
func (f *front) copyDisk(
	source, target string, force bool, thin *bool, progress func(done, total int64) error,
) types.BaseMethodFault {
	from, fault := f.readDescriptor(source)
	if fault != nil {
		return fault
	}
	to, fault := f.locate(target)
	if fault != nil {
		return fault
	}
	if holder := f.holderOf(from.extent); holder != "" {
		return &types.FileLocked{FileFault: types.FileFault{File: source}}
	}
	flat := flatName(to)
	if holder := f.holderOf(flat); holder != "" {
		return &types.FileLocked{FileFault: types.FileFault{File: target}}
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	} else if _, err := os.Stat(to); err == nil {
		return &types.FileAlreadyExists{FileFault: types.FileFault{File: target}}
	}
	if _, err := os.Stat(filepath.Dir(to)); err != nil {
		return &types.FileNotFound{FileFault: types.FileFault{File: target}}
	}
	if stored(from.extent) > f.freeSpace(f.datastoreOf(to)) {
		return &types.NoDiskSpace{FileFault: types.FileFault{File: target}, Datastore: f.datastoreOf(to)}
	}
	output, err := os.OpenFile(flat, flags, 0o600)
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return &types.FileAlreadyExists{FileFault: types.FileFault{File: target}}
		}
		return &types.CannotCreateFile{FileFault: types.FileFault{File: target}}
	}
	defer output.Close()
	isThin := from.thin
	if thin != nil {
		isThin = *thin
	}
	err = copySparse(from.extent, output, progress)
	if err == nil {
		err = writeDescriptor(to, from.sectors, isThin)
	}
	if err == nil {
		return nil
	}
	_ = os.Remove(flat)
	_ = os.Remove(to)
	var early stopped
	if errors.As(err, &early) {
		if full, ok := early.fault.(*types.NoDiskSpace); ok {
			full.File, full.Datastore = target, f.datastoreOf(to)
		}
		return early.fault
	}
	if errors.Is(err, syscall.ENOSPC) {
		return &types.NoDiskSpace{FileFault: types.FileFault{File: target}, Datastore: f.datastoreOf(to)}
	}
	return &types.FileFault{File: target}
}

// copySparse copies what a file holds and leaves holes where it has holes.
func copySparse(from string, output *os.File, progress func(done, total int64) error) error {
	input, err := os.Open(from)
	if err != nil {
		return err
	}
	defer input.Close()
	state, err := input.Stat()
	if err != nil {
		return err
	}
	size := state.Size()
	if err := output.Truncate(size); err != nil {
		return err
	}
	// At least ten steps, so that even a small disk is seen to be on its way.
	step := size/10 + 1
	if step > 4<<20 {
		step = 4 << 20
	}
	buffer := make([]byte, step)
	const seekData, seekHole = 3, 4
	for at := int64(0); at < size; {
		data, err := input.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			break // nothing but a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := input.Seek(data, seekHole)
		if err != nil {
			return err
		}
		for at = data; at < hole; {
			part := buffer
			if left := hole - at; left < int64(len(part)) {
				part = part[:left]
			}
			if _, err := input.ReadAt(part, at); err != nil {
				return err
			}
			if _, err := output.WriteAt(part, at); err != nil {
				return err
			}
			at += int64(len(part))
			if err := progress(at, size); err != nil {
				return err
			}
		}
	}
	return progress(size, size)
}

// stored is how much of the disk a file takes, which for a sparse one is less than its size.
func stored(file string) int64 {
	var state syscall.Stat_t
	if syscall.Stat(file, &state) != nil {
		return 0
	}
	return state.Blocks * 512
}

// disksOf are the datastore paths of a machine's disks. The caller holds the inventory.
func disksOf(machine *simulator.VirtualMachine) []string {
	var disks []string
	for _, device := range machine.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			if backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
				disks = append(disks, backing.GetVirtualDeviceFileBackingInfo().FileName)
			}
		}
	}
	return disks
}

// machines are all virtual machines. The caller holds the inventory.
func machines() []*simulator.VirtualMachine {
	var found []*simulator.VirtualMachine
	for _, entity := range simulator.Map.All("VirtualMachine") {
		// One whose creation failed is in the registry for a moment without a configuration.
		if machine, ok := entity.(*simulator.VirtualMachine); ok && machine.Config != nil {
			found = append(found, machine)
		}
	}
	return found
}

// holderOf is the name of the machine that is on and has `file` (on this machine) as a disk's extent or descriptor:
// a host keeps such files locked.
func (f *front) holderOf(file string) string {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	for _, machine := range machines() {
		if machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
			continue
		}
		for _, disk := range disksOf(machine) {
			held, fault := f.locate(disk)
			if fault == nil && (held == file || flatName(held) == file || strings.HasPrefix(held, file+"/")) {
				return machine.Name
			}
		}
	}
	return ""
}
