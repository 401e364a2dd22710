//! One file over HTTP, continued where it was broken off.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::catalog::{DataSet, RemoteFile};
use crate::{Error, Fetched, Listener, Options, md5_of};

/// Most redirections that are followed.
const REDIRECTS: u32 = 10;

/// What downloads.
pub struct Client {
    agent: Agent,
    mirror: Option<String>,
    retries: u32,
    pause: Duration,
    patience: Duration,
}

/// A whole and checked file, `FILE.part`, which no other process touches as long as this lives.
pub struct Part {
    path: PathBuf,
    _file: File,
}

impl Part {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what was noted about it, once it has gone to its place.
    pub fn forget(self) {
        // At worst a small file stays.
        let _ = fs::remove_file(note_path(&self.path));
    }
}

/// What is known of a partial file: `FILE.part.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note {
    url: String,
    /// Its version there: a strong `ETag`, or else `Last-Modified`.
    version: Option<String>,
}

fn note_path(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Why an attempt failed.
enum Failure {
    /// A connection that broke, or a server that is busy: another attempt may go on.
    Broken(String),
    /// The server can't be reached: worth another attempt if it could a moment ago.
    Unreachable(String),
    /// Another attempt at this URL will not help; what is there of the file is as good as before.
    Refused(String),
    /// What is there is not the published file, nor a beginning of it.
    Wrong(String),
    /// The disk.
    Local(Error),
}

impl Client {
    /// # Errors
    /// [`Error::Input`] if the mirror is no URL of a folder.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let mut mirror = options.mirror.clone();
        if let Some(url) = &mut mirror {
            let uri: Result<ureq::http::Uri, _> = url.parse();
            let usable = uri.is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some_and(|host| !host.is_empty())
                    && uri.query().is_none()
            });
            if !usable {
                return Err(Error::Input(format!(
                    "--mirror {url}: not the URL of a folder; give one such as \
                     https://HOST/FOLDER/, in which the files have their published names"
                )));
            }
            if !url.ends_with('/') {
                url.push('/');
            }
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(REDIRECTS)
            .user_agent(concat!("npid/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(options.patience))
            .timeout_per_read(Some(options.patience));
        if !options.proxy {
            config = config.proxy(None);
        }
        Ok(Client {
            agent: config.build().into(),
            mirror,
            retries: options.retries,
            pause: options.pause,
            patience: options.patience,
        })
    }

    /// Brings `file`, which will be `path`, and checks it. The part is whole and has the published
    /// sum.
    ///
    /// # Errors
    /// See [`crate::fetch`].
    pub fn get(
        &self,
        set: &DataSet,
        file: &RemoteFile,
        path: &Path,
        fetched: &mut Fetched,
        listener: &mut dyn Listener,
    ) -> Result<Part, Error> {
        let (part, mut opened) = open(path)?;
        let homes = match &self.mirror {
            Some(mirror) => std::slice::from_ref(mirror),
            None => &set.homes[..],
        };
        let mut reasons = Vec::new();
        for home in homes {
            let url = format!("{home}{}", file.name);
            let before = length(&part, &opened)?;
            let mut attempt = Attempt {
                client: self,
                url: &url,
                file,
                part: &part,
                opened: &mut opened,
                fetched: &mut *fetched,
            };
            let mut got = attempt.whole_and_right(listener);
            if matches!(got, Err(Failure::Wrong(_))) && before > 0 {
                // What was there before may have been the start of something else.
                listener.note(&format!("{}: starting over", file.name));
                attempt
                    .restart()
                    .map_err(|error| write_error(&part, &error))?;
                got = attempt.whole_and_right(listener);
            }
            match got {
                Ok(()) => {
                    return Ok(Part {
                        path: part,
                        _file: opened,
                    });
                }
                Err(Failure::Local(error)) => return Err(error),
                Err(Failure::Wrong(why)) => {
                    reasons.push(format!("{url}: {why}"));
                    // Nothing may go on with that.
                    let emptied = opened.set_len(0);
                    emptied.map_err(|error| write_error(&part, &error))?;
                }
                Err(Failure::Broken(why) | Failure::Unreachable(why) | Failure::Refused(why)) => {
                    reasons.push(format!("{url}: {why}"))
                }
            }
        }
        if length(&part, &opened)? == 0 {
            // Nothing came: nothing stays.
            drop(opened);
            let _ = fs::remove_file(&part);
            let _ = fs::remove_file(note_path(&part));
        }
        let other = match self.mirror {
            Some(_) => "give another --mirror URL, or leave it out",
            None => "name another place with --mirror URL",
        };
        Err(Error::Failed(format!(
            "{}; check the network, {other}, or download the file by hand to {} and run the \
             command again",
            reasons.join("; "),
            path.display()
        )))
    }
}

/// Opens the partial file of `path`, for this process alone.
fn open(path: &Path) -> Result<(PathBuf, File), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let file = (File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false))
    .open(&part)
    .map_err(|error| {
        Error::Input(format!(
            "{}: can't be written ({error}); name another folder with --out",
            part.display()
        ))
    })?;
    match file.try_lock() {
        // A file system without locks has none to wait for.
        Ok(()) | Err(TryLockError::Error(_)) => Ok((part, file)),
        Err(TryLockError::WouldBlock) => Err(Error::Input(format!(
            "{}: another npid is downloading it; wait until it has ended, or stop it",
            part.display()
        ))),
    }
}

