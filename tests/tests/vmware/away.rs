//! A server that is away: jobs wait for it, and go on where they were.

use crate::bench::{Bench, Way, done, failed};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use vcl_job::{Control, Kind};
use vcl_provisioning::vmware::CaptureTo;
use vcl_tests::vcsim::{Mode, Vcsim};

/// The way to a server, which can be cut.
struct Cut {
    at: SocketAddr,
    to: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Cut {
    async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        Self { at, to, open: Some(tokio::spawn(serve(listener, to))) }
    }
    /// Nobody listens any more, and what was connected is cut off.
    async fn cut(&mut self) {
        let open = self.open.take().unwrap();
        open.abort();
        let _ = open.await;
    }
    async fn mend(&mut self) {
        let listener = TcpListener::bind(self.at).await.unwrap();
        self.open = Some(tokio::spawn(serve(listener, self.to)));
    }
}

async fn serve(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        connections.spawn(async move {
            let Ok(mut far) = TcpStream::connect(to).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

async fn bench(way: Way, mode: Mode) -> (Bench, Cut) {
    let double = Vcsim::start(mode).unwrap();
    let cut = Cut::to(double.address()).await;
    (Bench::by_way_of(cut.at.to_string(), way, double), cut)
}

/// Waits until the jobs have told that often of this.
async fn told(bench: &Bench, kind: &str, times: usize) {
    while bench.events(kind).len() < times {
        tokio::time::sleep(Duration::from_millis(10)).await; // why: an observer only records
    }
}
async fn asked(bench: &Bench, method: &str) {
    while bench.double.count(method).unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await; // why: the double only records
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_when_its_server_is_back_and_no_task_is_begun_twice() {
    for (way, mode, task) in [
        (Way::Esx, Mode::Esx, "CopyVirtualDisk_Task"),
        (Way::Clone(CaptureTo::Disk), Mode::VCenter, "CloneVM_Task"),
    ] {
        let (bench, mut cut) = bench(way, mode).await;
        let first = bench.import("debian").await;
        bench.double.task_time(task, Duration::from_secs(2)).unwrap();
        // It is away before the load begins, and again while a task is under way.
        cut.cut().await;
        let outages = async {
            told(&bench, "host-away", 1).await;
            // Nobody waits outside of a job.
            let asked_now = std::time::Instant::now();
            let error = bench.backend.powers().await.unwrap_err();
            assert_eq!(error.kind, vcl_provisioning::ErrorKind::Unreachable);
            assert!(asked_now.elapsed() < Duration::from_secs(15));
            cut.mend().await;
            asked(&bench, task).await;
            cut.cut().await;
            told(&bench, "host-away", 2).await;
            cut.mend().await;
        };
        let (loaded, ()) = tokio::join!(bench.load("a", &first), outages);
        done(loaded);
        bench.same("a", &first);
        assert_eq!(bench.events("host-back").len(), 2, "{:?}", bench.told.0.lock().unwrap());
        assert_eq!(bench.double.count(task).unwrap(), 1);
        bench.unload("a").await;
        bench.nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_called_off_while_its_server_is_away_leaves_nothing() {
    let (bench, mut cut) = bench(Way::Esx, Mode::Esx).await;
    let first = bench.import("debian").await;
    bench.double.task_time("CopyVirtualDisk_Task", Duration::from_secs(600)).unwrap();
    let control = Control::default();
    let outage = async {
        asked(&bench, "CopyVirtualDisk_Task").await;
        cut.cut().await;
        told(&bench, "host-away", 1).await;
        control.cancel.cancel();
        // What was made there is taken back when it is there again.
        told(&bench, "host-away", 2).await;
        bench.double.task_time("CopyVirtualDisk_Task", Duration::ZERO).unwrap();
        cut.mend().await;
    };
    let (loaded, ()) = tokio::join!(bench.load_within(control.clone(), "a", &first), outage);
    assert_eq!(failed(loaded).kind, Kind::Cancelled);
    bench.nothing_left().await;
}
