//! A small HTTP server on the loopback interface that misbehaves on request.
//!
//! It answers what a closure tells it to, over http or https, and stops when it is dropped. Everything in it is bounded:
//! connections, the size of a request, the requests of a connection.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failing test"
)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// How many connections a server takes in its life.
const MAXIMUM_CONNECTIONS: usize = 1000;
/// How many requests a connection may bring.
const MAXIMUM_REQUESTS: usize = 1000;
/// How large a request may be, in bytes.
const MAXIMUM_REQUEST_LENGTH: usize = 64 * 1024;
/// How many bytes come one by one at most.
const MAXIMUM_TRICKLE: usize = 10_000;

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// First and last byte of `Range: bytes=FIRST-LAST`; an open end is the largest number. The first one of several.
    pub fn range(&self) -> Option<(usize, usize)> {
        self.ranges().into_iter().next()
    }

    /// All that `Range: bytes=FIRST-LAST,FIRST-LAST` asks for. What is counted from the end is so of the largest file.
    pub fn ranges(&self) -> Vec<(usize, usize)> {
        self.ranges_of(usize::MAX)
    }

    /// The same of a file of `total` bytes, from whose end `-COUNT` counts.
    pub fn ranges_of(&self, total: usize) -> Vec<(usize, usize)> {
        let range = |text: &str| {
            let (first, last) = text.trim().split_once('-')?;
            if first.is_empty() {
                return Some((total.saturating_sub(last.parse().ok()?), total - 1));
            }
            let last = if last.is_empty() { usize::MAX } else { last.parse().ok()? };
            Some((first.parse().ok()?, last))
        };
        let list = self.header("Range").and_then(|text| text.strip_prefix("bytes="));
        list.into_iter().flat_map(|list| list.split(',')).filter_map(range).collect()
    }
}

/// What the server sends. Start with [`Self::bytes`] or [`Self::status`] and add misbehaviour.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<[u8]>,
    framing: Framing,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    FalseLength(usize),
    Chunks(usize),
    None,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    CutAfter(usize),
    StallAfter(usize),
    Trickle(Duration),
    Hang,
    HangUp,
    Garbage,
}

