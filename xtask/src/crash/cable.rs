//! A TCP relay to a server of this machine that can be cut: what is open breaks off, what is opened is closed at once.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

/// How much is passed on at a time.
const BUFFER_BYTES: usize = 16 << 10;

/// A relay that runs until the command ends. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Cable {
    address: SocketAddr,
    ends: Arc<Mutex<Ends>>,
}

#[derive(Debug, Default)]
struct Ends {
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Cable {
    /// Relays connections to a free port of 127.0.0.1 to `server`.
    ///
    /// # Errors
    /// If there is no free port.
    pub(super) fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let cable = Self {
            address: listener.local_addr()?,
            ends: Arc::default(),
        };
        let relay = cable.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Whatever fails here closes the connection, which is all that its client needs to know.
                let _ = relay.connect(client, server);
            }
        });
        Ok(cable)
    }

    /// Where it begins.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn cut(&self) {
        let mut ends = self.lock();
        ends.is_cut = true;
        for stream in ends.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn mend(&self) {
        self.lock().is_cut = false;
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
        let mut ends = self.lock();
        if ends.is_cut {
            return Ok(());
        }
        let server = TcpStream::connect(server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        ends.open.extend([client.try_clone()?, server.try_clone()?]);
        let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(|| pass_on(from_client, server));
        thread::spawn(|| pass_on(from_server, client));
        Ok(())
    }
}

/// Until one side ends; then the other ends too.
fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a byte and waits for its echo.
    fn echoes(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
    }

    #[test]
    fn a_cable_passes_on_until_it_is_cut_and_again_when_it_is_mended() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            for stream in server.incoming().flatten() {
                let back = stream.try_clone().unwrap();
                thread::spawn(|| pass_on(stream, back));
            }
        });
        let cable = Cable::to(address).unwrap();
        let connect = || TcpStream::connect(cable.address()).unwrap();
        let mut open = connect();
        assert!(echoes(&mut open));
        cable.cut();
        assert!(!echoes(&mut open));
        assert!(!echoes(&mut connect()));
        cable.mend();
        assert!(echoes(&mut connect()));
    }
}
