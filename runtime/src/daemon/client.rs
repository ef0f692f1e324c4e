//! The little that the command line needs of HTTP: one request to a daemon on this machine.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Sends an empty POST; the status and the body of the answer.
pub(crate) async fn post(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("the answer is no HTTP"))?;
    Ok((status, body.to_owned()))
}
