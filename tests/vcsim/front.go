package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// front stands between clients and the simulator.
type front struct {
	config  config
	service *simulator.Service
	// datastores are the directories behind them, by name.
	datastores map[string]string
	sessions   sessions
	faults     faults
	times      taskTimes
	works      sync.Map // of *work by its task's reference
	guests     *guests
	calls      callLog

	// inventory is held by whoever reads or changes the simulator's objects, but by no one who waits.
	inventory sync.Mutex
	// power is held while a machine's power changes.
	power sync.Mutex
}

// session is one that somebody logged in for. The front alone knows which are live: the simulator's never expire.
type session struct {
	used time.Time
	gone chan struct{}
}

type sessions struct {
	mutex sync.Mutex
	idle  time.Duration
	live  map[string]*session
}

func (s *sessions) add(key string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.live[key] = &session{used: time.Now(), gone: make(chan struct{})}
}

// of is the request's session, which counts as used now.
func (s *sessions) of(r *http.Request) *session {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return nil
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found, ok := s.live[cookie.Value]
	if !ok {
		return nil
	}
	if s.idle > 0 && time.Since(found.used) > s.idle {
		s.forget(cookie.Value)
		return nil
	}
	found.used = time.Now()
	return found
}

func (s *sessions) touch(live *session) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	live.used = time.Now()
}

// forget ends a session. The caller holds the mutex.
func (s *sessions) forget(key string) {
	if found, ok := s.live[key]; ok {
		close(found.gone)
		delete(s.live, key)
	}
}

func (s *sessions) drop(key string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.forget(key)
}

func (s *sessions) dropAll() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for key := range s.live {
		s.forget(key)
	}
}

// call is one that was answered, or not.
type call struct {
	Method  string `json:"method"`
	Outcome string `json:"outcome"`
}

type callLog struct {
	mutex sync.Mutex
	list  []call
}

