package main

import (
	"bytes"
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
	"github.com/vmware/govmomi/vim25/xml"
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

// duplicate copies a specification as deep as it goes, by the way of XML: the simulator keeps and rewrites what it is
// given, and one machine's devices must not become another's.
func duplicate(spec *types.VirtualMachineConfigSpec) (*types.VirtualMachineConfigSpec, error) {
	var text bytes.Buffer
	encoder := xml.NewEncoder(&text)
	start := xml.StartElement{
		Name: xml.Name{Local: "spec"},
		Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns:xsi"}, Value: "http://www.w3.org/2001/XMLSchema-instance"}},
	}
	if err := encoder.EncodeElement(spec, start); err != nil {
		return nil, err
	}
	decoder := xml.NewDecoder(&text)
	decoder.TypeFunc = types.TypeFunc()
	made := new(types.VirtualMachineConfigSpec)
	return made, decoder.Decode(made)
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
func (f *front) settle(machine *simulator.VirtualMachine) types.BaseMethodFault {
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

// cloneMachine is CloneVM_Task's work. The simulator's own leaves the clone's disk empty and writes the clone's file
// name into the source, so the machine is made anew here, from the source's configuration and the source's bytes.
func (f *front) cloneMachine(w *work, request *types.CloneVM_Task) (types.AnyType, types.BaseMethodFault) {
	location := request.Spec.Location
	if strings.Contains(location.DiskMoveType, "ChildDisk") || request.Spec.Snapshot != nil {
		return nil, &types.NotSupported{} // linked clones need snapshots, which the simulator has no disks for
	}
	f.inventory.Lock()
	source := f.machine(request.This)
	if source == nil {
		f.inventory.Unlock()
		return nil, &types.ManagedObjectNotFound{Obj: request.This}
	}
	spec, pool, fault := f.cloneSpec(source, request)
	folder, ok := simulator.Map.Get(request.Folder).(*simulator.Folder)
	if !ok {
		fault = &types.InvalidArgument{InvalidProperty: "folder"}
	} else if fault == nil {
		fault = freeName(folder, request.Name)
	}
	var home object.DatastorePath
	home.FromString(source.Config.Files.VmPathName)
	if location.Datastore != nil {
		datastore, ok := simulator.Map.Get(*location.Datastore).(*simulator.Datastore)
		if ok {
			home.Datastore = datastore.Name
		} else {
			fault = &types.InvalidArgument{InvalidProperty: "spec.location.datastore"}
		}
	}
	f.inventory.Unlock()
	if fault != nil {
		return nil, fault
	}

	root := f.datastores[home.Datastore]
	directory := unusedName(root, request.Name)
	if err := os.Mkdir(filepath.Join(root, directory), 0o700); err != nil {
		return nil, &types.CannotCreateFile{FileFault: types.FileFault{File: directory}}
	}
	home.Path = path.Join(directory, request.Name+".vmx")
	spec.Files = &types.VirtualMachineFileInfo{VmPathName: home.String()}
	result, fault := f.cloneInto(w, request, spec, pool, home)
	if fault != nil {
		_ = os.RemoveAll(filepath.Join(root, directory))
	}
	return result, fault
}

// cloneSpec is the specification of a machine like `source`. The caller holds the inventory.
func (f *front) cloneSpec(
	source *simulator.VirtualMachine, request *types.CloneVM_Task,
) (*types.VirtualMachineConfigSpec, *types.ManagedObjectReference, types.BaseMethodFault) {
	pool := request.Spec.Location.Pool
	if pool == nil {
		pool = source.ResourcePool
	}
	if pool == nil && request.Spec.Template {
		// A template has no pool, but the simulator makes nothing without one.
		host := simulator.Map.Get(*source.Runtime.Host).(*simulator.HostSystem)
		switch parent := simulator.Map.Get(*host.Parent).(type) {
		case *mo.ComputeResource:
			pool = parent.ResourcePool
		case *simulator.ClusterComputeResource:
			pool = parent.ResourcePool
		}
	}
	if pool == nil {
		return nil, nil, &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	hardware := source.Config.Hardware
	spec := &types.VirtualMachineConfigSpec{
		Name:              request.Name,
		GuestId:           source.Config.GuestId,
		Annotation:        source.Config.Annotation,
		Firmware:          source.Config.Firmware,
		Version:           source.Config.Version,
		NumCPUs:           hardware.NumCPU,
		MemoryMB:          int64(hardware.MemoryMB),
		NumCoresPerSocket: hardware.NumCoresPerSocket,
		BootOptions:       source.Config.BootOptions,
		ExtraConfig:       source.Config.ExtraConfig,
	}
	always := object.VirtualDeviceList(esx.VirtualDevice)
	devices := object.VirtualDeviceList(hardware.Device)
	for _, device := range devices {
		if always.Find(devices.Name(device)) == nil {
			spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationAdd,
				Device:    device,
			})
		}
	}
	spec, err := duplicate(spec)
	if err != nil {
		return nil, nil, &types.SystemError{Reason: err.Error()}
	}
	for _, change := range spec.DeviceChange {
		card, ok := change.GetVirtualDeviceConfigSpec().Device.(types.BaseVirtualEthernetCard)
		if ok && card.GetVirtualEthernetCard().AddressType != string(types.VirtualEthernetCardMacTypeManual) {
			card.GetVirtualEthernetCard().MacAddress = ""
		}
	}
	return spec, pool, nil
}

// cloneInto copies the disks into the clone's directory, makes the machine around them and applies the rest.
func (f *front) cloneInto(
	w *work, request *types.CloneVM_Task, spec *types.VirtualMachineConfigSpec, pool *types.ManagedObjectReference,
	home object.DatastorePath,
) (types.AnyType, types.BaseMethodFault) {
	var disks []*types.VirtualDisk
	for _, change := range spec.DeviceChange {
		if disk, ok := change.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk); ok {
			disks = append(disks, disk)
		}
	}
	for at, disk := range disks {
		name := request.Name
		if at > 0 {
			name = fmt.Sprintf("%s_%d", name, at)
		}
		target := object.DatastorePath{Datastore: home.Datastore, Path: path.Join(path.Dir(home.Path), name+".vmdk")}
		backing := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		progress := func(done, total int64) error {
			all := int64(len(disks))
			return w.progress(int64(at)*total+done, all*total)
		}
		if fault := f.copyDisk(backing.FileName, target.String(), false, nil, progress); fault != nil {
			return nil, fault
		}
		disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: target.String()},
			DiskMode:                     backing.DiskMode,
			ThinProvisioned:              backing.ThinProvisioned,
		}
	}
	if len(disks) == 0 {
		if err := w.progress(1, 1); err != nil {
			return nil, err.(stopped).fault
		}
	}
	result, fault := f.createMachine(&types.CreateVM_Task{
		This:   request.Folder,
		Config: *spec,
		Pool:   *pool,
		Host:   request.Spec.Location.Host,
	})
	if fault != nil {
		return nil, fault
	}
	clone := result.(types.ManagedObjectReference)
	changes := &types.VirtualMachineConfigSpec{}
	if request.Spec.Config != nil {
		changes = request.Spec.Config
		changes.Name, changes.Files = "", nil
	}
	changes.DeviceChange = append(request.Spec.Location.DeviceChange, changes.DeviceChange...)
	if _, fault := f.reconfigure(&types.ReconfigVM_Task{This: clone, Spec: *changes}); fault != nil {
		f.inventory.Lock()
		defer f.inventory.Unlock()
		_, _ = methods.UnregisterVM(context.Background(), f.service, &types.UnregisterVM{This: clone})
		return nil, fault
	}
	if request.Spec.Template {
		f.inventory.Lock()
		defer f.inventory.Unlock()
		_, err := methods.MarkAsTemplate(context.Background(), f.service, &types.MarkAsTemplate{This: clone})
		if err != nil {
			return nil, &types.SystemError{Reason: err.Error()}
		}
		return result, nil
	}
	if request.Spec.PowerOn {
		if _, fault := f.powerOn(clone); fault != nil {
			return nil, fault
		}
	}
	return result, nil
}
