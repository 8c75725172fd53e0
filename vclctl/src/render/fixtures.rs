//! What the tests of this crate show.

use super::Clock;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use vcl_types::api::{
    ComputerView, EventView, Finding, ImageView, JobView, LeaseView, NodeView, Plan, Status, VmPreview,
    VmView,
};
use vcl_types::state::job::State;
use vcl_types::{CaptureInto, ImageRef, JobRequest};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Every test of a table looks at this clock.
pub(crate) fn clock() -> Clock {
    Clock::fixed(at("2026-03-01T12:05:00Z"))
}

fn load(state: State) -> Value {
    json!({
        "id": 12, "kind": "load", "title": "load b debian@2", "state": state, "reason": null, "requester": "alice",
        "request": { "kind": "load", "computer": "b", "image": "debian@2" },
        "submitted": "2026-03-01T12:02:59Z", "started": "2026-03-01T12:03:00Z", "ended": null, "result": null,
        "steps": []
    })
}

pub(crate) fn running_load() -> JobView {
    let mut job: JobView = read(load(State::Running));
    job.steps = read(json!([
        { "name": "create overlay", "state": "done", "started": "2026-03-01T12:03:00Z",
          "ended": "2026-03-01T12:03:00.300Z", "progress": null, "error": null },
        { "name": "copy disk", "state": "running", "started": "2026-03-01T12:03:01Z", "ended": null,
          "progress": { "done": 45_000_000, "total": 100_000_000 }, "error": null },
        { "name": "post_load/wait for ssh", "state": "planned", "started": null, "ended": null,
          "progress": null, "error": null }
    ]));
    job
}

/// A job in some state, with a reason where such a job has one.
pub(crate) fn ended(state: State) -> JobView {
    let mut job: JobView = read(load(state));
    job.reason = (state != State::Done).then(|| "no\u{1b}[31m lease for 52:54:00:00:00:0b".into());
    job.ended = Some(at("2026-03-01T12:03:12.100Z"));
    job
}

pub(crate) fn jobs() -> Vec<JobView> {
    let mut done = ended(State::Done);
    done.result = Some("debian@2".into());
    let mut stuck = ended(State::Stuck);
    stuck.steps = running_load().steps;
    stuck.steps[0].state = vcl_types::api::StepState::Undone;
    stuck.steps[1].state = vcl_types::api::StepState::Failed;
    stuck.steps[1].error = Some("cannot delete volume".into());
    let mut queued: JobView = read(load(State::Queued));
    queued.started = None;
    vec![queued, running_load(), stuck, done]
}

pub(crate) fn requests() -> Vec<JobRequest> {
    let image: ImageRef = "debian@3".parse().unwrap();
    let name = image.name.clone();
    let computer: vcl_types::ComputerName = "a".parse().unwrap();
    let capture = |into, after| JobRequest::Capture {
        computer: "a".parse().unwrap(),
        into,
        after,
        power_on: false,
        note: None,
        whole: false,
    };
    vec![
        capture(CaptureInto::Next, vcl_types::After::Release),
        capture(CaptureInto::New(name.clone()), vcl_types::After::Resume),
        JobRequest::Unload { computer: computer.clone() },
        JobRequest::Configure { computer, manifest: "lab".parse().unwrap(), dry_run: false },
        JobRequest::Import {
            image: name.clone(),
            path: "/tmp/d.qcow2".into(),
            boot: None,
            hardware: None,
            os: vcl_types::OsName::Linux,
            note: None,
        },
        read(json!({ "kind": "create-from-vm", "image": "gis", "backend": "kvm1", "vm": "debian-gis" })),
        JobRequest::Export { image: image.clone(), path: "/tmp/x.raw".into(), format: "raw".into() },
        JobRequest::Verify { image: image.clone() },
        JobRequest::TestImage { image: image.clone(), wait: false },
        JobRequest::DeleteImage { image: image.clone(), now: false },
        JobRequest::Undelete { image: image.clone() },
        JobRequest::Flatten { image },
        read(json!({ "kind": "prune", "image": "debian", "keep": 3 })),
    ]
}

