//! The real client over TLS: private authorities, tokens, client certificates, and what is said where they do not
//! match.
//!
//! The server is the simulated API server behind TLS; it is asked through the controller's adapter, in real time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use controller::adapter::kube_cluster::KubeCluster;
use controller::ports::cluster::{Cluster as _, WatchEvent};
use controller::ports::error::{ClusterError, ClusterErrorKind};
use futures::StreamExt as _;
use http::StatusCode;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use simulator::apiserver::ApiServer;
use simulator::fleet::create_nodes;
use simulator::node::NodeShape;
use simulator::state::{Options, State};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

const NODES: u32 = 3;

/// A token file is read again within a minute.
const ROTATED_WITHIN: Duration = Duration::from_mins(2);

/// A certificate authority that nobody else knows.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate, key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    fn data(&self) -> String {
        BASE64_STANDARD.encode(self.certificate.pem())
    }
}

/// An API server over TLS on a port of its own.
struct Server {
    address: SocketAddr,
    /// The token that it accepts; none where it asks for a client certificate instead.
    token: Arc<Mutex<Option<String>>>,
}

impl Server {
    async fn with_token(authority: &Authority, token: &str) -> Self {
        let identity = authority.issue("127.0.0.1");
        let config = ServerConfig::builder().with_no_client_auth();
        Self::start(config, identity, Some(token.to_owned())).await
    }

    /// Clients show a certificate of the same authority.
    async fn with_client_certificates(authority: &Authority) -> Self {
        let identity = authority.issue("127.0.0.1");
        let verifier = WebPkiClientVerifier::builder(Arc::new(authority.roots()));
        let config = ServerConfig::builder().with_client_cert_verifier(verifier.build().unwrap());
        Self::start(config, identity, None).await
    }

    async fn start(
        config: tokio_rustls::rustls::ConfigBuilder<
            ServerConfig,
            tokio_rustls::rustls::server::WantsServerCert,
        >,
        identity: Identity,
        token: Option<String>,
    ) -> Self {
        let key = PrivatePkcs8KeyDer::from(identity.key.serialize_der());
        let config = config
            .with_single_cert(vec![identity.certificate.der().clone()], key.into())
            .unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let token = Arc::new(Mutex::new(token));
        let accepted = Arc::clone(&token);
        let state = State::new(&Options::default());
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let api = ApiServer::new(state, Arc::new(move || now));
        create_nodes(&api, NODES, &NodeShape::default()).unwrap();
        let router = api.router().layer(from_fn(move |request, next| {
            authenticate(Arc::clone(&accepted), request, next)
        }));
        let listener = TlsListener {
            tcp,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        tokio::spawn(async { axum::serve(listener, router).await });
        Self { address, token }
    }

    fn accept(&self, token: &str) {
        *self.token.lock().unwrap() = Some(token.to_owned());
    }

    /// The adapter by a kubeconfig with this user and these keys of its cluster.
    async fn cluster(&self, cluster: &Value, user: &Value) -> KubeCluster {
        let mut cluster = cluster.clone();
        cluster["server"] = format!("https://{}", self.address).into();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "c", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options);
        let client = KubeCluster::client(config.await.unwrap()).unwrap();
        KubeCluster::new(client, "default", "demo")
    }
}

async fn authenticate(
    accepted: Arc<Mutex<Option<String>>>,
    request: Request,
    next: Next,
) -> Response {
    let wanted = accepted
        .lock()
        .unwrap()
        .as_ref()
        .map(|token| format!("Bearer {token}"));
    let given = request.headers().get(AUTHORIZATION);
    if wanted.is_none_or(|wanted| given.is_some_and(|given| *given == wanted)) {
        return next.run(request).await;
    }
    // As a real API server answers.
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "Unauthorized",
        "reason": "Unauthorized", "code": 401,
    });
    (StatusCode::UNAUTHORIZED, axum::Json(status)).into_response()
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust us hangs up: the next one may.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn nodes(cluster: &KubeCluster) -> Result<usize, ClusterError> {
    cluster.list_nodes().await.map(|list| list.nodes.len())
}

