//! Downloads from a server on localhost that gives what it should, or doesn't.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use npid_fetch::{Error, fetch};

const SIZE: usize = 300_000;

fn served(bytes: &[u8]) -> Served {
    Served {
        bytes: bytes.to_vec(),
        etag: Some("\"v1\""),
        ranges: true,
        ..Served::default()
    }
}

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn failed(error: Error, parts: &[&str]) {
    let Error::Failed(text) = &error else {
        panic!("{error} is the user's fault");
    };
    assert!(!text.contains('\n'));
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

fn input(error: Error, parts: &[&str]) {
    let Error::Input(text) = &error else {
        panic!("{error} is not the user's fault");
    };
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn a_file_comes_whole_and_only_once() {
    let content = bytes(SIZE);
    let server = Server::new(served(&content));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a/b");
    let set = plain(&content);
    let mut heard = Heard::default();
    let fetched = fetch(&set, &out, &options(&server.url), &mut heard).unwrap();
    assert!(!fetched.already);
    assert_eq!(fetched.downloaded, SIZE as u64);
    assert_eq!(fetched.paths, [out.join("digits.bin")]);
    assert_eq!((heard.begun, heard.last), (vec![0], SIZE as u64));
    assert!(fs::read(out.join("digits.bin")).unwrap() == content);
    assert_eq!(names(&out), ["digits.bin"]);
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/files/digits.bin");
    assert_eq!(requests[0].header("accept-encoding"), Some("identity"));
    assert_eq!(requests[0].header("range"), None);

    let fetched = fetch(&set, &out, &options(&server.url), &mut ()).unwrap();
    assert!(fetched.already && fetched.downloaded == 0);
    assert_eq!(server.requests().len(), 1);

    // A URL without the last slash is a folder too; one without lengths also serves.
    server.serve(Served {
        no_length: true,
        ..served(&content)
    });
    let url = server.url.trim_end_matches('/');
    fetch(&set, &folder.path().join("c"), &options(url), &mut ()).unwrap();
}

#[test]
fn the_home_pages_are_tried_in_order() {
    let content = bytes(SIZE);
    let closed = Server::new(Served {
        status: Some("403 Forbidden"),
        ..Served::default()
    });
    let page = Server::new(served(b"<html>This page has moved</html>"));
    let server = Server::new(served(&content));
    let mut set = plain(&content);
    set.homes = [&closed, &page, &server].map(|s| s.url.clone()).into();
    let folder = tempfile::tempdir().unwrap();
    let options = npid_fetch::Options {
        mirror: None,
        ..options("")
    };
    fetch(&set, folder.path(), &options, &mut ()).unwrap();
    assert_eq!(names(folder.path()), ["digits.bin"]);
    set.homes.truncate(2);
    let error = fetch(&set, &folder.path().join("new"), &options, &mut ()).unwrap_err();
    failed(
        error,
        &[
            &closed.url,
            "403",
            &page.url,
            "32 bytes",
            "--mirror URL",
            "by hand",
        ],
    );
    assert_eq!(names(folder.path()), ["digits.bin"]);
}

#[test]
fn a_cut_connection_is_gone_on_with_at_once() {
    let content = bytes(SIZE);
    // Ten answers of at most 30,000 bytes each.
    let server = Server::new(Served {
        cut: Some(30_000),
        ..served(&content)
    });
    let folder = tempfile::tempdir().unwrap();
    let mut heard = Heard::default();
    let fetched = fetch(
        &plain(&content),
        folder.path(),
        &options(&server.url),
        &mut heard,
    );
    assert_eq!(fetched.unwrap().downloaded, SIZE as u64);
    let tens: Vec<u64> = (0..10).map(|i| i * 30_000).collect();
    assert_eq!(heard.begun, tens);
    let requests = server.requests();
    assert_eq!(requests[1].header("range"), Some("bytes=30000-"));
    assert_eq!(requests[1].header("if-range"), Some("\"v1\""));
    assert!(fs::read(folder.path().join("digits.bin")).unwrap() == content);
    assert_eq!(names(folder.path()), ["digits.bin"]);
}

#[test]
fn an_interrupted_download_goes_on_in_the_next_call() {
    let content = bytes(SIZE);
    let folder = tempfile::tempdir().unwrap();
    let set = plain(&content);
    let out = folder.path();
    let server = Server::new(Served {
        cut: Some(1000),
        ..served(&content)
    });
    // The first answer brings something, so a second request is made, which is refused.
    let mut stop = StopAfter { server: &server };
    let once = npid_fetch::Options {
        retries: 1,
        ..options(&server.url)
    };
    let error = fetch(&set, out, &once, &mut stop).unwrap_err();
    failed(error, &["digits.bin", "503", "--mirror"]);
    assert_eq!(names(out), ["digits.bin.part", "digits.bin.part.json"]);
    assert_eq!(
        fs::metadata(out.join("digits.bin.part")).unwrap().len(),
        1000
    );

    // From another place: no version to name, and the rest is the same.
    let other = Server::new(served(&content));
    let mut heard = Heard::default();
    let fetched = fetch(&set, out, &options(&other.url), &mut heard).unwrap();
    assert_eq!(
        (fetched.downloaded, heard.begun),
        (SIZE as u64 - 1000, vec![1000])
    );
    assert_eq!(other.requests()[0].header("if-range"), None);
    assert_eq!(names(out), ["digits.bin"]);
}

#[test]
fn what_is_there_outlives_a_server_that_is_gone() {
    let content = bytes(SIZE);
    let set = plain(&content);
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("digits.bin.part");
    fs::write(&part, &content[..5000]).unwrap();
    let server = Server::new(Served {
        status: Some("404 Not Found"),
        ..Served::default()
    });
    let page = Server::new(Served {
        ranges: false,
        ..served(b"<html>Please sign in</html>")
    });
    let nobody = Server::new(Served::default()).url.clone();
    for url in [&server.url, &page.url, &nobody] {
        let mut heard = Heard::default();
        let error = fetch(&set, folder.path(), &options(url), &mut heard).unwrap_err();
        failed(error, &[url]);
        assert_eq!((heard.begun.len(), heard.notes.len()), (0, 0), "{url}");
        assert_eq!(fs::metadata(&part).unwrap().len(), 5000);
    }
    let server = Server::new(served(&content));
    let fetched = fetch(&set, folder.path(), &options(&server.url), &mut ()).unwrap();
    assert_eq!(fetched.downloaded, SIZE as u64 - 5000);
}

/// Makes a server fail after its first answer.
struct StopAfter<'a> {
    server: &'a Server,
}

impl npid_fetch::Listener for StopAfter<'_> {
    fn begin(&mut self, _: &str, _: &str, _: u64, _: u64) {
        self.server.serve(Served {
            status: Some("503 Service Unavailable"),
            ..Served::default()
        });
    }
}

