package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// freeSpace is how many bytes a datastore has left.
func (f *front) freeSpace(datastore string) int64 {
	directory := f.datastores[datastore]
	if f.config.Capacity == 0 {
		var state syscall.Statfs_t
		if syscall.Statfs(directory, &state) != nil {
			return 0
		}
		return int64(state.Bavail) * state.Bsize
	}
	left := f.config.Capacity
	_ = filepath.Walk(directory, func(file string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			left -= stored(file)
		}
		return nil
	})
	if left < 0 {
		left = 0
	}
	return left
}

// refreshSpace tells the inventory how much the datastores have left.
func (f *front) refreshSpace() {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	for _, entity := range simulator.Map.All("Datastore") {
		datastore := entity.(*simulator.Datastore)
		free := f.freeSpace(datastore.Name)
		simulator.Map.WithLock(datastore, func() {
			datastore.Info.GetDatastoreInfo().FreeSpace = free
			changes := []types.PropertyChange{{Name: "summary.freeSpace", Val: free}}
			if f.config.Capacity > 0 {
				changes = append(changes, types.PropertyChange{Name: "summary.capacity", Val: f.config.Capacity})
			}
			simulator.Map.Update(datastore, changes)
		})
	}
}

// wholeSearch is a search as the API means it: without a specification or a pattern it finds everything. The simulator
// finds nothing, or panics.
func wholeSearch(spec *types.HostDatastoreBrowserSearchSpec) *types.HostDatastoreBrowserSearchSpec {
	if spec == nil {
		spec = &types.HostDatastoreBrowserSearchSpec{}
	}
	if len(spec.MatchPattern) == 0 {
		spec.MatchPattern = []string{"*"}
	}
	return spec
}

func (f *front) search(request *types.SearchDatastore_Task) (types.AnyType, types.BaseMethodFault) {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	response, err := methods.SearchDatastore_Task(context.Background(), f.service, request)
	if err != nil {
		return resultOf(types.ManagedObjectReference{}, err)
	}
	return resultOf(response.Returnval, nil)
}

func (f *front) searchBelow(request *types.SearchDatastoreSubFolders_Task) (types.AnyType, types.BaseMethodFault) {
	f.inventory.Lock()
	defer f.inventory.Unlock()
	response, err := methods.SearchDatastoreSubFolders_Task(context.Background(), f.service, request)
	if err != nil {
		return resultOf(types.ManagedObjectReference{}, err)
	}
	return resultOf(response.Returnval, nil)
}

func (f *front) copyVirtualDisk(w *work, request *types.CopyVirtualDisk_Task) types.BaseMethodFault {
	if request.DestSpec != nil && !f.config.Esx {
		return &types.NotImplemented{}
	}
	if request.SourceDatacenter == nil && !f.config.Esx {
		return &types.InvalidArgument{InvalidProperty: "sourceDatacenter"}
	}
	var thin *bool
	if spec, ok := request.DestSpec.(*types.VirtualDiskSpec); ok {
		isThin := spec.DiskType == string(types.VirtualDiskTypeThin)
		thin = &isThin
	}
	force := request.Force != nil && *request.Force
	return f.copyDisk(request.SourceName, request.DestName, force, thin, w.progress)
}

func (f *front) createVirtualDisk(request *types.CreateVirtualDisk_Task) (types.AnyType, types.BaseMethodFault) {
	file, fault := f.locate(request.Name)
	if fault != nil {
		return nil, fault
	}
	spec, ok := request.Spec.(*types.FileBackedVirtualDiskSpec)
	if !ok || spec.CapacityKb <= 0 {
		return nil, &types.InvalidArgument{InvalidProperty: "spec"}
	}
	if exists(file) {
		return nil, &types.FileAlreadyExists{FileFault: types.FileFault{File: request.Name}}
	}
	if !exists(filepath.Dir(file)) {
		return nil, &types.FileNotFound{FileFault: types.FileFault{File: request.Name}}
	}
	thin := spec.DiskType == string(types.VirtualDiskTypeThin)
	if err := makeDisk(file, spec.CapacityKb*1024, thin); err != nil {
		return nil, &types.CannotCreateFile{FileFault: types.FileFault{File: request.Name}}
	}
	return request.Name, nil
}

// unheld is where a file lies that nobody holds.
func (f *front) unheld(name string) (string, types.BaseMethodFault) {
	file, fault := f.locate(name)
	if fault != nil {
		return "", fault
	}
	if !exists(file) {
		return "", &types.FileNotFound{FileFault: types.FileFault{File: name}}
	}
	if f.holderOf(file) != "" {
		return "", &types.FileLocked{FileFault: types.FileFault{File: name}}
	}
	return file, nil
}