fn write_error(part: &Path, error: &std::io::Error) -> Error {
    Error::Failed(format!(
        "{}: can't be written ({error}); make room and run the command again, which goes on where \
         it stopped",
        part.display()
    ))
}

fn length(part: &Path, file: &File) -> Result<u64, Error> {
    file.metadata()
        .map(|metadata| metadata.len())
        .map_err(|error| write_error(part, &error))
}

/// Attempts at one URL.
struct Attempt<'a> {
    client: &'a Client,
    url: &'a str,
    file: &'a RemoteFile,
    part: &'a Path,
    opened: &'a mut File,
    fetched: &'a mut Fetched,
}

impl Attempt<'_> {
    /// Brings all bytes and compares their sum with the published one.
    fn whole_and_right(&mut self, listener: &mut dyn Listener) -> Result<(), Failure> {
        self.whole(listener)?;
        listener.working(&format!("{}: checking", self.file.name));
        let sum = md5_of(self.part).map_err(|error| self.local(&error))?;
        if sum == self.file.md5 {
            return Ok(());
        }
        Err(Failure::Wrong(format!(
            "its MD5 sum is {sum} where the published one is {}: this is another file, or it was \
             damaged on the way",
            self.file.md5
        )))
    }

    /// Brings all bytes, in as many attempts as bring something.
    fn whole(&mut self, listener: &mut dyn Listener) -> Result<(), Failure> {
        let mut idle = 0;
        let first = self.fetched.downloaded;
        loop {
            let before = self.fetched.downloaded;
            let failure = match self.once(listener) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let why = match &failure {
                Failure::Broken(why) => why,
                Failure::Unreachable(why) if self.fetched.downloaded > first => why,
                _ => return Err(failure),
            };
            if self.fetched.downloaded > before {
                idle = 0;
            }
            if idle >= self.client.retries {
                return Err(failure);
            }
            listener.note(&format!("{}: {why}; trying again", self.url));
            std::thread::sleep(self.client.pause * 2u32.saturating_pow(idle));
            idle += 1;
        }
    }

    fn local(&self, error: &std::io::Error) -> Failure {
        Failure::Local(write_error(self.part, error))
    }

    /// Forgets what is there.
    fn restart(&mut self) -> std::io::Result<()> {
        self.opened.set_len(0)
    }

    /// One request: the rest of the file, or all of it.
    fn once(&mut self, listener: &mut dyn Listener) -> Result<(), Failure> {
        let total = self.file.bytes;
        let mut have = length(self.part, self.opened).map_err(Failure::Local)?;
        if have == total {
            return Ok(());
        }
        if have > total {
            // Not a beginning of this file.
            self.restart().map_err(|error| self.local(&error))?;
            have = 0;
        }
        let response = self.request(have)?;
        let status = response.status();
        let come_from = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => content_range(&response, have, total)?,
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                // The server's file ends before what is there: that was of another.
                self.restart().map_err(|error| self.local(&error))?;
                return Err(Failure::Broken("it has changed".into()));
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                return Err(Failure::Broken(format!("the server answers {status}")));
            }
            _ if status.is_server_error() => {
                return Err(Failure::Broken(format!("the server answers {status}")));
            }
            _ => return Err(Failure::Refused(format!("the server answers {status}"))),
        };
        if status == StatusCode::OK
            && let Some(bytes) = number(&response, header::CONTENT_LENGTH)
            && bytes != total
        {
            return Err(Failure::Refused(format!(
                "it has {bytes} bytes where the published file has {total}"
            )));
        }
        self.keep_note(&response)
            .map_err(|error| self.local(&error))?;
        if come_from != have {
            // No ranges here, or another version: all of it comes.
            self.restart().map_err(|error| self.local(&error))?;
        }
        (self.opened.seek(SeekFrom::Start(come_from))).map_err(|error| self.local(&error))?;
        listener.begin(&self.file.name, self.url, come_from, total);
        self.body(response, come_from, listener)
    }

    fn request(&self, have: u64) -> Result<Response<Body>, Failure> {
        let mut request = self.client.agent.get(self.url);
        // The bytes as they are stored: sum and ranges are of those.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
            // From another place what comes is as good; the sum will tell.
            if let Some(version) = self
                .noted()
                .filter(|n| n.url == self.url)
                .and_then(|n| n.version)
            {
                request = request.header(header::IF_RANGE, version);
            }
        }
        request.call().map_err(|error| {
            let why = self.said(&error);
            match error {
                ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => Failure::Broken(why),
                // A server that accepts and hangs up, not one that isn't there.
                ureq::Error::Io(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof
                            | ErrorKind::ConnectionReset
                            | ErrorKind::ConnectionAborted
                            | ErrorKind::BrokenPipe
                    ) =>
                {
                    Failure::Broken(why)
                }
                ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                    Failure::Unreachable(why)
                }
                _ => Failure::Refused(why),
            }
        })
    }

    /// An error of the client in words.
    fn said(&self, error: &ureq::Error) -> String {
        match error {
            ureq::Error::HostNotFound => "no such host".into(),
            ureq::Error::Io(error) => format!("no connection ({error})"),
            ureq::Error::Timeout(_) => {
                format!("no answer for {} s", self.client.patience.as_secs_f64())
            }
            other => format!("no connection ({other})"),
        }
    }

    /// The body to the end of the file.
    fn body(
        &mut self,
        response: Response<Body>,
        from: u64,
        listener: &mut dyn Listener,
    ) -> Result<(), Failure> {
        let total = self.file.bytes;
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        let mut have = from;
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) if have == total => return Ok(()),
                Ok(0) => {
                    return Err(Failure::Broken(format!(
                        "the connection ended after {have} of {total} bytes"
                    )));
                }
                Ok(n) => n as u64,
                Err(error) => {
                    return Err(Failure::Broken(format!(
                        "the connection broke off after {have} of {total} bytes ({error})"
                    )));
                }
            };
            if have + n > total {
                return Err(Failure::Wrong(format!(
                    "it has more bytes than the {total} of the published file"
                )));
            }
            let written = self.opened.write_all(&buffer[..n as usize]);
            written.map_err(|error| self.local(&error))?;
            have += n;
            self.fetched.downloaded += n;
            listener.progress(have);
        }
    }

    fn noted(&self) -> Option<Note> {
        let text = fs::read(note_path(self.part)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps what the server says of the file's version, for a later request.
    fn keep_note(&self, response: &Response<Body>) -> std::io::Result<()> {
        let text = |name| response.headers().get(name)?.to_str().ok();
        // A weak tag may not stand in If-Range (RFC 9110, section 13.1.5).
        let strong = text(header::ETAG).filter(|tag| tag.starts_with('"'));
        let version = strong.or_else(|| text(header::LAST_MODIFIED));
        let note = Note {
            url: self.url.to_string(),
            version: version.map(str::to_string),
        };
        fs::write(note_path(self.part), serde_json::to_vec(&note)?)
    }
}

/// Where the bytes of a partial response begin, which is where they were asked for.
fn content_range(response: &Response<Body>, asked: u64, total: u64) -> Result<u64, Failure> {
    let value = response.headers().get(header::CONTENT_RANGE);
    let value = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let parsed = value.strip_prefix("bytes ").and_then(|value| {
        let (range, whole) = value.split_once('/')?;
        let first: u64 = range.split_once('-')?.0.parse().ok()?;
        Some((first, whole.parse::<u64>().ok()))
    });
    match parsed {
        Some((first, whole)) if first == asked && whole.is_none_or(|whole| whole == total) => {
            Ok(first)
        }
        Some((_, Some(whole))) if whole != total => Err(Failure::Refused(format!(
            "it has {whole} bytes where the published file has {total}"
        ))),
        _ => Err(Failure::Refused(format!(
            "the server answers with another part ({value:?}) than was asked for"
        ))),
    }
}

fn number(response: &Response<Body>, name: header::HeaderName) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}