impl Answer {
    /// 200 and these bytes.
    pub fn bytes(body: impl Into<Arc<[u8]>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            framing: Framing::Length,
            end: End::Whole,
        }
    }

    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::bytes([]) }
    }

    /// 302 to another place.
    pub fn redirect(to: &str) -> Self {
        Self::status(302).header("Location", to)
    }

    /// The parts that the request asks for, or the whole where it does not.
    pub fn ranged(request: &Request, body: impl Into<Arc<[u8]>>) -> Self {
        let body = body.into();
        let (total, ranges) = (body.len(), request.ranges_of(body.len()));
        if ranges.len() < 2 {
            return Self::ranged_singly(request, body);
        }
        let mut parts = Vec::new();
        for (first, last) in ranges {
            let end = last.saturating_add(1).min(total);
            let head = format!(
                "\r\n--boundary\r\nContent-Type: a/b\r\nContent-Range: bytes {first}-{}/{total}\r\n\r\n",
                end - 1
            );
            parts.extend(head.into_bytes());
            parts.extend(&body[first..end]);
        }
        parts.extend(b"\r\n--boundary--\r\n");
        Self { status: 206, ..Self::bytes(parts) }
            .header("Content-Type", "multipart/byteranges; boundary=boundary")
    }

    /// The same of a server that sends the whole to whoever asks for several parts.
    pub fn ranged_singly(request: &Request, body: impl Into<Arc<[u8]>>) -> Self {
        let body = body.into();
        let [(first, last)] = request.ranges_of(body.len())[..] else {
            return Self::bytes(body).header("Accept-Ranges", "bytes");
        };
        let end = last.saturating_add(1).min(body.len());
        if first >= end {
            return Self::status(416).header("Content-Range", &format!("bytes */{}", body.len()));
        }
        let range = format!("bytes {first}-{}/{}", end - 1, body.len());
        Self { status: 206, ..Self::bytes(body.get(first..end).unwrap_or_default()) }
            .header("Content-Range", &range)
    }

    /// With another header; one of the same name is replaced.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another status.
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// In chunks of `size` bytes, without a length.
    pub fn chunked(self, size: usize) -> Self {
        assert!(size > 0);
        Self { framing: Framing::Chunks(size), ..self }
    }

    /// With a length that is not the one of the body. The connection is closed after the body.
    pub fn claim_length(self, length: usize) -> Self {
        Self { framing: Framing::FalseLength(length), ..self }
    }

    /// With neither length nor chunks: the end of the connection is the end of the body.
    pub fn without_length(self) -> Self {
        Self { framing: Framing::None, ..self }
    }

    /// The connection is closed after `count` bytes of the body.
    pub fn cut_after(self, count: usize) -> Self {
        Self { end: End::CutAfter(count), ..self }
    }

    /// Nothing more comes after `count` bytes of the body, and the connection stays.
    pub fn stall_after(self, count: usize) -> Self {
        Self { end: End::StallAfter(count), ..self }
    }

    /// The body comes byte by byte, with so much time before each.
    pub fn trickle(self, pace: Duration) -> Self {
        Self { end: End::Trickle(pace), ..self }
    }

    /// The body as it should arrive.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Nothing comes at all, not even a head, and the connection stays.
    pub fn hang() -> Self {
        Self { end: End::Hang, ..Self::status(200) }
    }

    /// The connection is closed without an answer.
    pub fn hang_up() -> Self {
        Self { end: End::HangUp, ..Self::status(200) }
    }

    /// Something that is not HTTP.
    pub fn garbage() -> Self {
        Self { end: End::Garbage, ..Self::status(200) }
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running server.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stopping: AtomicBool,
    requests: Mutex<Vec<Request>>,
    connections: Mutex<Vec<TcpStream>>,
}

impl HttpServer {
    /// Serves http.
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::run(None, Arc::new(handler))
    }

    /// Serves https with this certificate.
    pub fn start_tls(
        certificate: &TestCertificate,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&certificate.certificate).unwrap();
        acceptor.set_private_key(&certificate.key).unwrap();
        Self::run(Some(acceptor.build()), Arc::new(handler))
    }

    fn run(acceptor: Option<SslAcceptor>, handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            let mut threads = Vec::new();
            for stream in listener.incoming().take(MAXIMUM_CONNECTIONS) {
                if shared.stopping.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let Ok(copy) = stream.try_clone() else { continue };
                shared.connections.lock().unwrap().push(copy);
                let (acceptor, handler, shared) =
                    (acceptor.clone(), Arc::clone(&handler), Arc::clone(&shared));
                threads.push(thread::spawn(move || {
                    // A client that goes away is no fault of the server.
                    let _ = serve(&stream, acceptor.as_ref(), &*handler, &shared);
                    let _ = stream.shutdown(Shutdown::Both);
                }));
            }
            for stream in shared.connections.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            for thread in threads {
                let _ = thread.join();
            }
        });
        Self { address, scheme, state, thread: Some(thread) }
    }

    /// The URL of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state.connections.lock().unwrap().len()
    }

    /// Every request so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: &TcpStream,
    acceptor: Option<&SslAcceptor>,
    handler: &Handler,
    state: &State,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match acceptor {
        None => converse(&mut &*stream, stream, handler, state),
        Some(acceptor) => {
            let mut secure = acceptor.accept(stream.try_clone()?).map_err(io::Error::other)?;
            converse(&mut secure, stream, handler, state)?;
            let _ = secure.shutdown();
            Ok(())
        }
    }
}

