package main

import (
	"bytes"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// envelope is what every answer is wrapped in; the namespaces are those that real servers declare.
type envelope struct {
	XMLName xml.Name    `xml:"soapenv:Envelope"`
	Enc     string      `xml:"xmlns:soapenc,attr"`
	Env     string      `xml:"xmlns:soapenv,attr"`
	XSD     string      `xml:"xmlns:xsd,attr"`
	XSI     string      `xml:"xmlns:xsi,attr"`
	Body    interface{} `xml:"soapenv:Body"`
}

// named is a method's response; its element is called after the method.
type named struct {
	name     string
	response interface{}
}

func (n named) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	inner := xml.StartElement{Name: xml.Name{Space: "urn:vim25", Local: n.name}}
	if err := e.EncodeElement(n.response, inner); err != nil {
		return err
	}
	return e.EncodeToken(start.End())
}

type faultBody struct {
	Fault struct {
		Code   string `xml:"faultcode"`
		String string `xml:"faultstring"`
		Detail struct {
			Fault *faultDetail
		} `xml:"detail"`
	} `xml:"soapenv:Fault"`
}

type faultDetail struct{ fault types.BaseMethodFault }

func (d *faultDetail) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	kind := faultName(d.fault)
	start.Name.Local = kind + "Fault"
	start.Attr = append(start.Attr,
		xml.Attr{Name: xml.Name{Local: "xmlns"}, Value: "urn:vim25"},
		xml.Attr{Name: xml.Name{Local: "xsi:type"}, Value: kind})
	return e.EncodeElement(d.fault, start)
}

func faultName(fault types.BaseMethodFault) string {
	return reflect.TypeOf(fault).Elem().Name()
}

// faultTexts are what people read on a real server; a client must go by the type.
var faultTexts = map[string]string{
	"FileAlreadyExists": "Cannot complete the operation because the file or folder already exists.",
	"FileLocked":        "Unable to access file since it is locked.",
	"InvalidLogin":      "Cannot complete login due to an incorrect user name or password.",
	"InvalidPowerState": "The attempted operation cannot be performed in the current state.",
	"NoDiskSpace":       "Insufficient disk space on datastore.",
	"NotAuthenticated":  "The session is not authenticated.",
	"NotImplemented":    "The method is not implemented by the server.",
	"NotSupported":      "The operation is not supported on the object.",
	"RequestCanceled":   "The task was canceled by a user.",
	"RestrictedVersion": "Current license or ESXi version prohibits execution of the requested operation.",
	"ToolsUnavailable":  "The operation cannot be completed because VMware Tools is not running in this virtual machine.",
}

func faultText(fault types.BaseMethodFault) string {
	if text, ok := faultTexts[faultName(fault)]; ok {
		return text
	}
	return "A general system error occurred: " + faultName(fault)
}

// faultNamed makes the fault that the API calls name.
func faultNamed(name string) (types.BaseMethodFault, error) {
	kind, ok := types.TypeFunc()(name)
	if !ok {
		return nil, fmt.Errorf("the API has no fault %q", name)
	}
	fault, ok := reflect.New(kind).Interface().(types.BaseMethodFault)
	if !ok {
		return nil, fmt.Errorf("%s is a type of the API, but no fault", name)
	}
	if busy, ok := fault.(*types.TaskInProgress); ok {
		busy.Task = types.ManagedObjectReference{Type: "Task", Value: "task-0"}
	}
	return fault, nil
}