func (f *front) deleteVirtualDisk(request *types.DeleteVirtualDisk_Task) types.BaseMethodFault {
	file, fault := f.unheld(request.Name)
	if fault != nil {
		return fault
	}
	_ = os.Remove(flatName(file))
	if os.Remove(file) != nil {
		return &types.CannotDeleteFile{FileFault: types.FileFault{File: request.Name}}
	}
	return nil
}

func (f *front) moveVirtualDisk(request *types.MoveVirtualDisk_Task) types.BaseMethodFault {
	from, fault := f.unheld(request.SourceName)
	if fault != nil {
		return fault
	}
	read, fault := f.readDescriptor(request.SourceName)
	if fault != nil {
		return fault
	}
	to, fault := f.target(request.DestName, request.Force)
	if fault != nil {
		return fault
	}
	// The descriptor names its extent, so it is written anew.
	err := os.Rename(read.extent, flatName(to))
	if err == nil {
		err = writeDescriptor(to, read.sectors, read.thin)
	}
	if err == nil {
		err = os.Remove(from)
	}
	if err != nil {
		return &types.CannotAccessFile{FileFault: types.FileFault{File: request.SourceName}}
	}
	return nil
}

// target is where a file is to come; it must not be there, unless by force.
func (f *front) target(name string, force *bool) (string, types.BaseMethodFault) {
	file, fault := f.locate(name)
	if fault != nil {
		return "", fault
	}
	if exists(file) && (force == nil || !*force) {
		return "", &types.FileAlreadyExists{FileFault: types.FileFault{File: name}}
	}
	if !exists(filepath.Dir(file)) {
		return "", &types.FileNotFound{FileFault: types.FileFault{File: name}}
	}
	return file, nil
}

func (f *front) deleteFile(name string) types.BaseMethodFault {
	file, fault := f.unheld(name)
	if fault != nil {
		return fault
	}
	if f.datastoreOf(file) == "" || os.RemoveAll(file) != nil {
		return &types.CannotDeleteFile{FileFault: types.FileFault{File: name}}
	}
	return nil
}

func (f *front) moveFile(request *types.MoveDatastoreFile_Task) types.BaseMethodFault {
	from, fault := f.unheld(request.SourceName)
	if fault != nil {
		return fault
	}
	to, fault := f.target(request.DestinationName, request.Force)
	if fault != nil {
		return fault
	}
	if os.Rename(from, to) != nil {
		return &types.CannotAccessFile{FileFault: types.FileFault{File: request.SourceName}}
	}
	return nil
}