fn converse(
    stream: &mut (impl Read + Write),
    connection: &TcpStream,
    handler: &Handler,
    state: &State,
) -> io::Result<()> {
    for _ in 0..MAXIMUM_REQUESTS {
        let Some(request) = read_request(stream)? else { return Ok(()) };
        state.requests.lock().unwrap().push(request.clone());
        let answer = handler(&request);
        let again = send(stream, &answer)?;
        match answer.end {
            End::Whole if again => (),
            End::StallAfter(_) | End::Hang => {
                // Silence until the client closes the connection, or the server stops.
                let _ = (&*connection).read(&mut [0; 1]);
                return Ok(());
            }
            End::Trickle(pace) => {
                // What would be read is the client's going away.
                connection.set_read_timeout(Some(pace))?;
                for byte in answer.body.iter().take(MAXIMUM_TRICKLE) {
                    if (&*connection).read(&mut [0; 1]).is_ok() {
                        break;
                    }
                    stream.write_all(&[*byte])?;
                    stream.flush()?;
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// The next request; none where the client has closed the connection.
fn read_request(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut text = Vec::new();
    let mut byte = [0; 1];
    while !text.ends_with(b"\r\n\r\n") {
        if text.len() >= MAXIMUM_REQUEST_LENGTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        text.extend(byte);
    }
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path)) = (first.next(), first.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), headers }))
}

/// Sends the answer as far as it goes; whether the connection can be used again.
fn send(stream: &mut impl Write, answer: &Answer) -> io::Result<bool> {
    match answer.end {
        End::Hang | End::HangUp => return Ok(false),
        End::Garbage => {
            stream.write_all(b"220 mail.example ESMTP\r\n")?;
            return Ok(false);
        }
        _ => (),
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status);
    match answer.framing {
        Framing::Length => head.push_str(&format!("Content-Length: {}\r\n", answer.body.len())),
        Framing::FalseLength(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
        Framing::Chunks(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::None => head.push_str("Connection: close\r\n"),
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let count = match answer.end {
        End::CutAfter(count) | End::StallAfter(count) => count.min(answer.body.len()),
        End::Trickle(_) => 0,
        _ => answer.body.len(),
    };
    let body = answer.body.get(..count).unwrap_or_default();
    match answer.framing {
        Framing::Chunks(size) => {
            for chunk in body.chunks(size) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            if matches!(answer.end, End::Whole) {
                stream.write_all(b"0\r\n\r\n")?;
            }
        }
        _ => stream.write_all(body)?,
    }
    stream.flush()?;
    Ok(matches!(answer.framing, Framing::Length | Framing::Chunks(_)))
}

/// A certificate authority of the test alone.
#[derive(Debug)]
pub struct TestAuthority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate of a server, with its key.
#[derive(Debug)]
pub struct TestCertificate {
    certificate: X509,
    key: PKey<Private>,
}

impl TestAuthority {
    /// A new authority called `name`.
    pub fn new(name: &str) -> Self {
        let key = new_key();
        let mut builder = certificate_builder(name, &key, Asn1Time::days_from_now(1).unwrap());
        let subject = subject(name);
        builder.set_issuer_name(&subject).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// The authority's certificate in PEM.
    pub fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    /// A certificate for a server called `name`, a host name or an IP address.
    pub fn issue(&self, name: &str) -> TestCertificate {
        self.issue_until(name, Asn1Time::days_from_now(1).unwrap())
    }

    /// A certificate for a server called `name` that ended long ago.
    pub fn issue_expired(&self, name: &str) -> TestCertificate {
        self.issue_until(name, Asn1Time::from_unix(1_000_000_000).unwrap())
    }

    fn issue_until(&self, name: &str, end: Asn1Time) -> TestCertificate {
        let key = new_key();
        let mut builder = certificate_builder(name, &key, end);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let mut names = SubjectAlternativeName::new();
        if name.parse::<Ipv4Addr>().is_ok() {
            names.ip(name)
        } else {
            names.dns(name)
        };
        let extension = names.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(extension).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        TestCertificate { certificate: builder.build(), key }
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn subject(name: &str) -> openssl::x509::X509Name {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    subject.build()
}

fn certificate_builder(name: &str, key: &PKey<Private>, end: Asn1Time) -> X509Builder {
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject(name)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(900_000_000).unwrap()).unwrap();
    builder.set_not_after(&end).unwrap();
    builder
}