#[test]
fn what_can_t_be_gone_on_with_is_started_over() {
    let content = bytes(SIZE);
    let set = plain(&content);
    let start = |part: &[u8], note: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("digits.bin.part"), part).unwrap();
        if !note.is_empty() {
            fs::write(folder.path().join("digits.bin.part.json"), note).unwrap();
        }
        folder
    };
    let finish = |folder: &tempfile::TempDir, server: &Server, begun: &[u64]| {
        let mut heard = Heard::default();
        fetch(&set, folder.path(), &options(&server.url), &mut heard).unwrap();
        assert_eq!(heard.begun, begun);
        assert!(fs::read(folder.path().join("digits.bin")).unwrap() == content);
        assert_eq!(names(folder.path()), ["digits.bin"]);
    };
    // No ranges: all of it comes again.
    let server = Server::new(Served {
        ranges: false,
        ..served(&content)
    });
    finish(&start(&content[..5000], ""), &server, &[0]);
    assert_eq!(server.requests()[0].header("range"), Some("bytes=5000-"));
    // Another version than the one begun with.
    let server = Server::new(served(&content));
    let note = format!(r#"{{"url":"{}digits.bin","version":"\"v0\""}}"#, server.url);
    finish(&start(&content[..5000], &note), &server, &[0]);
    assert_eq!(server.requests()[0].header("if-range"), Some("\"v0\""));
    // A beginning of something else shows in the sum.
    finish(&start(&[7; 5000], ""), &server, &[5000, 0]);
    finish(&start(&[7; 5000], "not JSON"), &server, &[5000, 0]);
    // More than there should be, and all of it but wrong.
    finish(&start(&[7; SIZE + 1], ""), &server, &[0]);
    finish(&start(&[7; SIZE], ""), &server, &[0]);
    // All of it, and right: nothing is asked.
    let asked = server.requests().len();
    finish(&start(&content, ""), &server, &[]);
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn another_file_than_the_published_one_is_refused() {
    let content = bytes(SIZE);
    let mut wrong = content.clone();
    wrong[SIZE / 2] ^= 1;
    let server = Server::new(served(&wrong));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let error = fetch(&plain(&content), &out, &options(&server.url), &mut ()).unwrap_err();
    failed(
        error,
        &[
            &server.url,
            "MD5",
            &md5(&wrong),
            &md5(&content),
            "by hand to",
        ],
    );
    assert!(!out.exists(), "{:?}", names(&out));
    assert_eq!(server.requests().len(), 1);

    // Of another size: not even begun, or ended where it should have ended.
    for (length, no_length, said) in [
        (SIZE + 1, false, "300001 bytes"),
        (SIZE - 1, false, "299999 bytes"),
        (5 * SIZE, true, "more bytes than the 300000"),
    ] {
        server.serve(Served {
            no_length,
            ..served(&bytes(length))
        });
        let error = fetch(&plain(&content), &out, &options(&server.url), &mut ()).unwrap_err();
        failed(error, &[said]);
        assert!(!out.exists());
    }
}

#[test]
fn answers_that_are_no_file_are_told() {
    let content = bytes(SIZE);
    let set = plain(&content);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let server = Server::new(Served {
        status: Some("404 Not Found"),
        ..Served::default()
    });
    let error = fetch(&set, &out, &options(&server.url), &mut ()).unwrap_err();
    failed(error, &["digits.bin", "404 Not Found", "--mirror"]);
    assert_eq!(server.requests().len(), 1);
    assert!(!out.exists());

    // A server that is busy is asked again; at last it gives the file.
    let server = Server::new(Served {
        status: Some("503 Service Unavailable"),
        first: Some(2),
        ..served(&content)
    });
    let mut heard = Heard::default();
    fetch(&set, &out, &options(&server.url), &mut heard).unwrap();
    assert_eq!((server.requests().len(), heard.notes.len()), (3, 2));

    // Nobody there.
    let nobody = Server::new(Served::default()).url.clone();
    let error = fetch(&set, &folder.path().join("new"), &options(&nobody), &mut ()).unwrap_err();
    failed(error, &[&nobody, "no connection"]);
    assert!(!folder.path().join("new").exists());
    // Nobody by that name.
    let options = options("http://nobody.invalid/");
    let error = fetch(&set, &folder.path().join("new"), &options, &mut ()).unwrap_err();
    failed(error, &["http://nobody.invalid/digits.bin"]);
}

#[test]
fn redirections_are_followed_but_not_for_ever() {
    let content = bytes(SIZE);
    let set = plain(&content);
    let server = Server::new(served(&content));
    let door = Server::new(Served {
        redirect: Some(format!("{}elsewhere.bin", server.url)),
        ..Served::default()
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("digits.bin.part"), &content[..77]).unwrap();
    fetch(&set, folder.path(), &options(&door.url), &mut ()).unwrap();
    assert_eq!(server.requests()[0].path, "/files/elsewhere.bin");
    assert_eq!(server.requests()[0].header("range"), Some("bytes=77-"));

    let around = Server::new(Served::default());
    around.serve(Served {
        redirect: Some(format!("{}again", around.url)),
        ..Served::default()
    });
    let error = fetch(
        &set,
        &folder.path().join("new"),
        &options(&around.url),
        &mut (),
    );
    failed(error.unwrap_err(), &["redirect"]);
    assert!(around.requests().len() < 20);
}

#[test]
fn an_archive_is_unpacked_and_recognised() {
    let content = archive(&[]);
    let set = packed(&content);
    let server = Server::new(Served {
        cut: Some(content.len() / 2),
        first: Some(1),
        ..served(&content)
    });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let fetched = fetch(&set, out, &options(&server.url), &mut ()).unwrap();
    assert_eq!(fetched.paths, [out.join("pictures")]);
    assert_eq!(names(out), ["pictures"]);
    // What isn't listed isn't written.
    assert_eq!(
        names(&out.join("pictures")),
        ["a.bin", "b.bin", "names.txt"]
    );
    assert!(fs::read(out.join("pictures/a.bin")).unwrap() == bytes(5000));
    assert!(fs::read(out.join("pictures/b.bin")).unwrap() == bytes(100));
    assert_eq!(server.requests().len(), 2);
    let again = fetch(&set, out, &options(&server.url), &mut ()).unwrap();
    assert!(again.already);
    assert_eq!(server.requests().len(), 2);

    // A folder that isn't whole is named, and left alone.
    fs::write(out.join("pictures/b.bin"), "short").unwrap();
    let error = fetch(&set, out, &options(&server.url), &mut ()).unwrap_err();
    input(error, &["pictures", "b.bin", "5 bytes", "remove"]);

    // An archive that was downloaded by hand is used, and stays.
    let hand = tempfile::tempdir().unwrap();
    fs::write(hand.path().join("pictures.tar.gz"), &content).unwrap();
    // What a kill left of an earlier unpacking is no hindrance.
    fs::create_dir(hand.path().join(".pictures.tmp")).unwrap();
    fs::write(hand.path().join(".pictures.tmp/a.bin"), "half").unwrap();
    let fetched = fetch(&set, hand.path(), &options(&server.url), &mut ()).unwrap();
    assert!(!fetched.already && fetched.downloaded == 0);
    assert_eq!(names(hand.path()), ["pictures", "pictures.tar.gz"]);
    assert_eq!(server.requests().len(), 2);

    // A file of that name that is something else is not touched.
    let hand = tempfile::tempdir().unwrap();
    let file = hand.path().join("pictures.tar.gz");
    fs::write(&file, "mine").unwrap();
    let error = fetch(&set, hand.path(), &options(&server.url), &mut ()).unwrap_err();
    input(error, &["pictures.tar.gz", "4 bytes", "remove it"]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn hostile_and_broken_archives_leave_nothing() {
    let good = [
        entry("pictures/a.bin", b'0', &bytes(5000)),
        entry("pictures/b.bin", b'0', &bytes(100)),
    ]
    .concat();
    let with = |entries: &[Vec<u8>]| archive(entries);
    let bomb = gz(&entry("pictures/zeros", b'0', &vec![0; 40 << 20]));
    assert!(bomb.len() < 1 << 20);
    let mut damaged = archive(&[]);
    let at = damaged.len() / 2;
    damaged[at] ^= 0xff;
    let cut = gz(&good[..3000]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("up", with(&[entry("../out.txt", b'0', b"x")]), "leads out"),
        (
            "inner",
            with(&[entry("pictures/../../x", b'0', b"x")]),
            "leads out",
        ),
        (
            "absolute",
            with(&[entry("/tmp/npid-x", b'0', b"x")]),
            "leads out",
        ),
        (
            "symbolic",
            with(&[entry("pictures/names.txt", b'2', b"")]),
            "link",
        ),
        ("hard", with(&[entry("pictures/l", b'1', b"")]), "link"),
        (
            "large",
            with(&[entry("pictures/a.bin", b'0', &bytes(5001))]),
            "5001 bytes",
        ),
        (
            "twice",
            with(&[entry("pictures/a.bin", b'0', &bytes(5000))]),
            "once",
        ),
        (
            "text",
            with(&[entry("pictures/names.txt", b'0', &bytes(1001))]),
            "1001 bytes",
        ),
        ("bomb", bomb, "far more"),
        (
            "lacking",
            gz(&entry("pictures/a.bin", b'0', &bytes(5000))),
            "no pictures/b.bin",
        ),
        (
            "elsewhere",
            gz(&entry("other/a.bin", b'0', &bytes(5000))),
            "no pictures/a.bin",
        ),
        ("damaged", damaged, ""),
        ("cut", cut, "broken"),
        ("plain", bytes(3000), "broken"),
    ];
    for (case, content, said) in cases {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("in/out");
        let server = Server::new(served(&content));
        let error = fetch(&packed(&content), &out, &options(&server.url), &mut ());
        failed(error.expect_err(case), &["pictures.tar.gz", said]);
        // The download was what was published; only it is left.
        let left = names(&out);
        assert!(
            left.iter()
                .all(|name| name.starts_with("pictures.tar.gz.part")),
            "{case}: {left:?}"
        );
        assert_eq!(names(&folder.path().join("in")), ["out"], "{case}");
        assert_eq!(names(folder.path()), ["in"], "{case}");
    }
    // Names that a header before the entry gives are not followed: the entry's own counts.
    let long = entry("././@LongLink", b'L', b"../../out.txt\0");
    let content = with(&[long, entry("pictures/other", b'0', b"x")]);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(served(&content));
    fetch(
        &packed(&content),
        folder.path(),
        &options(&server.url),
        &mut (),
    )
    .unwrap();
    assert_eq!(names(folder.path()), ["pictures"]);
}

#[test]
fn what_was_given_is_checked_first() {
    let content = bytes(100);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for url in [
        "",
        "ftp://127.0.0.1/",
        "file:///tmp/",
        "somewhere",
        "http://",
        "http://a/?b=c",
    ] {
        let error = fetch(&plain(&content), &out, &options(url), &mut ()).unwrap_err();
        input(error, &[&format!("--mirror {url}")]);
        assert!(!out.exists());
    }
    fs::write(&out, "a file").unwrap();
    let error = fetch(
        &plain(&content),
        &out,
        &options("http://127.0.0.1:9/"),
        &mut (),
    );
    input(error.unwrap_err(), &["--out", "out"]);

    // Two at once.
    let content = bytes(SIZE);
    let part = folder.path().join("digits.bin.part");
    let held = fs::File::create(&part).unwrap();
    held.lock().unwrap();
    let error = fetch(
        &plain(&content),
        folder.path(),
        &options("http://127.0.0.1:9/"),
        &mut (),
    );
    input(error.unwrap_err(), &["digits.bin.part", "another npid"]);
}