pub(crate) fn computers() -> Vec<ComputerView> {
    read(json!([
        {
            "computer": { "name": "a", "backend": "kvm1", "cpus": null, "memory": null, "tags": [], "nics": [
                { "network": "lab", "role": "management", "mac": "52:54:00:00:00:0a", "address": null }
            ] },
            "state": "available", "reason": null, "loaded": null, "job": null, "reservation": null, "power": null
        },
        {
            "computer": { "name": "b", "backend": "kvm1", "cpus": 2, "memory": 4_294_967_296_u64,
                "tags": ["room-b12", "gpu"], "nics": [
                { "network": "lab", "role": "management", "mac": "52:54:00:00:00:0b", "address": null },
                { "network": "campus", "role": "public", "mac": "52:54:00:00:01:0b", "address": "10.0.0.7" }
            ] },
            "state": "reserved", "reason": null, "job": null, "reservation": 4, "power": "on",
            "loaded": { "image": "debian@2", "since": "2026-03-01T12:03:12Z", "endpoint": {
                "address": "127.0.0.1", "port": 40022, "user": "root", "host_keys": { "source": "console", "keys": [
                    { "algorithm": "ssh-ed25519", "key": "AAAAC3NzaC1lZDI1NTE5AAAAIF1s7" }
                ] } } }
        },
        {
            "computer": { "name": "gis-01", "backend": "esx1", "cpus": null, "memory": null, "tags": [], "nics": [] },
            "state": "broken", "reason": "it does not\nboot \u{1b}[2J", "loaded": null, "job": 9, "reservation": null,
            "power": "absent"
        }
    ]))
}

fn revision(image: &str, number: u32, parent: Option<&str>) -> Value {
    let digest = "9f3c".repeat(16);
    json!({
        "size": 109_051_904, "used_by": if number == 2 { vec!["a", "b"] } else { vec![] }, "here": number != 1,
        "manifest": {
            "version": 1, "image": image, "revision": number, "parent": parent, "os": "linux",
            "generalised": parent.is_some(), "backend": parent.map(|_| "kvm1"), "job": 7,
            "created": format!("2026-02-2{number}T09:30:00Z"), "note": parent.map(|_| "with QGIS"),
            "hardware": { "machine": "q35", "firmware": "bios", "tpm": false, "disk_bus": "virtio",
                "nic_model": "virtio", "cpus": 2, "memory": 4_294_967_296_u64 },
            "firmware": null,
            "boot": parent.is_none().then(|| json!({ "kernel": "vmlinuz", "initrd": "initrd.img", "cmdline": "ro" })),
            "disks": [{ "file": "disk0.qcow2", "format": "qcow2", "virtual_size": 21_474_836_480_u64,
                "file_size": 109_051_904, "file_digest": digest, "content_digest": digest }]
        }
    })
}

pub(crate) fn debian() -> ImageView {
    read(
        json!({ "name": "debian", "revisions": [revision("debian", 1, None), revision("debian", 2, Some("debian@1"))] }),
    )
}

pub(crate) fn gis() -> ImageView {
    read(json!({ "name": "gis", "revisions": [revision("gis", 1, None)] }))
}

pub(crate) fn vms() -> Vec<VmView> {
    let hardware = |firmware: &str, tpm: bool| {
        json!({ "machine": "q35", "firmware": firmware, "tpm": tpm, "disk_bus": "virtio", "nic_model": "virtio",
            "cpus": 2, "memory": 4_294_967_296_u64 })
    };
    let disk = |virtual_size: Value, allocated: Value| json!({ "source": "/d", "format": "qcow2", "virtual_size": virtual_size, "allocated": allocated });
    let gib = 1_073_741_824_u64;
    read(json!([
        { "name": "debian-gis", "state": "running", "hardware": hardware("bios", false), "managed": null,
          "disks": [disk(json!(20 * gib), json!(6_549_825_126_u64))] },
        { "name": "win11-cad", "state": "shut off", "hardware": hardware("uefi", true), "managed": null,
          "disks": [disk(json!(64 * gib), json!(38 * gib))] },
        { "name": "vcl-b", "state": "running", "hardware": hardware("uefi-secure", false), "managed": "b",
          "disks": [disk(json!(20 * gib), json!(gib)), disk(json!(5 * gib), json!(gib))] },
        { "name": "evil\u{1b}[2J\nrow", "state": "paused", "hardware": hardware("bios", false), "managed": null,
          "disks": [disk(Value::Null, json!(gib))] },
        { "name": "diskless", "state": "running", "hardware": hardware("bios", false), "managed": null, "disks": [] }
    ]))
}

