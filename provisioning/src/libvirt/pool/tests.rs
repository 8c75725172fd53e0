//! Copies and what keeps them, on libvirt's own test driver: it knows volumes and what they lie on, and has no bytes.

use super::super::{Libvirt, PoolSettings, Settings};
use super::*;
use vcl_types::Accelerator;

const BASE: &str = "vcl-image.debian@1.disk0.qcow2.00aa.job3-token1";
const DELTA: &str = "vcl-image.debian@2.disk0.qcow2.00bb.job4-token1";
const KERNEL: &str = "vcl-image.debian@1.vmlinuz.00cc.job3-token1";

struct Bench {
    host: Libvirt,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// A host with a pool `p`, if it has one already, and a machine that is started with [`KERNEL`].
    fn new(pool: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
        let node = path.join("node.xml");
        let domain = format!(
            "<domain type='test'><name>m</name><memory>262144</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type>\
             <kernel>/p/{KERNEL}</kernel></os></domain>"
        );
        let cpu = "<cpu><mhz>1000</mhz><model>x</model><nodes>1</nodes></cpu>";
        std::fs::write(&node, format!("<node>{domain}{pool}{cpu}</node>")).unwrap();
        let settings = Settings {
            name: "test".parse().unwrap(),
            uri: format!("test://{node}"),
            local: true,
            directory: path.join("machines"),
            pool: Some(PoolSettings { name: "p".into(), path: Some("/p".into()), library: path }),
            accelerator: Accelerator::Tcg,
            networks: crate::Networks::new(),
        };
        Self { host: Libvirt::new(settings).unwrap(), _directory: directory }
    }
    /// With whole copies of everything, [`DELTA`] on [`BASE`].
    async fn with_copies() -> Self {
        let bench = Self::new(&xml::pool("p", "/p"));
        for (name, under) in [(BASE, None), (DELTA, Some(BASE)), (KERNEL, None)] {
            bench.make(name, under).await;
            bench.make(&named::counterpart(name), None).await;
        }
        bench
    }
    async fn make(&self, name: &str, under: Option<&str>) {
        let over = under.map(|under| (format!("/p/{under}"), "qcow2".to_owned()));
        let new = NewVolume { name: name.into(), size: Some(1 << 20), over, readable: false };
        self.host.make_volume(new).await.unwrap();
    }
    async fn refused(&self, copy: &str) -> String {
        let error = self.host.drop_copy(copy).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused, "{error}");
        self.has(copy).await;
        self.has(&named::counterpart(copy)).await;
        error.context
    }
    async fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.host.every_volume().await.unwrap().into_iter().map(|v| v.name).collect();
        names.sort();
        names
    }
    async fn has(&self, name: &str) {
        let names = self.names().await;
        assert!(names.iter().any(|n| n == name), "{name} is gone: {names:?}");
    }
}

#[tokio::test]
async fn only_a_copy_that_nothing_lies_on_is_removed() {
    let bench = Bench::with_copies().await;
    assert!(bench.refused(KERNEL).await.contains("a machine has it"));
    assert!(bench.refused(BASE).await.contains(DELTA));
    bench.make("vcl-machine.a.disk0.qcow2", Some(DELTA)).await;
    assert!(bench.refused(DELTA).await.contains("vcl-machine.a"));
    bench.host.delete_volumes(vec!["vcl-machine.a.disk0.qcow2".into()]).await.unwrap();
    let held = bench.host.pool().unwrap().hold("vcl-image.debian@2.disk0.qcow2.00bb");
    bench.refused(DELTA).await;
    drop(held);
    bench.host.drop_copy(DELTA).await.unwrap();
    bench.host.drop_copy(BASE).await.unwrap();
    assert_eq!(bench.names().await, [KERNEL.to_owned(), named::counterpart(KERNEL)]);
}

