//! Kernels from a URL.

use super::*;

/// Starts an HTTP server that sends `answer` to `times` requests. Returns its URL.
fn serve(answer: Vec<u8>, times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(times) {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let _ = stream.write_all(&answer);
        }
    });
    format!("http://{address}/vmlinuz")
}

fn ok(body: &[u8], announced: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

#[test]
fn a_kernel_from_a_url_is_verified_against_its_digest() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let image = fs::read(&package().deb).unwrap();
    let sha256 = Digest::of(&image);
    let from = |url: String, sha256| pipeline.kernel(&KernelSource::Url { url, sha256 });
    let refused = |error: Error| (error.kind(), error.to_string());

    let url = serve(ok(&image, image.len()), 1);
    let wrong = Digest::of(b"another");
    let message = format!("{url}: digest mismatch: expected {wrong}, got {sha256}");
    assert_eq!(
        refused(from(url, wrong).unwrap_err()),
        (ErrorKind::Corrupt, message)
    );

    let url = serve(ok(&image[..1000], image.len()), 1);
    let error = from(url, sha256).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unreachable && error.retryable(),
        "{error}"
    );

    let url = serve(
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        1,
    );
    let message = format!("{url} returned status 404");
    assert_eq!(
        refused(from(url, sha256).unwrap_err()),
        (ErrorKind::NotFound, message)
    );

    let url = serve(ok(b"", 3 << 30), 1);
    let message = format!(
        "{url} exceeds the maximum kernel size of {} bytes",
        2_u64 << 30
    );
    assert_eq!(
        refused(from(url, sha256).unwrap_err()),
        (ErrorKind::Unsupported, message)
    );

    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/x", listener.local_addr().unwrap())
    };
    assert_eq!(
        from(closed, sha256).unwrap_err().kind(),
        ErrorKind::Unreachable
    );
    assert_eq!(
        fs::read_dir(dir.path().join("cas/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );

    let url = serve(ok(&image, image.len()), 1);
    let kernel = from(url.clone(), sha256).unwrap();
    assert_eq!(
        (kernel.digest, kernel.source.as_str()),
        (Digest::of(&package().vmlinux), url.as_str())
    );
    // The digest is in the store now; the server is gone and not contacted.
    assert_eq!(from(url, sha256).unwrap(), kernel);
}