// serveFile is the datastore's HTTP: /folder/PATH?dcPath=DATACENTER&dsName=DATASTORE.
func (f *front) serveFile(w http.ResponseWriter, r *http.Request) {
	counted := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	defer func() {
		outcome := fmt.Sprint(counted.status)
		problem := recover()
		if problem != nil {
			outcome = "dropped"
		}
		f.calls.add(r.Method, outcome)
		if problem != nil {
			panic(problem)
		}
	}()
	f.transfer(counted, r)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (f *front) transfer(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if f.sessions.of(r) == nil && (user != f.config.User || password != f.config.Password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "not authenticated", http.StatusUnauthorized)
		return
	}
	ordered := f.faults.take(r.Method)
	if ordered != nil && ordered.Kind == kindStatus {
		refuse(w, r, http.StatusText(ordered.Status), ordered.Status)
		return
	}
	limit := int64(-1)
	if ordered != nil && ordered.Kind == kindDrop {
		limit = ordered.Bytes
	}
	file, ok := f.fileOf(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	// A flat file that a host holds cannot be opened by anyone else; its descriptor can.
	if strings.HasSuffix(file, "-flat.vmdk") && f.holderOf(file) != "" {
		http.Error(w, "failed to open the file", http.StatusInternalServerError)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		f.download(w, r, file, limit)
	case http.MethodPut:
		if f.config.ReadOnly {
			http.Error(w, "forbidden by the licence", http.StatusForbidden)
			return
		}
		f.upload(w, r, file, limit)
		f.refreshSpace()
	case http.MethodDelete:
		if os.Remove(file) != nil {
			http.NotFound(w, r)
			return
		}
		f.refreshSpace()
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
	if ordered != nil && ordered.Kind == kindLose {
		panic(http.ErrAbortHandler)
	}
	if ordered != nil && ordered.Kind == kindExpire {
		f.sessions.dropAll()
	}
}

// fileOf is the file that a request means. A host has one datacenter, which may be left out there.
func (f *front) fileOf(r *http.Request) (string, bool) {
	datacenter := strings.Trim(r.URL.Query().Get("dcPath"), "/")
	if datacenter == "" && f.config.Esx {
		datacenter = "ha-datacenter"
	}
	if wanted := map[bool]string{true: "ha-datacenter", false: "DC0"}[f.config.Esx]; datacenter != wanted {
		return "", false
	}
	directory, ok := f.datastores[r.URL.Query().Get("dsName")]
	if !ok {
		return "", false
	}
	return filepath.Join(directory, path.Clean("/"+strings.TrimPrefix(r.URL.Path, "/folder"))), true
}

// cutWriter cuts the connection once it has let `left` bytes through.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (c *cutWriter) Write(part []byte) (int, error) {
	if int64(len(part)) < c.left {
		c.left -= int64(len(part))
		return c.ResponseWriter.Write(part)
	}
	_, _ = c.ResponseWriter.Write(part[:c.left])
	if flusher, ok := c.ResponseWriter.(*statusWriter).ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
	panic(http.ErrAbortHandler)
}

func (f *front) download(w http.ResponseWriter, r *http.Request, file string, limit int64) {
	opened, err := os.Open(file)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer opened.Close()
	state, err := opened.Stat()
	if err != nil || state.IsDir() {
		http.NotFound(w, r)
		return
	}
	if limit >= 0 {
		w = &cutWriter{w, limit}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", state.ModTime(), opened)
}

// refuse answers with a failure once all that was sent has been read: a connection that is closed with bytes unread in it
// takes the answer with it.
func refuse(w http.ResponseWriter, r *http.Request, why string, status int) {
	_, _ = io.Copy(io.Discard, r.Body)
	http.Error(w, why, status)
}

// upload writes a request's body to `file`. What has arrived when the connection breaks stays.
func (f *front) upload(w http.ResponseWriter, r *http.Request, file string, limit int64) {
	if !exists(filepath.Dir(file)) {
		http.NotFound(w, r)
		return
	}
	start, flags := int64(0), os.O_WRONLY|os.O_CREATE|os.O_TRUNC
	if asked := r.Header.Get("Content-Range"); asked != "" {
		var end, size int64
		count, _ := fmt.Sscanf(asked, "bytes %d-%d/%d", &start, &end, &size)
		switch {
		case f.config.PutRange == "ignored":
			start = 0
		case f.config.PutRange != "honoured" || count != 3 || end < start || size <= end:
			refuse(w, r, "a part of a file cannot be put", http.StatusBadRequest)
			return
		default:
			flags = os.O_WRONLY | os.O_CREATE
		}
	}
	created := !exists(file)
	room := f.freeSpace(f.datastoreOf(file))
	if !created && flags&os.O_TRUNC != 0 {
		room += stored(file)
	}
	output, err := os.OpenFile(file, flags, 0o600)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer output.Close()
	var input io.Reader = r.Body
	if limit >= 0 {
		input = io.LimitReader(r.Body, limit)
	}
	err = store(output, start, input, room)
	switch {
	case err == nil && limit >= 0:
		panic(http.ErrAbortHandler)
	case errors.Is(err, syscall.ENOSPC):
		refuse(w, r, "no space left on the datastore", http.StatusInsufficientStorage)
	case err != nil:
		panic(http.ErrAbortHandler) // whoever sent it is gone
	case created:
		w.WriteHeader(http.StatusCreated)
	}
}

// store writes what comes from `input` at `at`, and leaves holes for zeros: a disk is mostly those.
func store(output *os.File, at int64, input io.Reader, room int64) error {
	buffer := make([]byte, 256<<10)
	zeros := make([]byte, len(buffer))
	for {
		count, err := fill(input, buffer)
		part := buffer[:count]
		if count > 0 && !bytes.Equal(part, zeros[:count]) {
			if room -= int64(count); room < 0 {
				return syscall.ENOSPC
			}
			if _, err := output.WriteAt(part, at); err != nil {
				return err
			}
		} else if count > 0 {
			if err := writeZeros(output, part, at); err != nil {
				return err
			}
		}
		at += int64(count)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until the buffer is full. Unlike io.ReadFull it tells a body that ended from one that was cut off.
func fill(input io.Reader, buffer []byte) (int, error) {
	count := 0
	for count < len(buffer) {
		read, err := input.Read(buffer[count:])
		count += read
		if err != nil {
			return count, err
		}
	}
	return count, nil
}

// writeZeros leaves a hole where the file ends before, and writes zeros where something is.
func writeZeros(output *os.File, zeros []byte, at int64) error {
	state, err := output.Stat()
	if err != nil {
		return err
	}
	if state.Size() > at {
		_, err = output.WriteAt(zeros, at)
		return err
	}
	return output.Truncate(at + int64(len(zeros)))
}