pub(crate) fn vm_preview() -> VmPreview {
    VmPreview {
        vm: vms().remove(0),
        to_copy: vcl_types::ByteSize(6_549_825_126),
        free: vcl_types::ByteSize::gibibytes(412),
        would_change: ["machine-id", "3 host keys", "1 lease", "2 histories", "netplan (MAC pinned)"]
            .map(Into::into)
            .to_vec(),
        would_keep: vec!["user alice (!)".into()],
        missing: vec![
            "login: root@10.20.0.57 refused our key; add it:  ssh-copy-id -i /etc/vcld/id.pub root@10.20.0.57".into(),
            "the guest has no sudo; install it".into(),
        ],
        notes: vec![
            "debian-gis itself stays as it is: generalised in an overlay that is thrown away; it is off for about a minute"
                .into(),
        ],
    }
}

pub(crate) fn events() -> Vec<EventView> {
    read(json!([
        { "id": 1, "at": "2026-02-27T08:00:00Z", "kind": "started", "job": null, "computer": null,
          "message": "vcld 0.1.0 started" },
        { "id": 2, "at": "2026-03-01T12:03:00Z", "kind": "job-started", "job": 12, "computer": "b",
          "message": "load b debian@2" },
        { "id": 3, "at": "2026-03-01T12:03:09Z", "kind": "forced-off", "job": 12, "computer": "b",
          "message": "b did not shut\ndown in 60 s \u{1b}[2J" }
    ]))
}

pub(crate) fn findings() -> Vec<Finding> {
    read(json!([
        { "what": "kvm", "level": "ok", "found": "/dev/kvm can be used", "way_out": null },
        { "what": "library", "level": "warning", "found": "2.0 GiB free", "way_out": "delete a revision" },
        { "what": "backend esx1", "level": "error", "found": "no route to host", "way_out": "check its address" }
    ]))
}

pub(crate) fn plan() -> Plan {
    read(json!({ "title": "load b debian@2", "steps": [
        { "name": "create overlay", "what": "b.qcow2 on debian@2, 20 GiB" },
        { "name": "post_load/wait for ssh", "what": "up to 5 min" },
        { "name": "pin host keys", "what": "" }
    ] }))
}

pub(crate) fn nodes() -> Vec<NodeView> {
    let node = |name: &str, state: &str, drained: bool, running: u64| {
        let ended = (state != "alive").then_some("2026-03-01T12:04:00Z");
        json!({ "name": name, "state": state, "drained": drained, "life": 3, "version": "0.1.0", "protocol": 1,
            "lease_seconds": 15, "address": null, "backends": { "kvm1": false, "san": true },
            "since": "2026-03-01T08:00:00Z", "ended": ended, "running": running, "waiting": 2 - running })
    };
    read(json!([
        node("mn1", "alive", false, 1),
        node("mn2", "alive", true, 2),
        node("mn3", "dead", false, 0),
        node("mn4", "left", false, 0)
    ]))
}

pub(crate) fn leases() -> Vec<LeaseView> {
    read(json!([
        { "of": "computer", "name": "b", "job": 12, "state": "running", "purpose": "load b debian@2", "requester": "alice",
          "node": "mn1", "token": 1, "since": "2026-03-01T12:03:00Z", "waiting": [14, 15] },
        { "of": "image", "name": "gis", "job": 13, "state": "queued", "purpose": "import gis", "requester": "bob",
          "node": null, "token": 0, "since": "2026-03-01T12:04:00Z", "waiting": [] }
    ]))
}

pub(crate) fn status() -> Status {
    read(json!({
        "version": "0.1.0", "node": "mn1", "since": "2026-02-26T08:00:00Z", "library": "/srv/vcl", "revisions": 3,
        "free": 442_381_631_488_u64,
        "backends": [
            { "name": "kvm1", "kind": "libvirt", "reachable": true, "detail": "libvirt 11.3, QEMU 10.0" },
            { "name": "esx-cellar", "kind": "esx", "reachable": false, "detail": "no route to host" }
        ],
        "computers": [{ "name": "available", "count": 30 }, { "name": "loading", "count": 0 },
            { "name": "reserved", "count": 8 }],
        "jobs": [{ "name": "running", "count": 1 }, { "name": "stuck", "count": 1 }],
        "running": [running_load()]
    }))
}
