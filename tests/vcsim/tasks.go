package main

import (
	"log"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// stopped is why a work ends before its end: it was called off, or a test ordered its failure.
type stopped struct{ fault types.BaseMethodFault }

func (s stopped) Error() string { return faultName(s.fault) }

// work is a task under way. The simulator's own tasks are over before their call is answered; a real server's are
// queued, run, tell their progress, can be called off, and outlive the session that began them.
type work struct {
	front      *front
	task       *simulator.Task
	canceled   chan struct{}
	cancelOnce sync.Once
	began      time.Time
	least      time.Duration
	percent    int32
	// fails is the fault that a test ordered for this task, to come half way.
	fails types.BaseMethodFault
}

// taskTimes are how long tasks take at least, by method; "*" stands for all others.
type taskTimes struct {
	mutex sync.Mutex
	times map[string]time.Duration
}

func (t *taskTimes) set(method string, time time.Duration) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.times[method] = time
}

func (t *taskTimes) of(method string) time.Duration {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if time, ok := t.times[method]; ok {
		return time
	}
	return t.times["*"]
}

// startTask makes a task for `method` on `entity`, runs it beside the call and returns its reference at once.
func (f *front) startTask(
	method string, entity mo.Reference, fails types.BaseMethodFault,
	run func(w *work) (types.AnyType, types.BaseMethodFault),
) types.ManagedObjectReference {
	name := strings.TrimSuffix(method, "_Task")
	made := &work{front: f, canceled: make(chan struct{}), least: f.times.of(method), fails: fails}
	f.inventory.Lock()
	made.task = simulator.CreateTask(entity, strings.ToLower(name[:1])+name[1:]+"Task", nil)
	made.task.Info.Name = method
	made.task.Info.Cancelable = cancelable[method]
	f.inventory.Unlock()
	f.works.Store(made.task.Self, made)
	go made.run(run)
	return made.task.Self
}

// cancelable are the methods whose tasks a real server lets one call off.
var cancelable = map[string]bool{"CopyVirtualDisk_Task": true, "CloneVM_Task": true}

func (w *work) run(run func(w *work) (types.AnyType, types.BaseMethodFault)) {
	w.began = time.Now()
	w.update([]types.PropertyChange{
		{Name: "info.startTime", Val: w.began},
		{Name: "info.state", Val: types.TaskInfoStateRunning},
	})
	result, fault := w.attempt(run)
	changes := []types.PropertyChange{
		{Name: "info.completeTime", Val: time.Now()},
		{Name: "info.progress", Val: nil},
		{Name: "info.cancelable", Val: false},
	}
	if fault != nil {
		changes = append(changes,
			types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{
				Fault:            fault,
				LocalizedMessage: faultText(fault),
			}},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
	} else {
		changes = append(changes,
			types.PropertyChange{Name: "info.result", Val: result},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
	}
	w.front.refreshSpace()
	w.update(changes)
	w.front.works.Delete(w.task.Self)
}

// attempt keeps the double alive when the simulator panics over what it does not know.
func (w *work) attempt(
	run func(w *work) (types.AnyType, types.BaseMethodFault),
) (result types.AnyType, fault types.BaseMethodFault) {
	defer func() {
		if panicked := recover(); panicked != nil {
			log.Printf("%s: %v\n%s", w.task.Info.Name, panicked, debug.Stack())
			result, fault = nil, &types.SystemError{Reason: "the simulator panicked; its log says where"}
		}
	}()
	if cancelable[w.task.Info.Name] {
		// Its own work tells how far it is, and takes the time that it has to.
		return run(w)
	}
	for _, percent := range []int64{50, 99} {
		if err := w.progress(percent, 100); err != nil {
			return nil, err.(stopped).fault
		}
	}
	return run(w)
}

// progress tells that `done` of `total` is done, and waits so that all of it takes the time that it has to.
func (w *work) progress(done, total int64) error {
	if total <= 0 {
		total, done = 1, 1
	}
	share := float64(done) / float64(total)
	due := w.began.Add(time.Duration(share * float64(w.least)))
	for {
		left := time.Until(due)
		elapsed := share
		if w.least > 0 && left > 0 {
			elapsed = float64(time.Since(w.began)) / float64(w.least)
		}
		if percent := int32(elapsed * 100); percent > w.percent {
			w.percent = percent
			w.update([]types.PropertyChange{{Name: "info.progress", Val: percent}})
		}
		if left > 50*time.Millisecond {
			left = 50 * time.Millisecond
		}
		if left < 0 {
			left = 0
		}
		select {
		case <-w.canceled:
			return stopped{&types.RequestCanceled{}}
		case <-time.After(left):
		}
		if time.Now().Before(due) {
			continue
		}
		if w.fails != nil && share >= 0.5 {
			return stopped{w.fails}
		}
		return nil
	}
}

func (w *work) update(changes []types.PropertyChange) {
	w.front.inventory.Lock()
	defer w.front.inventory.Unlock()
	simulator.Map.WithLock(w.task, func() { simulator.Map.Update(w.task, changes) })
}

// cancelTask answers CancelTask, which the simulator does not know.
func (f *front) cancelTask(w http.ResponseWriter, reference types.ManagedObjectReference) types.BaseMethodFault {
	found, ok := f.works.Load(reference)
	if !ok {
		return &types.InvalidState{}
	}
	under := found.(*work)
	if !cancelable[under.task.Info.Name] {
		return &types.NotSupported{}
	}
	under.cancelOnce.Do(func() { close(under.canceled) })
	writeNothing(w, "CancelTask")
	return nil
}
