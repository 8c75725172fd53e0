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
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

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
