package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func (f *front) machine(reference types.ManagedObjectReference) *simulator.VirtualMachine {
	machine, _ := simulator.Map.Get(reference).(*simulator.VirtualMachine)
	return machine
}

// resultOf waits for nothing: the simulator's own tasks have ended when their call returns.
func resultOf(task types.ManagedObjectReference, err error) (types.AnyType, types.BaseMethodFault) {
	if err != nil {
		if soap.IsSoapFault(err) {
			if fault, ok := soap.ToSoapFault(err).VimFault().(types.BaseMethodFault); ok {
				return nil, fault
			}
			// The fault's type is a value here, a pointer where it is needed.
			name := fmt.Sprintf("%T", soap.ToSoapFault(err).VimFault())
			if fault, err := faultNamed(name[strings.LastIndexByte(name, '.')+1:]); err == nil {
				return nil, fault
			}
		}
		return nil, &types.SystemError{Reason: err.Error()}
	}
	ended := simulator.Map.Get(task).(*simulator.Task)
	if ended.Info.Error != nil {
		return nil, ended.Info.Error.Fault
	}
	return ended.Info.Result, nil
}

// createMachine is CreateVM_Task's work.
func (f *front) createMachine(request *types.CreateVM_Task) (types.AnyType, types.BaseMethodFault) {
	spec := &request.Config
	if spec.Name == "" {
		return nil, &types.InvalidName{Name: spec.Name}
	}
	if spec.Files == nil {
		return nil, &types.InvalidVmConfig{Property: "configSpec.files"}
	}
	var where object.DatastorePath
	if !where.FromString(spec.Files.VmPathName) {
		return nil, &types.InvalidDatastorePath{DatastorePath: spec.Files.VmPathName}
	}
	directory, ok := f.datastores[where.Datastore]
	if !ok {
		return nil, &types.InvalidDatastore{Name: where.Datastore}
	}

	f.inventory.Lock()
	defer f.inventory.Unlock()
	folder, ok := simulator.Map.Get(request.This).(*simulator.Folder)
	if !ok {
		return nil, &types.NotSupported{}
	}
	if fault := freeName(folder, spec.Name); fault != nil {
		return nil, fault
	}
	if _, ok := simulator.Map.Get(request.Pool).(mo.Entity); !ok {
		return nil, &types.InvalidArgument{InvalidProperty: "pool"}
	}
	if request.Host != nil && simulator.Map.Get(*request.Host) == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "host"}
	}
	if path.Ext(where.Path) != ".vmx" {
		if where.Path == "" {
			where.Path = spec.Name
		}
		where.Path = path.Join(unusedName(directory, where.Path), spec.Name+".vmx")
	}
	spec.Files.VmPathName = where.String()
	if fault := f.checkDevices(nil, spec); fault != nil {
		return nil, fault
	}

	home := filepath.Join(directory, path.Dir(where.Path))
	_, err := os.Stat(home)
	existed := err == nil
	response, err := methods.CreateVM_Task(context.Background(), f.service, request)
	var task types.ManagedObjectReference
	if err == nil {
		task = response.Returnval
	}
	result, fault := resultOf(task, err)
	if fault != nil {
		if existed {
			for _, name := range []string{path.Base(where.Path), spec.Name + ".nvram", "vmware.log"} {
				_ = os.Remove(filepath.Join(home, name))
			}
		} else {
			_ = os.RemoveAll(home)
		}
		return nil, fault
	}
	machine := f.machine(result.(types.ManagedObjectReference))
	return result, f.settle(machine)
}

// freeName refuses a name that the folder has already; the simulator of a vCenter does not.
func freeName(folder *simulator.Folder, name string) types.BaseMethodFault {
	if taken := simulator.Map.FindByName(name, folder.ChildEntity); taken != nil {
		return &types.DuplicateName{Name: name, Object: taken.Reference()}
	}
	return nil
}

// unusedName is how a server calls a machine's directory: as wished, or with a number after it.
func unusedName(directory, wished string) string {
	for name, number := wished, 1; ; number++ {
		if _, err := os.Stat(filepath.Join(directory, name)); err != nil {
			return name
		}
		name = fmt.Sprintf("%s_%d", wished, number)
	}
}

// checkDevices refuses changes that a server refuses and over which the simulator panics or keeps silent. It fills in
// what an edit leaves out, which means "as it is". The caller holds the inventory.
func (f *front) checkDevices(machine *simulator.VirtualMachine, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	present := object.VirtualDeviceList(esx.VirtualDevice)
	if machine != nil {
		present = machine.Config.Hardware.Device
	}
	controllers := make(map[int32]bool)
	for _, device := range present {
		controllers[device.GetVirtualDevice().Key] = true
	}
	for _, change := range spec.DeviceChange {
		if device := change.GetVirtualDeviceConfigSpec().Device; device != nil {
			controllers[device.GetVirtualDevice().Key] = true
		}
	}
	for at, change := range spec.DeviceChange {
		change := change.GetVirtualDeviceConfigSpec()
		invalid := types.InvalidDeviceSpec{DeviceIndex: int32(at)}
		if change.Device == nil || change.Operation == "" {
			return &invalid
		}
		device := change.Device.GetVirtualDevice()
		if change.Operation != types.VirtualDeviceConfigSpecOperationAdd {
			old := present.FindByKey(device.Key)
			if old == nil {
				return &invalid
			}
			if change.Operation == types.VirtualDeviceConfigSpecOperationEdit {
				completeEdit(device, old.GetVirtualDevice())
			} else if fault := f.checkRemoval(machine, change); fault != nil {
				return fault
			}
			continue
		}
		if device.ControllerKey != 0 && !controllers[device.ControllerKey] {
			invalid.Property = "device.controllerKey"
			return &invalid
		}
		switch device := change.Device.(type) {
		case types.BaseVirtualEthernetCard:
			backing, ok := device.GetVirtualEthernetCard().Backing.(*types.VirtualEthernetCardNetworkBackingInfo)
			if ok && !hasNetwork(backing.DeviceName) {
				invalid.Property = "device.backing.deviceName"
				return &types.InvalidDeviceBacking{InvalidDeviceSpec: invalid}
			}
		case *types.VirtualDisk:
			backing, ok := device.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			if !ok {
				invalid.Property = "device.backing"
				return &types.InvalidDeviceBacking{InvalidDeviceSpec: invalid}
			}
			if unit := device.UnitNumber; unit == nil || *unit == 7 || *unit < 0 {
				invalid.Property = "device.unitNumber"
				return &invalid
			}
			if change.FileOperation == "" {
				// Its file is there: an adopted disk, whose size the file tells.
				found, fault := f.readDescriptor(backing.FileName)
				if fault != nil {
					return fault
				}
				device.CapacityInKB = found.sectors * sector / 1024
			} else if device.CapacityInKB <= 0 && device.CapacityInBytes <= 0 {
				invalid.Property = "device.capacityInKB"
				return &invalid
			}
		}
	}
	return nil
}