func (c *callLog) add(method, outcome string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.list = append(c.list, call{method, outcome})
	log.Printf("%s: %s", method, outcome)
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/sdk" || r.URL.Path == "/sdk/vimService":
		f.serveSoap(w, r)
	case r.URL.Path == "/folder" || strings.HasPrefix(r.URL.Path, "/folder/"):
		f.serveFile(w, r)
	case r.URL.Path == "/sdk/vimServiceVersions.xml":
		f.service.ServeMux.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

// open are the methods that need no session. The simulator has RetrievePropertiesEx among them; servers do not.
var open = map[string]bool{
	"RetrieveServiceContent": true, "Login": true, "LoginByToken": true, "LoginExtensionByCertificate": true,
	"CloneSession": true,
}

// vCenterOnly are methods of objects that an ESXi host has too, but does not support there.
var vCenterOnly = map[string]bool{
	"CloneVM_Task": true, "RelocateVM_Task": true, "MarkAsTemplate": true, "MarkAsVirtualMachine": true,
	"CustomizeVM_Task": true, "InstantClone_Task": true, "CreateFolder": true, "MoveIntoFolder_Task": true,
	"MigrateVM_Task": true,
}

// reading are the methods that a licence for reading leaves, beside all that begin with these words.
func reading(method string) bool {
	if open[method] {
		return true
	}
	switch method {
	case "Logout", "CurrentTime", "SessionIsActive", "ContinueRetrievePropertiesEx", "CreateFilter",
		"CreatePropertyCollector", "CreateContainerView", "CreateListView", "CreateInventoryView", "SearchDatastore_Task",
		"SearchDatastoreSubFolders_Task", "AcquireGenericServiceTicket", "CancelRetrievePropertiesEx":
		return true
	}
	for _, word := range []string{"Retrieve", "Query", "Find", "WaitFor", "CheckFor", "CancelWait", "DestroyProperty", "DestroyView"} {
		if strings.HasPrefix(method, word) {
			return true
		}
	}
	return false
}

// refused ends a call early with a fault.
type refused struct {
	fault types.BaseMethodFault
	text  string
}

func (f *front) serveSoap(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	if err != nil {
		return
	}
	method, err := simulator.UnmarshalBody(typeNamed, body)
	if err != nil {
		f.calls.add("?", "InvalidRequest")
		writeFault(w, &types.InvalidRequest{}, err.Error())
		return
	}
	live := f.sessions.of(r)
	if no := f.refuses(method, body, live); no != nil {
		f.calls.add(method.Name, faultName(no.fault))
		writeFault(w, no.fault, no.text)
		return
	}

	ordered := f.faults.take(method.Name)
	var fails types.BaseMethodFault
	lose := false
	if ordered != nil {
		switch ordered.Kind {
		case kindSoap:
			fault, _ := faultNamed(ordered.Name)
			f.calls.add(method.Name, ordered.Name)
			writeFault(w, fault, "")
			return
		case kindTask:
			fails, _ = faultNamed(ordered.Name)
		case kindDrop:
			f.calls.add(method.Name, "dropped")
			panic(http.ErrAbortHandler)
		case kindStatus:
			f.calls.add(method.Name, http.StatusText(ordered.Status))
			http.Error(w, http.StatusText(ordered.Status), ordered.Status)
			return
		case kindLose:
			lose = true
		case kindExpire:
			defer f.sessions.dropAll()
		}
	}

	answer := httptest.NewRecorder()
	fault := f.handle(answer, r, method, body, live, fails)
	outcome := "ok"
	switch {
	case fault != nil:
		outcome = faultName(fault)
		writeFault(answer, fault, "")
	case answer.Code != http.StatusOK:
		outcome = faultIn(answer.Body.Bytes())
	}
	if lose {
		f.calls.add(method.Name, "lost")
		panic(http.ErrAbortHandler)
	}
	f.calls.add(method.Name, outcome)
	for key, values := range answer.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// typeNamed finds a type with or without a prefix for its namespace.
func typeNamed(name string) (reflect.Type, bool) {
	if at := strings.IndexByte(name, ':'); at >= 0 {
		name = name[at+1:]
	}
	return types.TypeFunc()(name)
}

// refuses is what a server refuses before it looks at what is asked.
func (f *front) refuses(method *simulator.Method, body []byte, live *session) *refused {
	if err := checkOrder(body); err != nil {
		return &refused{&types.InvalidRequest{}, err.Error()}
	}
	if live == nil && !open[method.Name] {
		fault := &types.NotAuthenticated{}
		fault.Object, fault.PrivilegeId = method.This, "System.View"
		return &refused{fault: fault}
	}
	if f.config.ReadOnly && !reading(method.Name) {
		return &refused{fault: &types.RestrictedVersion{}}
	}
	if f.config.Esx && vCenterOnly[method.Name] {
		return &refused{fault: &types.NotSupported{}}
	}
	return nil
}

// handle answers a call, or returns the fault to answer.
func (f *front) handle(
	w *httptest.ResponseRecorder, r *http.Request, method *simulator.Method, body []byte, live *session,
	fails types.BaseMethodFault,
) types.BaseMethodFault {
	if strings.HasSuffix(method.Name, "_Task") {
		return f.handleTask(w, r, method, body, fails)
	}
	if fails != nil {
		return fails // there is no task that could fail
	}
	switch request := method.Body.(type) {
	case *types.Login:
		f.login(w, r, body)
		return nil
	case *types.Logout:
		f.pass(w, r, body)
		if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
			f.sessions.drop(cookie.Value)
		}
		return nil
	case *types.WaitForUpdatesEx:
		// The first time nobody waits: the simulator reads what there is, and only then listens for changes. One that came
		// between the two would never be told, so nothing changes meanwhile.
		if request.Version != "" {
			return f.wait(w, r, body, live)
		}
	case *types.WaitForUpdates:
		if request.Version != "" {
			return f.wait(w, r, body, live)
		}
	case *types.CancelTask:
		return f.cancelTask(w, request.This)
	case *types.MakeDirectory:
		if file, fault := f.locate(request.Name); fault == nil && exists(file) {
			return &types.FileAlreadyExists{FileFault: types.FileFault{File: request.Name}}
		}
	case *types.MarkAsTemplate:
		// The simulator's own says nothing to those who wait for updates; nothing else is wrong with it.
	case *types.ShutdownGuest:
		return f.shutdownGuest(w, method.Name, request.This, "system_powerdown")
	case *types.RebootGuest:
		return f.shutdownGuest(w, method.Name, request.This, "system_reset")
	}
	f.pass(w, r, body)
	return nil
}

// login passes a login on without the cookie of a session that is over, which the simulator may still know.
func (f *front) login(w *httptest.ResponseRecorder, r *http.Request, body []byte) {
	if f.sessions.of(r) == nil {
		r = r.Clone(r.Context())
		r.Header.Del("Cookie")
	}
	f.pass(w, r, body)
	for _, cookie := range w.Result().Cookies() {
		if cookie.Name == soap.SessionCookieName {
			f.sessions.add(cookie.Value)
			// As servers write it: quoted, for all paths.
			w.Header().Set("Set-Cookie", soap.SessionCookieName+`="`+cookie.Value+`"; Path=/; HttpOnly; Secure`)
		}
	}
}

// pass lets the simulator answer.
func (f *front) pass(w http.ResponseWriter, r *http.Request, body []byte) {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	f.service.ServeMux.ServeHTTP(w, requestWith(r, body))
}

func requestWith(r *http.Request, body []byte) *http.Request {
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	again.ContentLength = int64(len(body))
	return again
}

// wait lets the simulator wait for updates until the session is gone.
func (f *front) wait(w *httptest.ResponseRecorder, r *http.Request, body []byte, live *session) types.BaseMethodFault {
	inner := httptest.NewRecorder()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			// It reads objects that change meanwhile, and not all that carefully.
			if panicked := recover(); panicked != nil {
				log.Printf("waiting for updates: %v\n%s", panicked, debug.Stack())
				inner = httptest.NewRecorder()
				writeFault(inner, &types.SystemError{Reason: "the simulator panicked; its log says where"}, "")
			}
		}()
		f.service.ServeMux.ServeHTTP(inner, requestWith(r, body))
	}()
	select {
	case <-ended:
		f.sessions.touch(live) // who waits is not idle
		w.Code, w.Body = inner.Code, inner.Body
		return nil
	case <-live.gone:
		return &types.NotAuthenticated{}
	case <-r.Context().Done():
		return &types.RequestCanceled{}
	}
}

