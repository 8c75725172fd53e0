package main

import (
	"context"
	"net/http/httptest"
	"path/filepath"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// powerOn is PowerOnVM_Task's work: the disks are opened and locked, the guest starts, then the machine is on.
func (f *front) powerOn(reference types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	f.power.Lock()
	defer f.power.Unlock()
	f.inventory.Lock()
	machine := f.machine(reference)
	if machine == nil {
		f.inventory.Unlock()
		return nil, &types.ManagedObjectNotFound{Obj: reference}
	}
	state, template := machine.Runtime.PowerState, machine.Config.Template
	disks := disksOf(machine)
	plan := f.planOf(machine)
	f.inventory.Unlock()
	if template {
		return nil, &types.InvalidState{}
	}
	if state == types.VirtualMachinePowerStatePoweredOn {
		return nil, &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn,
			ExistingState:  state,
		}
	}
	for _, disk := range disks {
		opened, fault := f.readDescriptor(disk)
		if fault != nil {
			return nil, fault
		}
		if f.holderOf(opened.extent) != "" {
			return nil, &types.FileLocked{FileFault: types.FileFault{File: disk}}
		}
		plan.disks = append(plan.disks, opened.extent)
	}
	exited := func() { f.guestEnded(reference) }
	if err := f.guests.start(reference, plan, exited); err != nil {
		return nil, &types.GenericVmConfigFault{Reason: err.Error()}
	}
	f.inventory.Lock()
	defer f.inventory.Unlock()
	var task types.ManagedObjectReference
	response, err := methods.PowerOnVM_Task(context.Background(), f.service, &types.PowerOnVM_Task{This: reference})
	if err == nil {
		task = response.Returnval
	}
	return resultOf(task, err)
}

// planOf is what a guest's machine is made of. The caller holds the inventory.
func (f *front) planOf(machine *simulator.VirtualMachine) guestPlan {
	plan := guestPlan{
		name:     machine.Name,
		memory:   machine.Config.Hardware.MemoryMB,
		cpus:     machine.Config.Hardware.NumCPU,
		firmware: machine.Config.Firmware,
	}
	if file, fault := f.locate(machine.Config.Files.VmPathName); fault == nil {
		plan.variables = filepath.Join(filepath.Dir(file), machine.Name+".nvram")
	}
	for _, device := range machine.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			plan.cards = append(plan.cards, card.GetVirtualEthernetCard().MacAddress)
		}
	}
	for _, option := range machine.Config.ExtraConfig {
		if value, ok := option.GetOptionValue().Value.(string); ok && option.GetOptionValue().Key == "vcl.test.address" {
			plan.address = value
		}
	}
	return plan
}

// powerOff is PowerOffVM_Task's work.
func (f *front) powerOff(reference types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	f.power.Lock()
	defer f.power.Unlock()
	f.guests.stop(reference)
	return f.markOff(reference)
}

func (f *front) markOff(reference types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	var task types.ManagedObjectReference
	response, err := methods.PowerOffVM_Task(context.Background(), f.service, &types.PowerOffVM_Task{This: reference})
	if err == nil {
		task = response.Returnval
	}
	return resultOf(task, err)
}

// guestEnded marks a machine off whose guest powered itself off.
func (f *front) guestEnded(reference types.ManagedObjectReference) {
	f.power.Lock()
	defer f.power.Unlock()
	if f.guests.forget(reference) {
		_, _ = f.markOff(reference)
	}
}

// reset is ResetVM_Task's work. The simulator powers the machine off and on, which a reset does not.
func (f *front) reset(reference types.ManagedObjectReference) types.BaseMethodFault {
	f.power.Lock()
	defer f.power.Unlock()
	f.inventory.Lock()
	machine := f.machine(reference)
	if machine == nil {
		f.inventory.Unlock()
		return &types.ManagedObjectNotFound{Obj: reference}
	}
	state := machine.Runtime.PowerState
	f.inventory.Unlock()
	if state != types.VirtualMachinePowerStatePoweredOn {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn,
			ExistingState:  state,
		}
	}
	if err := f.guests.tell(reference, "system_reset"); err != nil {
		return &types.SystemError{Reason: err.Error()}
	}
	return nil
}

// shutdownGuest is ShutdownGuest and RebootGuest: VMware Tools in the guest do it, if they run there. They never do in
// the guests that boot here; a test may claim that they do.
func (f *front) shutdownGuest(
	w *httptest.ResponseRecorder, method string, reference types.ManagedObjectReference, command string,
) types.BaseMethodFault {
	f.inventory.Lock()
	machine := f.machine(reference)
	if machine == nil {
		f.inventory.Unlock()
		return &types.ManagedObjectNotFound{Obj: reference}
	}
	state, tools := machine.Runtime.PowerState, machine.Guest.ToolsRunningStatus
	f.inventory.Unlock()
	if state != types.VirtualMachinePowerStatePoweredOn {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn,
			ExistingState:  state,
		}
	}
	running := tools == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	if !running && !f.guests.hasTools(reference) {
		return &types.ToolsUnavailable{}
	}
	if f.guests.runs(reference) {
		if err := f.guests.tell(reference, command); err != nil {
			return &types.SystemError{Reason: err.Error()}
		}
	} else if method == "ShutdownGuest" {
		if _, fault := f.markOff(reference); fault != nil {
			return fault
		}
	}
	writeNothing(w, method)
	return nil
}
