//! Responses as registries, object stores and the proxies before them send them: headers, encodings
//! and redirects that are unusual, and that Go's client, and so docker and podman, takes.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use microagent_cas::Digest;
use microagent_pipeline::{Error, ErrorKind, Reference};
use microagent_tests::image::Layout;
use microagent_tests::registry::Registry;
use microagent_tests::{certificate, or_skip};
use serde_json::json;

use crate::auth::build_with;
use crate::scripted_server::{Request, ScriptedServer, answer};
use crate::support::{TestDir, build, chain, layer};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A small image with one layer.
struct Image {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Config,
    Layer,
}

impl Image {
    /// The layer is compressed or not.
    fn new(is_compressed: bool) -> Image {
        let tar = layer("seq 1 20000 >file", &[]);
        let config = json!({ "os": "linux", "architecture": "amd64", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar).to_string()] } });
        let config = config.to_string().into_bytes();
        let (layer, suffix) = match is_compressed {
            true => (gzip(&tar), "+gzip"),
            false => (tar, ""),
        };
        let blob = |media_type: String, bytes: &[u8]| {
            json!({ "mediaType": media_type, "size": bytes.len(),
                "digest": Digest::of(bytes).to_string() })
        };
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
            "config": blob("application/vnd.oci.image.config.v1+json".into(), &config),
            "layers": [blob(format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &layer)] });
        let manifest = manifest.to_string().into_bytes();
        Image {
            manifest,
            config,
            layer,
        }
    }

    /// What a path names.
    fn content(&self, path: &str) -> Option<(Kind, &[u8])> {
        let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
        match path.strip_prefix("/v2/app/")?.split_once('/')? {
            ("manifests", name) if name == "1" || name == digest(&self.manifest) => {
                Some((Kind::Manifest, &self.manifest))
            }
            ("blobs", name) if name == digest(&self.config) => Some((Kind::Config, &self.config)),
            ("blobs", name) if name == digest(&self.layer) => Some((Kind::Layer, &self.layer)),
            _ => None,
        }
    }
}