var (
	taskIn      = regexp.MustCompile(`<returnval[^>]* type="Task"[^>]*>([^<]+)<`)
	faultNameIn = regexp.MustCompile(`<(\w+)Fault xmlns="urn:vim25"`)
)

// faultIn is the name of the fault in an answer of the simulator's.
func faultIn(answer []byte) string {
	if found := faultNameIn.FindSubmatch(answer); found != nil {
		return string(found[1])
	}
	return "?"
}

// handleTask starts the task that a method answers. What the front does not do itself, the simulator does when the
// task's time has come.
func (f *front) handleTask(
	w *httptest.ResponseRecorder, r *http.Request, method *simulator.Method, body []byte, fails types.BaseMethodFault,
) types.BaseMethodFault {
	f.inventory.Lock()
	entity := simulator.Map.Get(method.This)
	f.inventory.Unlock()
	if entity == nil {
		return &types.ManagedObjectNotFound{Obj: method.This}
	}
	run, fault := f.workOf(method)
	if fault != nil {
		return fault
	}
	if run == nil {
		handler := strings.TrimSuffix(method.Name, "_Task") + "Task"
		if !reflect.ValueOf(entity).MethodByName(handler).IsValid() {
			return &types.MethodNotFound{Receiver: method.This, Method: method.Name}
		}
		// The call is over when the task runs, and its context with it.
		again := requestWith(r, body).Clone(context.Background())
		run = func(*work) (types.AnyType, types.BaseMethodFault) { return f.passTask(again) }
	}
	writeReference(w, method.Name, f.startTask(method.Name, entity, fails, run))
	return nil
}