func writeEnvelope(w http.ResponseWriter, status int, body interface{}) {
	var out bytes.Buffer
	out.WriteString(xml.Header)
	err := xml.NewEncoder(&out).Encode(&envelope{
		Enc:  "http://schemas.xmlsoap.org/soap/encoding/",
		Env:  "http://schemas.xmlsoap.org/soap/envelope/",
		XSD:  "http://www.w3.org/2001/XMLSchema",
		XSI:  "http://www.w3.org/2001/XMLSchema-instance",
		Body: body,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes())
}

func writeFault(w http.ResponseWriter, fault types.BaseMethodFault, text string) {
	if text == "" {
		text = faultText(fault)
	}
	body := new(faultBody)
	body.Fault.Code = "ServerFaultCode"
	body.Fault.String = text
	body.Fault.Detail.Fault = &faultDetail{fault}
	writeEnvelope(w, http.StatusInternalServerError, body)
}

// writeReference answers `method` with the reference it returns, which for a task is the task. All responses of this
// form are made alike.
func writeReference(w http.ResponseWriter, method string, reference types.ManagedObjectReference) {
	response := &types.CreateVM_TaskResponse{Returnval: reference}
	writeEnvelope(w, http.StatusOK, named{method + "Response", response})
}

// writeNothing answers a method that returns nothing.
func writeNothing(w http.ResponseWriter, method string) {
	writeEnvelope(w, http.StatusOK, named{method + "Response", &struct{}{}})
}

// checkOrder tells whether the elements of a request come in the order of the schema. Real servers refuse them
// otherwise; the simulator takes any order, and so a client that is wrong about it would be found out by a customer.
// The fields of govmomi's types are generated from the schema and keep its order.
func checkOrder(body []byte) error {
	decoder := xml.NewDecoder(bytes.NewReader(body))
	depth := 0
	for {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if start.Name.Local == "Header" {
			if err := decoder.Skip(); err != nil {
				return err
			}
			continue
		}
		if depth++; depth == 3 { // Envelope, Body, the method
			kind, ok := types.TypeFunc()(start.Name.Local)
			if !ok {
				return nil // whoever decodes it says so
			}
			return checkElement(decoder, kind, start.Name.Local)
		}
	}
}

type schemaField struct {
	at   int
	kind reflect.Type
}

// fieldsOf lists the elements of a type in order, those of its base type first.
func fieldsOf(kind reflect.Type, into map[string]schemaField) {
	for i := 0; i < kind.NumField(); i++ {
		field := kind.Field(i)
		if field.Anonymous {
			fieldsOf(field.Type, into)
			continue
		}
		words := strings.Split(field.Tag.Get("xml"), ",")
		if words[0] == "" || words[0] == "-" || contains(words[1:], "attr") {
			continue
		}
		into[words[0]] = schemaField{len(into), field.Type}
	}
}

func contains(words []string, wanted string) bool {
	for _, word := range words {
		if word == wanted {
			return true
		}
	}
	return false
}

func checkElement(decoder *xml.Decoder, kind reflect.Type, name string) error {
	fields := make(map[string]schemaField)
	fieldsOf(kind, fields)
	last := -1
	for {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			field, ok := fields[token.Name.Local]
			unexpected := fmt.Errorf("Unexpected element tag %q seen\n\nwhile parsing serialized DataObject of type %s",
				token.Name.Local, name)
			if !ok || field.at < last {
				return unexpected
			}
			inner := field.kind
			if inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			} else if field.at == last {
				return unexpected
			}
			last = field.at
			if inner.Kind() == reflect.Ptr {
				inner = inner.Elem()
			}
			if concrete, ok := typeAttribute(token); ok && (inner.Kind() == reflect.Interface || inner.Kind() == reflect.Struct) {
				inner = concrete
			} else if inner.Kind() == reflect.Interface && inner.NumMethod() > 0 {
				// An abstract type without a name: real servers take the base type where that can be instantiated.
				if base, ok := types.TypeFunc()(strings.TrimPrefix(inner.Name(), "Base")); ok {
					inner = base
				}
			}
			if inner.Kind() != reflect.Struct || inner.PkgPath() == "time" || inner.Name() == "ManagedObjectReference" {
				if err := decoder.Skip(); err != nil {
					return err
				}
				continue
			}
			if err := checkElement(decoder, inner, inner.Name()); err != nil {
				return err
			}
		}
	}
}

// typeAttribute is the type that `xsi:type` names, with or without a prefix.
func typeAttribute(start xml.StartElement) (reflect.Type, bool) {
	for _, attribute := range start.Attr {
		if attribute.Name.Local != "type" || attribute.Name.Space == "" {
			continue
		}
		name := attribute.Value
		if at := strings.IndexByte(name, ':'); at >= 0 {
			name = name[at+1:]
		}
		return types.TypeFunc()(name)
	}
	return nil, false
}
