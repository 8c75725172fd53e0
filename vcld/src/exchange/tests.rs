//! Two nodes and what lies between them: real certificates, real connections, real files.

pub(crate) mod world;

use super::Exchange;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vcl_images::Library;
use vcl_job::{Error, Kind};
use vcl_types::Manifest;
use world::{Authority, MIB, Then, Wire, World, cx, files, publish, spoil};

async fn fetch(end: &Exchange, library: &Library, manifest: &Manifest) -> Result<Option<String>, Error> {
    let staging = Library::fetch_name("node2", &manifest.image_ref()).unwrap();
    end.fetch(&cx(), library, manifest, &staging, &[]).await
}

#[tokio::test]
async fn a_revision_comes_over_as_it_is() {
    let world = World::new();
    let (one, two) = (world.library("one"), world.library("two"));
    let manifest = publish(&one, "debian@2", 5 * MIB + 17, 1).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let end = world.end("node2", &[("node1", server.address)]);
    assert_eq!(
        end.greet("node1", &server.address.to_string()).await.unwrap(),
        format!("node1 vcld {}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(fetch(&end, &two, &manifest).await.unwrap().as_deref(), Some("node1"));
    assert_eq!(files(&one, "debian@2"), files(&two, "debian@2"));
    assert!(two.leftovers().unwrap().is_empty());
    // Again: it is here.
    assert_eq!(fetch(&end, &two, &manifest).await.unwrap(), None);
    // One that nobody has.
    let mut other = manifest.clone();
    other.revision = 3;
    let e = fetch(&end, &two, &other).await.unwrap_err();
    assert_eq!(e.kind, Kind::NotFound, "{e}");
    assert!(e.to_string().contains("debian@3") && e.to_string().contains("node1"), "{e}");
}

#[tokio::test]
async fn a_connection_that_is_cut_is_taken_up_where_it_was() {
    let world = World::new();
    let (one, two) = (world.library("one"), world.library("two"));
    let manifest = publish(&one, "debian@2", 6 * MIB, 2).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let wire = Wire::to(server.address, &[700_000, 1_500_000, 900_001, 300_000], Then::Whole, || ()).await;
    let end = world.end("node2", &[("node1", wire.address)]);
    fetch(&end, &two, &manifest).await.unwrap();
    assert_eq!(files(&one, "debian@2"), files(&two, "debian@2"));
    // What came was not asked for again: all that is above the file is handshakes and the last records of the cuts.
    let size = manifest.disks[0].file_size.bytes();
    assert!(wire.through() < size + 200_000, "{} of {size}", wire.through());
}

#[tokio::test]
async fn what_was_fetched_before_the_process_died_counts() {
    let world = World::new();
    let one = world.library("one");
    let manifest = publish(&one, "debian@2", 4 * MIB, 3).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    // One connection, cut after 3 MiB; then nothing any more.
    let wire = Wire::to(server.address, &[3 * MIB as u64], Then::Nothing, || ()).await;
    let e = fetch(&world.end("node2", &[("node1", wire.address)]), &world.library("two"), &manifest)
        .await
        .unwrap_err();
    assert_eq!(e.kind, Kind::Unreachable, "{e}");
    let two = world.library("two");
    assert_eq!(two.leftovers().unwrap().len(), 1);
    assert!(two.get(&"debian@2".parse().unwrap()).is_err());
    let wire = Wire::to(server.address, &[], Then::Whole, || ()).await;
    fetch(&world.end("node2", &[("node1", wire.address)]), &two, &manifest).await.unwrap();
    assert_eq!(files(&one, "debian@2"), files(&two, "debian@2"));
    assert!(wire.through() < 2 * MIB as u64, "{}", wire.through());
}

/// What lies in a partial file may be wrong: it comes anew then, and the source is not blamed.
#[tokio::test]
async fn a_partial_file_that_is_not_what_it_should_be_comes_anew() {
    let world = World::new();
    let (one, two) = (world.library("one"), world.library("two"));
    let manifest = publish(&one, "debian@2", 2 * MIB, 4).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let staging = two.staging(&Library::fetch_name("node2", &manifest.image_ref()).unwrap()).unwrap();
    std::fs::write(staging.path("disk0.qcow2.partial").unwrap(), vec![0; MIB]).unwrap();
    std::fs::write(staging.path("kernel.partial").unwrap(), vec![0; MIB]).unwrap();
    std::fs::write(staging.path("disk9.qcow2").unwrap(), "of another listing").unwrap();
    fetch(&world.end("node2", &[("node1", server.address)]), &two, &manifest).await.unwrap();
    assert_eq!(files(&one, "debian@2"), files(&two, "debian@2"));
}

#[tokio::test]
async fn who_is_not_of_us_is_turned_away() {
    let world = World::new();
    let (one, two) = (world.library("one"), world.library("two"));
    let manifest = publish(&one, "debian@2", MIB, 5).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let other = Authority::new();

    // A certificate of another authority.
    let end = world.end_of(&other, "node2", &[("node1", server.address)]);
    let e = fetch(&end, &two, &manifest).await.unwrap_err();
    assert_eq!(e.kind, Kind::Auth, "{e}");
    // One of ours, and no node's name.
    let end = world.end("somebody", &[("node1", server.address)]);
    let e = fetch(&end, &two, &manifest).await.unwrap_err();
    assert!(e.kind == Kind::Auth && e.to_string().contains("somebody"), "{e}");
    // A server that is not the node it is dialled as.
    let end = world.end("node2", &[("node3", server.address)]);
    let e = fetch(&end, &two, &manifest).await.unwrap_err();
    assert_eq!(e.kind, Kind::Auth, "{e}");
    // A server of another authority.
    let foreign = world.serve(world.end_of(&other, "node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let end = world.end("node2", &[("node1", foreign.address)]);
    let e = fetch(&end, &two, &manifest).await.unwrap_err();
    assert!(e.kind == Kind::Auth && e.to_string().contains("exchange.ca"), "{e}");
    // No certificate at all.
    let ca = reqwest::Certificate::from_pem(&std::fs::read(world.path().join("node2.ca")).unwrap()).unwrap();
    let bare =
        reqwest::Client::builder().tls_certs_only([ca]).resolve("node1", server.address).build().unwrap();
    let url = format!("https://node1:{}/v1/node", server.address.port());
    assert!(bare.get(url).send().await.is_err());
    assert!(two.get(&"debian@2".parse().unwrap()).is_err());
}

#[tokio::test]
async fn a_source_that_changes_in_the_middle_is_noticed_and_another_is_asked() {
    let world = World::new();
    let (one, two, three) = (world.library("one"), world.library("two"), world.library("three"));
    let manifest = publish(&one, "debian@2", 4 * MIB, 6).await;
    publish(&three, "debian@2", 4 * MIB, 6).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let third = world.serve(world.end("node3", &[("node2", nobody)]), &three, "127.0.0.4").await;
    let (changing, done) = (one.clone(), Arc::new(AtomicBool::new(false)));
    let seen = done.clone();
    let wire = Wire::to(server.address, &[MIB as u64], Then::Whole, move || {
        spoil(&changing, "debian@2", 3 * MIB as u64);
        seen.store(true, Ordering::SeqCst);
    })
    .await;
    let alone = world.end("node2", &[("node1", wire.address)]);
    let e = fetch(&alone, &two, &manifest).await.unwrap_err();
    assert!(done.load(Ordering::SeqCst));
    assert!(e.kind == Kind::Corrupt && e.to_string().contains("image verify debian@2"), "{e}");
    assert!(two.get(&"debian@2".parse().unwrap()).is_err());
    // Another node has it as it should be.
    let end = world.end("node2", &[("node1", server.address), ("node3", third.address)]);
    assert_eq!(fetch(&end, &two, &manifest).await.unwrap().as_deref(), Some("node3"));
    assert_eq!(files(&three, "debian@2"), files(&two, "debian@2"));
}

#[tokio::test]
async fn another_revision_under_the_same_name_is_not_taken() {
    let world = World::new();
    let (one, two) = (world.library("one"), world.library("two"));
    let theirs = publish(&one, "debian@2", MIB, 7).await;
    let ours = publish(&world.library("elsewhere"), "debian@2", MIB, 8).await;
    assert_ne!(theirs, ours);
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let e = fetch(&world.end("node2", &[("node1", server.address)]), &two, &ours).await.unwrap_err();
    assert!(e.kind == Kind::Corrupt && e.to_string().contains("database"), "{e}");
    // A range of a file that is another than was asked for.
    let client = super::client::Client::new(
        &world.end("node2", &[("node1", server.address)]),
        "node1",
        &server.address.to_string(),
    )
    .await
    .unwrap();
    let mut listed = client.listing(&ours.image_ref()).await.unwrap().files.remove(0);
    listed.digest = ours.disks[0].file_digest.clone();
    let fetching = two.fetching("fetch+node2+debian+2").unwrap().unwrap();
    let e = client.file(&cx(), &ours.image_ref(), &fetching, &listed, &mut 0, 1).await.unwrap_err();
    assert!(e.kind == Kind::Corrupt && e.to_string().contains("412"), "{e}");
}

#[tokio::test]
async fn two_who_want_the_same_get_it_once() {
    let world = World::new();
    let (one, two) = (world.library("one"), world.library("two"));
    let manifest = publish(&one, "debian@2", 3 * MIB, 9).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let wire = Wire::to(server.address, &[], Then::Whole, || ()).await;
    let end = world.end("node2", &[("node1", wire.address)]);
    let (a, b) = tokio::join!(fetch(&end, &two, &manifest), fetch(&end, &two, &manifest));
    let mut from = [a.unwrap(), b.unwrap()];
    from.sort();
    assert_eq!(from, [None, Some("node1".to_owned())]);
    assert!(wire.through() < 4 * MIB as u64);
    // Another process of this node has the staging.
    let mut other = manifest.clone();
    other.revision = 3;
    let staging = Library::fetch_name("node2", &other.image_ref()).unwrap();
    let held = two.fetching(&staging).unwrap().unwrap();
    assert_eq!(fetch(&end, &two, &other).await.unwrap_err().kind, Kind::Busy);
    held.discard().await.unwrap();
}

#[tokio::test]
async fn a_full_library_is_no_space_before_and_while_it_comes() {
    let world = World::new();
    let one = world.library("one");
    let manifest = publish(&one, "debian@2", 6 * MIB, 10).await;
    let small = world.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount = |size: &str| {
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs", small.as_str()])
            .output()
            .unwrap();
        if !done.status.success() {
            eprintln!("skipped: cannot mount a tmpfs: {}", String::from_utf8_lossy(&done.stderr));
        }
        done.status.success()
    };
    if !mount("size=4m") {
        return;
    }
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let library = Library::open(&small).unwrap();
    let end = world.end("node2", &[("node1", server.address)]);
    let before = fetch(&end, &library, &manifest).await.unwrap_err();
    std::process::Command::new("umount").arg(&small).status().unwrap();
    assert!(before.kind == Kind::NoSpace && before.to_string().contains("free"), "{before}");

    // It fits when it begins, and somebody else fills the file system meanwhile.
    assert!(mount("size=8m"));
    let library = Library::open(&small).unwrap();
    let filling = small.clone();
    let wire = Wire::to(server.address, &[MIB as u64], Then::Whole, move || {
        std::fs::write(filling.join(".staging/else"), vec![1; 5 * MIB]).unwrap();
    })
    .await;
    let end = world.end("node2", &[("node1", wire.address)]);
    let e = fetch(&end, &library, &manifest).await.unwrap_err();
    // Freed, it goes on.
    std::fs::remove_file(small.join(".staging/else")).unwrap();
    let again = fetch(&end, &library, &manifest).await;
    drop(library);
    std::process::Command::new("umount").arg(&small).status().unwrap();
    assert_eq!(e.kind, Kind::NoSpace, "{e}");
    assert_eq!(again.unwrap().as_deref(), Some("node1"));
}

/// The commands of several-nodes.md, as they stand there.
#[tokio::test]
async fn certificates_made_as_the_guide_says_are_accepted() {
    let guide = include_str!("../../../docs/several-nodes.md");
    let mut blocks = guide.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let (authority, each) = (blocks.next().unwrap(), blocks.next().unwrap());
    let world = World::new();
    let shell = |text: &str| {
        let done =
            std::process::Command::new("sh").args(["-ec", text]).current_dir(world.path()).output().unwrap();
        assert!(done.status.success(), "{text}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    shell(authority);
    let mut ends = Vec::new();
    for name in ["node1.example.org", "node2.example.org"] {
        let said = shell(&each.replace("node1.example.org", name));
        assert!(said.contains(&format!("DNS:{name}")), "{said}");
        let at = |file: String| world.path().join(file);
        let files = vcl_config::Exchange {
            listen: "127.0.0.1:0".parse().unwrap(),
            address: None,
            ca: at("ca.pem".into()),
            certificate: at(format!("{name}.pem")),
            key: vcl_config::KeySource::File(at(format!("{name}.key"))),
            peers: [].into(),
        };
        ends.push(world::identity(&files));
    }
    let end = |n: usize, name: &str, peer: &str, at: std::net::SocketAddr| {
        let peers = super::Configured([(peer.to_owned(), at.to_string())].into());
        let silence = std::time::Duration::from_secs(20);
        Arc::new(Exchange::new(name, ends[n].clone(), Arc::new(peers), silence, vcl_types::ByteSize(0)))
    };
    let (one, two) = (world.library("one"), world.library("two"));
    let manifest = publish(&one, "debian@2", MIB, 11).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let first = end(0, "node1.example.org", "node2.example.org", nobody);
    let server = world.serve(first.clone(), &one, "127.0.0.2").await;
    let second = end(1, "node2.example.org", "node1.example.org", server.address);
    fetch(&second, &two, &manifest).await.unwrap();
    let found = second.findings().await;
    assert!(found.iter().all(|f| f.level == vcl_types::api::FindingLevel::Ok), "{found:?}");
    assert_eq!(found.len(), 2);
    // The first knows the second at an address where nobody answers.
    let found = first.findings().await;
    assert!(found[1].found.contains("node2.example.org") && found[1].way_out.is_some(), "{found:?}");
    // A certificate that is for another name than the node has.
    let misnamed = end(1, "node3", "node1.example.org", server.address).findings().await;
    assert!(misnamed[1].found.contains("is called node3"), "{misnamed:?}");
}