// passTask lets the simulator do what a task is for and takes its result over.
func (f *front) passTask(r *http.Request) (types.AnyType, types.BaseMethodFault) {
	inner := httptest.NewRecorder()
	f.inventory.Lock()
	defer f.inventory.Unlock()
	f.service.ServeMux.ServeHTTP(inner, r)
	found := taskIn.FindSubmatch(inner.Body.Bytes())
	if found == nil {
		fault, err := faultNamed(faultIn(inner.Body.Bytes()))
		if err != nil {
			return nil, &types.SystemError{Reason: inner.Body.String()}
		}
		return nil, fault
	}
	return resultOf(types.ManagedObjectReference{Type: "Task", Value: string(found[1])}, nil)
}

// workOf is what a method's task does, where the simulator does it not or not well; nil where the simulator does.
func (f *front) workOf(
	method *simulator.Method,
) (func(w *work) (types.AnyType, types.BaseMethodFault), types.BaseMethodFault) {
	type result = types.AnyType
	switch request := method.Body.(type) {
	case *types.CreateVM_Task:
		return func(*work) (result, types.BaseMethodFault) { return f.createMachine(request) }, nil
	case *types.ReconfigVM_Task:
		return func(*work) (result, types.BaseMethodFault) { return f.reconfigure(request) }, nil
	case *types.CloneVM_Task:
		return func(w *work) (result, types.BaseMethodFault) { return f.cloneMachine(w, request) }, nil
	case *types.PowerOnVM_Task:
		return func(*work) (result, types.BaseMethodFault) { return f.powerOn(request.This) }, nil
	case *types.PowerOffVM_Task:
		return func(*work) (result, types.BaseMethodFault) { return f.powerOff(request.This) }, nil
	case *types.ResetVM_Task:
		return func(*work) (result, types.BaseMethodFault) { return nil, f.reset(request.This) }, nil
	case *types.CopyVirtualDisk_Task:
		return func(w *work) (result, types.BaseMethodFault) { return nil, f.copyVirtualDisk(w, request) }, nil
	case *types.CreateVirtualDisk_Task:
		return func(*work) (result, types.BaseMethodFault) { return f.createVirtualDisk(request) }, nil
	case *types.MoveVirtualDisk_Task:
		return func(*work) (result, types.BaseMethodFault) { return nil, f.moveVirtualDisk(request) }, nil
	case *types.DeleteVirtualDisk_Task:
		return func(*work) (result, types.BaseMethodFault) { return nil, f.deleteVirtualDisk(request) }, nil
	case *types.DeleteDatastoreFile_Task:
		if request.Name == "" {
			return nil, &types.InvalidDatastorePath{}
		}
		return func(*work) (result, types.BaseMethodFault) { return nil, f.deleteFile(request.Name) }, nil
	case *types.SearchDatastore_Task:
		request.SearchSpec = wholeSearch(request.SearchSpec)
		return func(*work) (result, types.BaseMethodFault) { return f.search(request) }, nil
	case *types.SearchDatastoreSubFolders_Task:
		request.SearchSpec = wholeSearch(request.SearchSpec)
		return func(*work) (result, types.BaseMethodFault) { return f.searchBelow(request) }, nil
	case *types.MoveDatastoreFile_Task:
		return func(*work) (result, types.BaseMethodFault) { return nil, f.moveFile(request) }, nil
	}
	return nil, nil
}