async fn check_usable(cluster: &KubeCluster) {
    assert_eq!(nodes(cluster).await.unwrap(), NODES as usize);
    // A stream, which stays open.
    let first = std::pin::pin!(cluster.watch_pods()).next().await;
    assert!(
        matches!(&first, Some(Ok(WatchEvent::Restarted(pods))) if pods.is_empty()),
        "{first:?}"
    );
}

#[tokio::test]
async fn a_private_authority_and_a_token_in_the_kubeconfig_are_enough() {
    let authority = Authority::new();
    let server = Server::with_token(&authority, "the-token").await;
    let trust = json!({"certificate-authority-data": authority.data()});
    let cluster = server.cluster(&trust, &json!({"token": "the-token"})).await;
    check_usable(&cluster).await;
}

#[tokio::test]
async fn a_client_certificate_is_enough() {
    let authority = Authority::new();
    let server = Server::with_client_certificates(&authority).await;
    let client = authority.issue("batch-job-controller");
    let user = json!({
        "client-certificate-data": BASE64_STANDARD.encode(client.certificate.pem()),
        "client-key-data": BASE64_STANDARD.encode(client.key.serialize_pem()),
    });
    let trust = json!({"certificate-authority-data": authority.data()});
    check_usable(&server.cluster(&trust, &user).await).await;

    let anonymous = server.cluster(&trust, &json!({})).await;
    let error = nodes(&anonymous).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_authority_is_an_error_that_says_what_to_check() {
    let server = Server::with_token(&Authority::new(), "the-token").await;
    let trust = json!({"certificate-authority-data": Authority::new().data()});
    let cluster = server.cluster(&trust, &json!({"token": "the-token"})).await;
    let error = nodes(&cluster).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("invalid peer certificate")
            && message.contains("check certificate-authority-data"),
        "{message}"
    );
    // The authority may be about to change, so that it is tried again.
    assert_eq!(error.kind, ClusterErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_of_another_name_is_an_error_that_names_both() {
    let authority = Authority::new();
    let config = ServerConfig::builder().with_no_client_auth();
    let server = Server::start(config, authority.issue("other.example"), None).await;
    let trust = json!({"certificate-authority-data": authority.data()});
    let error = nodes(&server.cluster(&trust, &json!({})).await).await;
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("127.0.0.1") && message.contains("other.example"),
        "{message}"
    );
}

#[tokio::test]
async fn a_refused_token_is_an_error_that_says_what_to_check() {
    let authority = Authority::new();
    let server = Server::with_token(&authority, "the-token").await;
    let trust = json!({"certificate-authority-data": authority.data()});
    for user in [json!({"token": "another"}), json!({})] {
        let error = nodes(&server.cluster(&trust, &user).await)
            .await
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("Unauthorized: ") && message.contains("check the token"),
            "{message}"
        );
        // A token that has just been replaced is read again.
        assert_eq!(error.kind, ClusterErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn files_that_a_service_account_mounts_are_read_and_a_rotated_token_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let authority = Authority::new();
    std::fs::write(path("ca.crt"), authority.certificate.pem()).unwrap();
    std::fs::write(path("token"), "first").unwrap();
    let server = Server::with_token(&authority, "first").await;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let trust = json!({"certificate-authority": text(&path("ca.crt"))});
    let user = json!({"tokenFile": text(&path("token"))});
    let cluster = server.cluster(&trust, &user).await;
    check_usable(&cluster).await;

    if std::env::var_os("SLOW_TESTS").is_none() {
        println!(
            "skipped: the client reads a token file at most once a minute; SLOW_TESTS=1 waits for it"
        );
        return;
    }
    server.accept("second");
    std::fs::write(path("token"), "second").unwrap();
    let rotated = async {
        while nodes(&cluster).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(ROTATED_WITHIN, rotated).await.unwrap();
}
