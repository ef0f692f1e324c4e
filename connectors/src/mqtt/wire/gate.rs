//! Keeps what arrives from waking this process while it would not be read anyway.
//!
//! A broker sends each message by itself, and each would wake a thread only to find that nobody reads just now. The
//! kernel can be told to say nothing before so many bytes are there (`SO_RCVLOWAT`), which no crate that is used here
//! has a call for.
#![expect(unsafe_code, reason = "setsockopt(SO_RCVLOWAT) has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use tokio::net::TcpStream;

/// While the gate is closed, nothing is said before so many bytes have come: less than the kernel's usual buffer.
const CLOSED_BYTES: libc::c_int = 32 << 10;

/// See the module's documentation.
pub(in super::super) struct Gate {
    /// The connection's socket, by a descriptor of its own.
    socket: OwnedFd,
    closed: bool,
}

impl Gate {
    pub(super) fn new(socket: &TcpStream) -> io::Result<Self> {
        Ok(Self { socket: socket.as_fd().try_clone_to_owned()?, closed: false })
    }

    /// Closes or opens it. Opening says at once what has come.
    pub(in super::super) fn set(&mut self, closed: bool) {
        if self.closed == closed {
            return;
        }
        self.closed = closed;
        // Others than Linux do not promise to say what has come when the number is lowered.
        if !cfg!(target_os = "linux") {
            return;
        }
        let bytes: libc::c_int = if closed { CLOSED_BYTES } else { 1 };
        let length = size_of_val(&bytes) as libc::socklen_t;
        // SAFETY: the descriptor is open as long as `self.socket` lives, and the kernel reads `length` bytes of `bytes`,
        // which lives through the call. A kernel that refuses leaves things as they are without a gate: it is only
        // about being woken less often.
        unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                std::ptr::from_ref(&bytes).cast(),
                length,
            );
        }
    }
}
