//! The source's own connection to a broker: packets are read and written in bunches.
//!
//! The client library's event loop writes (and flushes) every acknowledgement by itself and hands over message by
//! message, which costs several times what the message itself does. Only its codecs are used here.
//!
//! * `stream`: TCP, with TLS or without.
//! * `codec`: packets of both versions of the protocol as bytes, and back.
//! * `handshake`: CONNECT and CONNACK.

mod codec;
mod handshake;
mod stream;

pub(super) use codec::{Codec, Message, Packet};
pub(super) use handshake::{Connected, connect};
