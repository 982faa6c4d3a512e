//! The HTTP shell: connections, limits, threads. It decides nothing.
//!
//! ```text
//! accept (at most so many) ─> head (in time) ─> address ─> access ─> body (in time, at most so long) ─> site, on a thread
//! ```
//!
//! Invariants: who is not let in is answered before a byte of the body is read; a request whose client goes away is
//! finished, since it may be a commit; a panic fails its request and nothing else.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, USER_AGENT, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use forebay_catalog::Catalog;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::access::{Access, Headers};
use super::error::Error;
use super::route::{Endpoint, Route, route};
use super::site::{Answer, Call, Site};
use crate::api::Actor;
use crate::limits::{
    REST_BODY_BYTES_MAX, REST_BODY_SECONDS_MAX, REST_CONNECTION_SECONDS_MAX, REST_CONNECTIONS_MAX, REST_HEAD_SECONDS_MAX,
    REST_LAST_SECONDS_MAX, REST_REQUESTS_MAX,
};

/// What is served, where, to whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port; 0 is any that is free.
    pub port: u16,
    /// Who is let in.
    pub access: Access,
    /// URI of the lake.
    pub lake: String,
    /// Author of commits.
    pub author: Actor,
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
}

struct Shared {
    site: Site,
    access: Access,
    /// Requests at work.
    work: Arc<Semaphore>,
}

impl Server {
    /// Opens the lake and listens. Who connects is answered by [`Server::run`].
    ///
    /// # Errors
    /// If the lake cannot be opened, the address cannot be used, or others would reach a server without a token.
    pub fn bind(options: Options) -> Result<Self, Error> {
        if matches!(options.access, Access::Open) && !options.host.is_loopback() {
            return Err(Error::OpenToAll { host: options.host.to_string() });
        }
        let address = SocketAddr::new(options.host, options.port);
        let failed = |source| Error::Listen { address, source };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("rest").enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let root = std::path::PathBuf::from(options.lake.strip_prefix("file://").unwrap_or(&options.lake));
        let site = Site {
            catalog: Catalog::open(&root.join("catalog"))?,
            tables_root: root.join("tables").display().to_string(),
            author: options.author,
            runtime: runtime.handle().clone(),
            loaded: Mutex::default(),
        };
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Shared { site, access: options.access, work: Arc::new(Semaphore::new(REST_REQUESTS_MAX)) };
        Ok(Self { listener, address, shared: Arc::new(shared), runtime })
    }

    /// `http://127.0.0.1:8181`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers until a signal ends it (SIGINT, SIGTERM), then the requests under way.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub fn run(self) -> Result<(), Error> {
        let Self { listener, address, shared, runtime } = self;
        let ended = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let failed = |source| Error::Listen { address, source };
            let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            let end = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            serve(listener, shared, end).await;
            Ok(())
        });
        runtime.shutdown_timeout(Duration::from_secs(REST_LAST_SECONDS_MAX));
        ended
    }
}

/// Accepts connections until `end`, and waits for the last ones.
async fn serve(listener: TcpListener, shared: Arc<Shared>, end: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(REST_CONNECTIONS_MAX));
    let (ending, is_ending) = watch::channel(false);
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (shared, is_ending) = (Arc::clone(&shared), is_ending.clone());
                    connections.spawn(async move {
                        connection(stream, shared, is_ending).await;
                        drop(place);
                    });
                }
                // Out of descriptors, say. A connection that ends makes room, and until then it is tried once a second.
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    let _ = timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepting => {}
        () = end => {}
    }
    drop(listener);
    let _ = ending.send(true);
    let last = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(Duration::from_secs(REST_LAST_SECONDS_MAX), last).await;
}

/// Serves one connection. It ends when its client ends it or is silent for too long, after its longest life, or with the server.
async fn connection(stream: TcpStream, shared: Arc<Shared>, mut is_ending: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, request.map(Body::new)).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(REST_HEAD_SECONDS_MAX));
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let is_over = tokio::select! {
        _ = serving.as_mut() => true,
        _ = is_ending.wait_for(|ending| *ending) => false,
        _ = timeout(Duration::from_secs(REST_CONNECTION_SECONDS_MAX), std::future::pending::<()>()) => false,
    };
    if !is_over {
        serving.as_mut().graceful_shutdown();
        let _ = timeout(Duration::from_secs(REST_LAST_SECONDS_MAX), serving).await;
    }
}

/// The answer to one request.
async fn respond(shared: &Arc<Shared>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let outcome = answer(shared, &head, body).await;
    let answer = outcome.unwrap_or_else(|error| {
        let (status, _) = error.status();
        if status >= 500 {
            tracing::error!(status, path = head.uri.path(), error = %forebay_types::Coded::report(&error), "a request failed");
        }
        Answer { status, body: error.body() }
    });
    let answer = if head.method == Method::HEAD { answer.without_body() } else { answer };
    let mut response = Response::builder().status(answer.status);
    if answer.status == 401 {
        response = response.header(WWW_AUTHENTICATE, "Bearer");
    }
    if !answer.body.is_empty() {
        response = response.header(CONTENT_TYPE, "application/json");
    }
    response.body(Body::from(answer.body)).expect("status and headers are ours")
}

async fn answer(shared: &Arc<Shared>, head: &Parts, body: Body) -> Result<Answer, Error> {
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let headers = Headers { authorization: text(AUTHORIZATION), origin: text(ORIGIN), host: text(HOST) };
    let is_token = head.method == Method::POST && head.uri.path().ends_with("/v1/oauth/tokens");
    if !is_token {
        shared.access.check(&headers)?;
    }
    let Route { at, endpoint } = route(head.method.as_str(), head.uri.path(), head.uri.query())?;
    let limit = if is_token { TOKEN_FORM_BYTES_MAX } else { REST_BODY_BYTES_MAX };
    let body = timeout(Duration::from_secs(REST_BODY_SECONDS_MAX), to_bytes(body, limit)).await;
    // The other cause is a connection that broke, which hears no answer.
    let body = body.map_err(|_| Error::TooSlow)?.map_err(|_| Error::TooLarge)?;
    if endpoint == Endpoint::Token {
        let (status, body) = shared.access.exchange(&headers, &String::from_utf8_lossy(&body));
        return Ok(Answer { status, body });
    }
    let call = Call { at, endpoint, body: body.into(), client: text(USER_AGENT).unwrap_or_default().to_owned() };
    let Ok(turn) = Arc::clone(&shared.work).acquire_owned().await else { return Err(Error::Busy { branch: call.at }) };
    let for_thread = Arc::clone(shared);
    let work = move || {
        // As long as the thread works, not as long as somebody waits for it.
        let _turn = turn;
        std::panic::catch_unwind(AssertUnwindSafe(|| for_thread.site.answer(&call)))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(answer)) => answer,
        _ => Err(crate::Error::Defect { op: "Iceberg REST".to_owned(), why: "a request panicked".to_owned() }.into()),
    }
}

/// Longest form with client credentials, in bytes. Anybody may send one.
const TOKEN_FORM_BYTES_MAX: usize = 16 << 10;
