//! The ceiling of the callback API's speed, for `cargo xtask bench`: what is left of it when only the kernel's part is
//! done.
//!
//! A bare axum handler on tokio's default runtime. It takes the same requests as the controller, reads a result as
//! JSON, writes it to a temporary file and gives that its name, or streams an upload to a file; with `--fsync` the file
//! is synced before it has its name and the directory after, as it must be where an answer is to outlive a loss of
//! power. Without a sync all of this happens on the runtime's own threads: nothing is faster, and the controller must
//! not do so, since a disk that stalls would stall everything else. A sync is waited for on a thread of its own, so
//! that the file system can join those that come at the same time.
//!
//! It leaves out all that the controller adds: tokens, admission, limits on bodies, pace and connections, a look at
//! whether the same report is there, descriptors instead of paths, a quota, syncs that are shared, the samples and
//! their export, what becomes of the node, and other replicas.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as PathOf, Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use clap::Parser;
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::task::{JoinError, spawn_blocking};

/// Takes posts as the callback API does, with nothing but what the kernel must do for them
#[derive(Debug, Parser)]
struct Arguments {
    /// The port on 127.0.0.1 to listen on
    #[arg(long)]
    port: u16,
    /// Where files go, named so that they are nobody else's
    #[arg(long)]
    directory: PathBuf,
    /// Sync each file before it has its name, and its directory after
    #[arg(long)]
    fsync: bool,
}

#[derive(Debug)]
struct Files {
    directory: PathBuf,
    /// To be synced.
    opened: File,
    fsync: bool,
    next: AtomicU64,
}

/// A file that has no name of its own yet.
struct Temporary {
    content: File,
    path: PathBuf,
}

impl Files {
    fn begin(&self) -> io::Result<Temporary> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("ceiling-{number}"));
        let content = File::create_new(&path)?;
        Ok(Temporary { content, path })
    }

    fn end(&self, temporary: Temporary, name: &str) -> io::Result<()> {
        if self.fsync {
            temporary.content.sync_all()?;
        }
        drop(temporary.content);
        fs::rename(temporary.path, self.directory.join(name))?;
        if self.fsync {
            self.opened.sync_all()?;
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut temporary = self.begin()?;
        temporary.content.write_all(content)?;
        self.end(temporary, name)
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    let listener = listener.tap_io(|stream| {
        // As the controller does it.
        let _ = stream.set_nodelay(true);
    });
    let files = Files {
        opened: File::open(&arguments.directory)?,
        directory: arguments.directory,
        fsync: arguments.fsync,
        next: AtomicU64::new(0),
    };
    let router = Router::new()
        .route("/report/{node}/{execution}/{token}/result", post(result))
        .route("/report/{node}/{execution}/{token}/file", post(file))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(files));
    axum::serve(listener, router).await
}

type Caller = PathOf<(String, String, String)>;
type Answer = Result<(), StatusCode>;

async fn result(
    State(files): State<Arc<Files>>,
    PathOf((node, ..)): Caller,
    body: Bytes,
) -> Answer {
    serde_json::from_slice::<serde_json::Value>(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let name = format!("ceiling-{node}.json");
    if files.fsync {
        joined(spawn_blocking(move || files.write(&name, &body)).await)
    } else {
        answer(files.write(&name, &body))
    }
}

async fn file(
    State(files): State<Arc<Files>>,
    PathOf((node, ..)): Caller,
    request: Request,
) -> Answer {
    let begun = files.begin();
    let mut temporary = begun.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let mut chunks = request.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| StatusCode::BAD_REQUEST)?;
        answer(temporary.content.write_all(&chunk))?;
    }
    let name = format!("ceiling-{node}.bin");
    joined(spawn_blocking(move || files.end(temporary, &name)).await)
}

fn joined(written: Result<io::Result<()>, JoinError>) -> Answer {
    answer(written.map_err(io::Error::other).flatten())
}

fn answer(written: io::Result<()>) -> Answer {
    written.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