#[tokio::test]
async fn who_uses_a_copy_notices_that_it_is_being_removed() {
    let bench = Bench::with_copies().await;
    let (base, delta) = (format!("/p/{BASE}"), format!("/p/{DELTA}"));
    let there = async |path: &str| bench.host.still_there(&["/srv/other", path]).await;
    there(&delta).await.unwrap();
    // Another node has taken the mark away and not yet looked again.
    for name in [BASE, DELTA] {
        bench.host.delete_volumes(vec![named::counterpart(name)]).await.unwrap();
        assert_eq!(there(&delta).await.unwrap_err().kind, ErrorKind::Busy);
        bench.make(&named::counterpart(name), None).await;
        there(&delta).await.unwrap();
    }
    // Who removes it looks again, sees what lies on it by now, and makes the mark anew.
    assert!(bench.host.still_needs_nobody(BASE).await.is_err());
    bench.host.drop_copy(DELTA).await.unwrap();
    assert_eq!(there(&delta).await.unwrap_err().kind, ErrorKind::Busy);
    there(&base).await.unwrap();
}

#[tokio::test]
async fn half_a_copy_under_a_machine_stays_too() {
    let bench = Bench::with_copies().await;
    bench.make("vcl-machine.a.disk0.qcow2", Some(DELTA)).await;
    bench.host.delete_volumes(vec![named::counterpart(DELTA)]).await.unwrap();
    let refused = bench.host.drop_copy(DELTA).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused, "{refused}");
    bench.has(DELTA).await;
    // What looked like a half a moment ago and is whole is no half.
    bench.host.delete_halves(vec![BASE.into(), named::counterpart(KERNEL)]).await.unwrap();
    bench.has(BASE).await;
    bench.has(&named::counterpart(KERNEL)).await;
    bench.host.delete_halves(vec![DELTA.into()]).await.unwrap();
    assert!(!bench.names().await.contains(&DELTA.to_owned()));
}

#[tokio::test]
async fn a_pool_that_was_defined_and_no_more_is_made_whole_and_started() {
    let bench = Bench::new("");
    let definition = xml::pool("p", "/p");
    let define = move |c: &Connect| c.define_storage_pool_xml(&definition, 0).map(drop);
    bench.host.connection.call("defining", CALL, define).await.unwrap();
    let pool = bench.host.pool().unwrap().clone();
    let look = move |c: &Connect| {
        let pool = pool.open(c)?;
        Ok((pool.is_active()?, pool.autostart()?))
    };
    assert_eq!(bench.host.connection.call("opening", CALL, look).await.unwrap(), (true, true));
    assert_eq!(bench.host.pool_directory().await.unwrap(), "/p");
}

#[tokio::test]
async fn a_file_that_the_library_has_replaced_is_not_called_damaged() {
    let bench = Bench::new("");
    let wanted = copies::Wanted {
        copy: "vcl-image.debian@1.disk0.qcow2.00aa".into(),
        path: "/srv/vcl/debian/1/disk0.qcow2".into(),
        size: 1,
        digest: None,
        over: None,
    };
    let error = bench.host.replaced(&wanted).unwrap();
    assert_eq!(error.kind, vcl_job::Kind::Busy);
    assert!(error.context.contains("debian@1 was rewritten"), "{error}");
}

#[tokio::test]
async fn who_sends_a_copy_keeps_nobody_from_removing_the_half_of_another() {
    let bench = Bench::with_copies().await;
    bench.host.delete_volumes(vec![named::counterpart(DELTA)]).await.unwrap();
    let desk = &bench.host.pool().unwrap().desk;
    let (delta, base) =
        (desk.turn("vcl-image.debian@2.disk0.qcow2.00bb"), desk.turn("vcl-image.debian@1.disk0.qcow2.00aa"));
    let _turns = (delta.lock().await, base.lock().await);
    bench.host.drop_copy(DELTA).await.unwrap();
    assert_eq!(bench.host.drop_copy(BASE).await.unwrap_err().kind, ErrorKind::Busy);
    bench.has(&named::counterpart(BASE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stands_still_is_left_when_it_is_told_to_stop() {
    let bench = Bench::new("");
    let stop = tokio_util::sync::CancellationToken::new();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let (tell, told) = tokio::sync::oneshot::channel();
    let flow = move |_: &Connect, pulse: &super::super::connection::Pulse| {
        // Like a call to a host that does not answer.
        let _ = gone.recv();
        let _ = tell.send(pulse.beat(1).is_err());
        Ok(())
    };
    stop.cancel();
    let began = tokio::time::Instant::now();
    let error = bench.host.connection.stream("flowing", &stop, |_| {}, flow).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert!(began.elapsed() < Duration::from_secs(40));
    drop(go);
    assert!(told.await.unwrap(), "it goes on writing");
}
