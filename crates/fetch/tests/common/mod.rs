//! A server of one file on localhost, which misbehaves as it is told, and small archives.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use md5::{Digest, Md5};
use npid_fetch::{Archive, DataSet, Listener, Member, Options, RemoteFile};

/// A request that came: its path and its headers, names in lower case.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Where the range begins that is asked for.
    fn from(&self) -> Option<usize> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    }
}

/// What a server gives.
#[derive(Clone, Default)]
pub struct Served {
    pub bytes: Vec<u8>,
    pub etag: Option<&'static str>,
    /// Whether ranges are understood.
    pub ranges: bool,
    /// The connection ends after so many bytes of each answer's body.
    pub cut: Option<usize>,
    /// Answers with this status line instead.
    pub status: Option<&'static str>,
    /// For the first answers only; later ones are right.
    pub first: Option<usize>,
    /// Answers that the file is at this URL.
    pub redirect: Option<String>,
    /// Sends no length, so that the end of the connection is the end of the file.
    pub no_length: bool,
}

/// A server for as long as it lives.
pub struct Server {
    pub url: String,
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    served: Arc<Mutex<Served>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn new(served: Served) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::new(Mutex::new(served));
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (requests.clone(), served.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let (requests, served, stop) = shared;
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away ends its answer only.
                let _ = answer(stream.unwrap(), &requests, &served);
            }
        });
        Server {
            url: format!("http://127.0.0.1:{port}/files/"),
            port,
            requests,
            served,
            stop,
            thread: Some(thread),
        }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Gives something else from now on.
    pub fn serve(&self, served: Served) {
        *self.served.lock().unwrap() = served;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

fn answer(
    mut stream: TcpStream,
    requests: &Mutex<Vec<Request>>,
    served: &Mutex<Served>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_lowercase(), value.to_string()));
    }
    let request = Request { path, headers };
    let mut served = {
        let mut all = requests.lock().unwrap();
        all.push(request.clone());
        let mut served = served.lock().unwrap().clone();
        if served.first.is_some_and(|first| all.len() > first) {
            (served.cut, served.status) = (None, None);
        }
        served
    };
    if let Some(status) = served.status {
        return write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n"
        );
    }
    if let Some(to) = served.redirect {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let total = served.bytes.len();
    let same = request
        .header("if-range")
        .is_none_or(|tag| Some(tag) == served.etag);
    let from = request.from().filter(|_| served.ranges && same);
    let (mut head, body) = match from {
        Some(from) if from >= total => {
            let head =
                format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n");
            (head, Vec::new())
        }
        Some(from) => {
            let last = total - 1;
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{last}/{total}\r\n"
            );
            (head, served.bytes.split_off(from))
        }
        None => ("HTTP/1.1 200 OK\r\n".to_string(), served.bytes),
    };
    if let Some(etag) = served.etag {
        head += &format!("ETag: {etag}\r\n");
    }
    if !served.no_length {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    let end = served.cut.unwrap_or(usize::MAX).min(body.len());
    stream.write_all(&body[..end])
}

/// Retries at once, and never through a proxy.
pub fn options(mirror: &str) -> Options {
    Options {
        mirror: Some(mirror.to_string()),
        retries: 2,
        pause: Duration::from_millis(1),
        patience: Duration::from_secs(10),
        proxy: false,
    }
}

pub fn md5(bytes: &[u8]) -> String {
    let sum = Md5::digest(bytes);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes without a pattern that a shift would hide.
pub fn bytes(n: usize) -> Vec<u8> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// A data set of one plain file, `digits.bin`.
pub fn plain(content: &[u8]) -> DataSet {
    DataSet {
        name: "digits".into(),
        about: "digits".into(),
        homes: vec!["http://127.0.0.1:9/".into()],
        files: vec![RemoteFile {
            name: "digits.bin".into(),
            bytes: content.len() as u64,
            md5: md5(content),
            archive: None,
        }],
    }
}

/// A data set of one archive, `pictures.tar.gz`, with `pictures/a.bin` (5,000 bytes),
/// `pictures/b.bin` (100 bytes) and, if it is there, `pictures/names.txt`.
pub fn packed(content: &[u8]) -> DataSet {
    let member = |name: &str, bytes, required| Member {
        name: name.into(),
        bytes,
        required,
    };
    let archive = Archive {
        folder: "pictures".into(),
        members: vec![
            member("a.bin", 5000, true),
            member("b.bin", 100, true),
            member("names.txt", 1000, false),
        ],
    };
    let mut set = plain(content);
    set.files[0].name = "pictures.tar.gz".into();
    set.files[0].archive = Some(archive);
    set
}

/// An entry of a tar file with any name and type, such as no careful program would write.
pub fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    if kind == b'2' || kind == b'1' {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    let mut entry = header.as_bytes().to_vec();
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

/// What `packed` describes, with further entries before it.
pub fn archive(before: &[Vec<u8>]) -> Vec<u8> {
    let entries = [
        entry("pictures/", b'5', &[]),
        entry("pictures/readme.html", b'0', b"<html>"),
        entry("pictures/a.bin", b'0', &bytes(5000)),
        entry("./pictures/b.bin", b'0', &bytes(100)),
        entry("pictures/names.txt", b'0', b"one\ntwo\n"),
    ];
    gz(&[before.concat(), entries.concat()].concat())
}

/// A tar file's end, and gzip around it.
pub fn gz(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

/// A listener that remembers where downloads began.
#[derive(Default)]
pub struct Heard {
    pub begun: Vec<u64>,
    pub notes: Vec<String>,
    pub last: u64,
}

impl Listener for Heard {
    fn begin(&mut self, _name: &str, _url: &str, done: u64, _total: u64) {
        self.begun.push(done);
    }
    fn progress(&mut self, done: u64) {
        self.last = done;
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.into());
    }
}