// completeEdit takes from `old` what the edited device leaves out.
func completeEdit(device, old *types.VirtualDevice) {
	if device.Backing == nil {
		device.Backing = old.Backing
	}
	if device.DeviceInfo == nil {
		description := *old.DeviceInfo.GetDescription()
		device.DeviceInfo = &description
	}
	if device.ControllerKey == 0 {
		device.ControllerKey = old.ControllerKey
	}
	if device.UnitNumber == nil {
		device.UnitNumber = old.UnitNumber
	}
	if device.Connectable == nil {
		device.Connectable = old.Connectable
	}
}

func (f *front) checkRemoval(
	machine *simulator.VirtualMachine, change *types.VirtualDeviceConfigSpec,
) types.BaseMethodFault {
	_, isDisk := change.Device.(*types.VirtualDisk)
	if isDisk && machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff,
			ExistingState:  machine.Runtime.PowerState,
		}
	}
	return nil
}

func hasNetwork(name string) bool {
	for _, kind := range []string{"Network", "DistributedVirtualPortgroup"} {
		for _, network := range simulator.Map.All(kind) {
			if n, ok := network.(*mo.Network); ok && n.Name == name {
				return true
			}
			if n, ok := network.(*simulator.DistributedVirtualPortgroup); ok && n.Name == name {
				return true
			}
		}
	}
	return false
}

// settle puts right what the simulator leaves undone after a machine was made or changed: disks that it made are
// empty files, sizes of adopted disks are not read, and a changed option stands beside the old one. The caller holds
// the inventory.
func (f *front) settle(machine *simulator.VirtualMachine) (fault types.BaseMethodFault) {
	// Whoever waits for updates reads it without holding the inventory.
	simulator.Map.WithLock(machine, func() { fault = f.settleLocked(machine) })
	return fault
}

func (f *front) settleLocked(machine *simulator.VirtualMachine) types.BaseMethodFault {
	for _, device := range machine.Config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		backing := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo()
		file, fault := f.locate(backing.FileName)
		if fault != nil {
			return fault
		}
		if state, err := os.Stat(file); err == nil && state.Size() == 0 {
			size := disk.CapacityInKB * 1024
			if size == 0 {
				size = disk.CapacityInBytes
			}
			flat, _ := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			thin := flat != nil && flat.ThinProvisioned != nil && *flat.ThinProvisioned
			if err := makeDisk(file, size, thin); err != nil {
				return &types.CannotCreateFile{FileFault: types.FileFault{File: backing.FileName}}
			}
		}
		if found, fault := f.readDescriptor(backing.FileName); fault == nil {
			disk.CapacityInBytes = found.sectors * sector
			disk.CapacityInKB = disk.CapacityInBytes / 1024
		}
	}
	newest := make(map[string]types.BaseOptionValue)
	var order []string
	for _, option := range machine.Config.ExtraConfig {
		key := option.GetOptionValue().Key
		if _, known := newest[key]; !known {
			order = append(order, key)
		}
		newest[key] = option
	}
	options := machine.Config.ExtraConfig[:0:0]
	for _, key := range order {
		if newest[key].GetOptionValue().Value != "" { // an empty value removes the option
			options = append(options, newest[key])
		}
	}
	machine.Config.ExtraConfig = options
	return nil
}

// makeDisk makes an empty disk.
func makeDisk(file string, size int64, thin bool) error {
	if err := os.WriteFile(flatName(file), nil, 0o600); err != nil {
		return err
	}
	size = (size + sector - 1) / sector * sector
	if err := os.Truncate(flatName(file), size); err != nil {
		return err
	}
	return writeDescriptor(file, size/sector, thin)
}

// reconfigure is ReconfigVM_Task's work.
func (f *front) reconfigure(request *types.ReconfigVM_Task) (types.AnyType, types.BaseMethodFault) {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	machine := f.machine(request.This)
	if machine == nil {
		return nil, &types.ManagedObjectNotFound{Obj: request.This}
	}
	if fault := f.checkDevices(machine, &request.Spec); fault != nil {
		return nil, fault
	}
	var task types.ManagedObjectReference
	response, err := methods.ReconfigVM_Task(context.Background(), f.service, request)
	if err == nil {
		task = response.Returnval
	}
	result, fault := resultOf(task, err)
	if fault != nil {
		return nil, fault
	}
	return result, f.settle(machine)
}
