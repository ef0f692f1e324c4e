//! A TCP proxy between the daemon and a service, for faults on the network.
//!
//! Clients connect to [`Proxy::address`]. A Kafka client learns its broker's own address from the first answer and goes
//! around the proxy after that, unless the broker advertises the proxy's address; MQTT and HTTP stay.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes pass, so much later.
    Forward(Duration),
    /// Connections are closed; new ones are closed at once.
    Cut,
    /// Nothing passes and nothing is closed: a half-open connection.
    Stall,
}

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect to.
    pub address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Forwards connections to `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("127.0.0.1 has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(watch::Sender::new(State::Forward(Duration::ZERO)));
        let accepting = tokio::spawn(accept(listener, target.to_owned(), state.clone()));
        Self { address, state, accepting }
    }

    /// Closes all connections and refuses new ones until [`Proxy::resume`].
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets nothing pass, and closes nothing, until [`Proxy::resume`].
    pub fn stall(&self) {
        self.state.send_replace(State::Stall);
    }

    /// Holds what passes back for so long.
    pub fn delay(&self, delay: Duration) {
        self.state.send_replace(State::Forward(delay));
    }

    /// All is well again.
    pub fn resume(&self) {
        self.state.send_replace(State::Forward(Duration::ZERO));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: String, state: Arc<watch::Sender<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        if *state.borrow() == State::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(&target).await else { continue };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::spawn(forward(client_read, server_write, state.subscribe()));
        tokio::spawn(forward(server_read, client_write, state.subscribe()));
    }
}

/// One direction of a connection. Both ends are closed when this returns, so the other direction ends too.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = state.wait_for(|state| *state == State::Cut) => return Ok(()),
        };
        if read == 0 {
            return to.shutdown().await;
        }
        let now = match state.wait_for(|state| *state != State::Stall).await {
            Ok(now) => *now,
            Err(_) => return Ok(()),
        };
        match now {
            State::Forward(delay) if !delay.is_zero() => tokio::time::sleep(delay).await,
            State::Cut => return Ok(()),
            State::Forward(_) | State::Stall => {}
        }
        to.write_all(&buffer[..read]).await?;
    }
}