/// A response with these header lines.
fn response(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Builds the image from a server that answers with `respond` to requests for what it has.
fn build_from(
    image: Image,
    respond: impl Fn(Kind, &[u8], &Request) -> Vec<u8> + Send + 'static,
) -> Result<(), Error> {
    let server = ScriptedServer::start(move |_, request| match image.content(&request.path) {
        Some((kind, body)) => respond(kind, body, request),
        None => NOT_FOUND.as_bytes().to_vec(),
    });
    build(&TestDir::new(), &format!("{}/app:1", server.address)).map(drop)
}

#[track_caller]
fn assert_built(what: &str, result: Result<(), Error>) {
    result.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
}

#[test]
fn each_form_of_a_header_is_taken() {
    let many: String = (0..2000).map(|n| format!("X-Policy-{n}: a\r\n")).collect();
    let cases = [
        (
            "folded",
            "X-Long: a\r\n b\r\n\tc\r\nContent-Type:\r\n application/json\r\n",
        ),
        (
            "invalid lines",
            "X (y): z\r\nX-Odd : a\r\nX-None\r\nX-Latin: \u{e9}\r\n",
        ),
        ("content type", "Content-Type: text/html; charset=utf-8\r\n"),
        ("no digest", "Docker-Content-Digest: none\r\n"),
        (
            "another digest",
            "Docker-Content-Digest: sha256:0000000000000000000000000000000000000000000000000000000000000000\r\n",
        ),
        ("identity", "Content-Encoding: identity\r\n"),
        ("long", &format!("X-Policy: {}\r\n", "a".repeat(200_000))),
        ("many", &many),
    ];
    for (what, headers) in cases {
        let headers = headers.to_owned();
        let built = build_from(Image::new(true), move |_, body, _| response(&headers, body));
        assert_built(what, built);
    }
    type Rewrite = fn(&str) -> String;
    let rewrites: [(&str, Rewrite); 4] = [
        ("line feeds", |head| head.replace("\r\n", "\n")),
        ("no reason", |head| head.replace(" OK\r\n", "\r\n")),
        ("interim", |head| {
            let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
            format!("HTTP/1.1 100 Continue\r\n\r\n{interim}{head}")
        }),
        ("version 1.0", |head| {
            let length = head.find("Content-Length").unwrap();
            head[..length].replace("HTTP/1.1", "HTTP/1.0") + "\r\n"
        }),
    ];
    for (what, rewrite) in rewrites {
        let built = build_from(Image::new(true), move |_, body, _| {
            let head = response("", body);
            let head = &head[..head.len() - body.len()];
            let head = rewrite(std::str::from_utf8(head).unwrap());
            [head.as_bytes(), body].concat()
        });
        assert_built(what, built);
    }
}

#[test]
fn content_may_come_in_chunks_and_compressed() {
    let chunked = |headers: &str, body: &[u8]| {
        let mut out = format!(
            "HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        .into_bytes();
        for chunk in body.chunks(700) {
            out.extend(format!("{:X};a=\"b\"\r\n", chunk.len()).bytes());
            out.extend_from_slice(chunk);
            out.extend(b"\r\n");
        }
        out.extend(b"0\r\nX-Trailer: a\r\n\r\n");
        out
    };
    for is_compressed in [true, false] {
        let image = || Image::new(is_compressed);
        assert_built(
            "chunks",
            build_from(image(), move |_, body, _| chunked("", body)),
        );
        let both = "Content-Encoding: gzip\r\n";
        let built = build_from(image(), move |_, body, _| chunked(both, &gzip(body)));
        assert_built("chunks and gzip", built);
        for name in ["gzip", "GZIP", "x-gzip"] {
            let header = format!("Content-Encoding: {name}\r\n");
            let built = build_from(image(), move |_, body, _| response(&header, &gzip(body)));
            assert_built(name, built);
        }
        // Storage that keeps the header of an upload: the content is not compressed once more.
        let built = build_from(image(), move |_, body, _| response(both, body));
        assert_built("header alone", built);
    }
    // Cut off: the rest is a range of the layer, not of its compressed form.
    for is_range_known in [true, false] {
        let cuts = AtomicUsize::new(0);
        let built = build_from(Image::new(false), move |kind, body, request| {
            let whole = response("Content-Encoding: gzip\r\n", &gzip(body));
            if kind == Kind::Layer && cuts.fetch_add(1, Ordering::SeqCst) == 0 {
                return whole[..whole.len() - 1000].to_vec();
            }
            let range = request.range.as_deref().unwrap_or("bytes=0-");
            let from: usize = range[6..].trim_end_matches('-').parse().unwrap();
            if from == 0 {
                return whole;
            }
            let (size, last) = (body.len(), body.len() - 1);
            let range = format!("Content-Range: bytes {from}-{last}/{size}\r\n");
            let part = match is_range_known {
                true => response(&range, &body[from..]),
                false => response(
                    &format!("Content-Encoding: gzip\r\n{range}"),
                    &gzip(body)[from.min(100)..],
                ),
            };
            [b"HTTP/1.1 206", &part[12..]].concat()
        });
        assert_built("range", built);
    }
}

#[test]
fn what_a_server_sends_is_bounded() {
    let bomb = gzip(&vec![b' '; 64 << 20]);
    let error = build_from(Image::new(true), move |_, _, _| {
        response("Content-Encoding: gzip\r\n", &bomb)
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error
            .to_string()
            .ends_with("sent more than 4194304 bytes for manifests/1"),
        "{error}"
    );
    let long = format!("X: {}\r\n", "a".repeat(2 << 20));
    let error = build_from(Image::new(true), move |_, body, _| response(&long, body));
    let text = chain(&error.unwrap_err());
    assert!(text.contains("response header is too big"), "{text}");
}

/// Resolves `app:1` at a server that redirects requests for its manifest to what `target` returns
/// for the number of requests before; `None` is the manifest. Returns the paths of the requests.
fn redirected(
    target: impl Fn(usize) -> Option<&'static [u8]> + Send + 'static,
) -> Result<Vec<String>, Error> {
    let image = Image::new(true);
    let count = AtomicUsize::new(0);
    let server = ScriptedServer::start(move |_, request| {
        let config = image
            .content(&request.path)
            .filter(|(kind, _)| *kind == Kind::Config);
        if let Some((_, config)) = config {
            return response("", config);
        }
        match target(count.fetch_add(1, Ordering::SeqCst)) {
            Some(target) => [
                b"HTTP/1.1 302 Found\r\nLocation: ",
                target,
                b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            ]
            .concat(),
            None => response("", &image.manifest),
        }
    });
    let reference: Reference = format!("{}/app:1", server.address).parse().unwrap();
    TestDir::new().pipeline().resolve(&reference)?;
    let requests = server.requests().into_iter().map(|request| request.path);
    Ok(requests
        .filter(|path| !path.contains("/blobs/"))
        .skip(1)
        .collect())
}

#[test]
fn each_form_of_a_location_is_followed() {
    let cases: [(&'static [u8], &str); 8] = [
        (b"?X=%2Fa&b=c", "/v2/app/manifests/1?X=%2Fa&b=c"),
        (b"./x", "/v2/app/manifests/x"),
        (b"../../x/../y#z", "/v2/y"),
        (b"/a b?n={c}|\"d\"", "/a%20b?n=%7Bc%7D%7C%22d%22"),
        (b"/x?n=\xe9\xc3\xa9", "/x?n=%E9%C3%A9"),
        (b"/x?100%", "/x?100%"),
        (b"/x?", "/x?"),
        // To the same URL, once: the answer depends on what was asked before.
        (b"/v2/app/manifests/1", "/v2/app/manifests/1"),
    ];
    for (location, expected) in cases {
        let name = String::from_utf8_lossy(location);
        let paths = redirected(move |count| (count == 0).then_some(location));
        assert_eq!(paths.unwrap(), [expected], "{name}");
    }
    let nowhere = redirected(|count| (count == 0).then_some(&b""[..]));
    let nowhere = nowhere.unwrap_err().to_string();
    assert!(nowhere.ends_with("returned status 302"), "{nowhere}");
    let hops = redirected(|count| (count < 9).then_some(&b"/x"[..]));
    assert_eq!(hops.unwrap().len(), 9);
}

#[test]
fn a_registry_on_the_loopback_interface_may_use_tls() {
    let directory = tempfile::tempdir().unwrap();
    let made = certificate::self_signed_authority(directory.path(), "localhost");
    let (certificate, key) = or_skip!(made);
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::with_certificate(&certificate, &key));
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let (_, port) = registry.address().rsplit_once(':').unwrap();
    let reference = format!("localhost:{port}/app:1");
    let trusted = [("SSL_CERT_FILE", &*certificate)];
    assert_eq!(build_with(&trusted, &reference), "built");
    let refused = build_with(&[], &reference);
    assert!(refused.contains("cannot be trusted"), "{refused}");

    // Other errors are reported as they are.
    let document = r#"{"errors":[{"code":"X","message":"use https"}]}"#;
    let server = ScriptedServer::start(move |_, _| answer(400, &[], document));
    let error = build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.ends_with("returned status 400 (use https)"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 1);
}
