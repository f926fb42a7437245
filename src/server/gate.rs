//! What every call of ours passes before it is read: not while stopping, not too many, not past its deadline. Health and
//! reflection pass freely. Counts and times what passed.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tonic::{Code, Status, body::Body, codegen::http};
use tower::{Layer, Service};

use super::{
    metrics::Metrics,
    status::{self, Problem},
};

/// Calls in work, and whether new ones are taken.
pub struct Gate {
    in_flight: AtomicUsize,
    /// How many of them there are of each kind.
    of_kind: [AtomicUsize; 3],
    /// Most calls that answer once, and most that are streams: who holds many idle streams shuts nobody else out.
    max: usize,
    closed: AtomicBool,
    emptied: Notify,
    metrics: Arc<Metrics>,
}

impl Gate {
    pub fn new(max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let (in_flight, of_kind, closed) = (0.into(), Default::default(), false.into());
        Arc::new(Gate { in_flight, of_kind, max, closed, emptied: Notify::new(), metrics })
    }

    /// Takes no new call from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Waits until no call is in work.
    pub async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.in_flight() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Counts work that outlives its call, such as a commit nobody waits for.
    pub fn hold(self: &Arc<Self>) -> Pass {
        self.enter(Kind::Background)
    }

    /// Counts a stream, from its opening to its end.
    pub fn stream(self: &Arc<Self>) -> Result<Pass, Problem> {
        self.limited(Kind::Stream)
    }

    fn admit(self: &Arc<Self>) -> Result<Pass, Problem> {
        let pass = self.limited(Kind::Call)?;
        if self.closed.load(Ordering::SeqCst) { Err(status::shutting_down()) } else { Ok(pass) }
    }

    fn limited(self: &Arc<Self>, kind: Kind) -> Result<Pass, Problem> {
        let pass = self.enter(kind);
        if self.of_kind[kind as usize].load(Ordering::SeqCst) > self.max {
            return Err(status::too_many_requests(self.max));
        }
        Ok(pass)
    }

    fn enter(self: &Arc<Self>, kind: Kind) -> Pass {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.of_kind[kind as usize].fetch_add(1, Ordering::SeqCst);
        Pass { gate: self.clone(), kind }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Call,
    Stream,
    Background,
}

/// One piece of work inside; dropping it leaves.
pub struct Pass {
    gate: Arc<Gate>,
    kind: Kind,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.of_kind[self.kind as usize].fetch_sub(1, Ordering::SeqCst);
        if self.gate.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.gate.emptied.notify_waiters();
        }
    }
}

#[derive(Clone)]
pub struct GateLayer(pub Arc<Gate>);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.0.clone() }
    }
}

#[derive(Clone)]
pub struct Gated<S> {
    inner: S,
    gate: Arc<Gate>,
}

type Response = http::Response<Body>;
type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answer {
        let Some(method) = self.gate.metrics.method(request.uri().path()) else {
            return Box::pin(self.inner.call(request));
        };
        let start = Instant::now();
        let metrics = self.gate.metrics.clone();
        let timeout = timeout(request.headers());
        let answer = match self.gate.admit() {
            Err(refused) => return ready(metrics, method, start, refused.into()),
            Ok(_) if timeout.is_some_and(|timeout| timeout.is_zero()) => {
                return ready(metrics, method, start, status::deadline_exceeded().into());
            }
            Ok(pass) => {
                if let Some(deadline) = timeout.and_then(|timeout| start.checked_add(timeout)) {
                    request.extensions_mut().insert(Deadline(deadline));
                }
                let answer = self.inner.call(request);
                async move {
                    let answer = answer.await;
                    drop(pass);
                    answer
                }
            }
        };
        Box::pin(async move {
            let response = match timeout {
                None => answer.await?,
                Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                    Ok(response) => response?,
                    Err(_) => Status::from(status::deadline_exceeded()).into_http(),
                },
            };
            let response = in_our_words(response);
            metrics.answered(method, code(&response), start.elapsed());
            Ok(response)
        })
    }
}

fn ready(metrics: Arc<Metrics>, method: usize, start: Instant, refused: Status) -> Answer {
    metrics.answered(method, refused.code(), start.elapsed());
    Box::pin(std::future::ready(Ok(refused.into_http())))
}

/// A message that tonic could not take never reaches our code: its status is translated here.
fn in_our_words(response: Response) -> Response {
    if !matches!(code(&response), Code::OutOfRange | Code::Internal | Code::ResourceExhausted) {
        return response;
    }
    match Status::from_header_map(response.headers()) {
        Some(status) if status.details().is_empty() => status::of_transport(status).into_http(),
        _ => response,
    }
}

/// A reply with a status in its headers failed; otherwise the status follows the messages.
fn code(response: &Response) -> Code {
    match response.headers().get(Status::GRPC_STATUS) {
        Some(status) => Code::from_bytes(status.as_bytes()),
        None => Code::Ok,
    }
}

/// The `grpc-timeout` header: at most eight digits and a unit.
/// When the caller stops waiting; an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

impl Deadline {
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Instant> {
        request.extensions().get::<Deadline>().map(|deadline| deadline.0)
    }
}

fn timeout(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tonic_types::StatusExt as _;

    use super::*;

    const PATH: &str = "/firn.v1.Points/Query";

    /// A service that never answers, and drops what it was given when it is dropped.
    #[derive(Clone)]
    struct Silent;

    impl Service<http::Request<Body>> for Silent {
        type Response = Response;
        type Error = Infallible;
        type Future = Answer;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Answer {
            Box::pin(std::future::pending())
        }
    }

    fn gated(max: usize) -> Gated<Silent> {
        GateLayer(Gate::new(max, Metrics::new())).layer(Silent)
    }

    fn request(timeout: Option<&str>) -> http::Request<Body> {
        let mut request = http::Request::post(PATH).body(Body::empty()).unwrap();
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        request
    }

    async fn reason(answer: Answer) -> (Code, String) {
        let response = answer.await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        (status.code(), status.get_error_details().error_info().unwrap().reason.clone())
    }

    #[tokio::test]
    async fn a_passed_deadline_is_said_and_the_work_is_dropped() {
        let mut gated = gated(10);
        for timeout in ["0S", "1n", "1m"] {
            let (code, reason) = reason(gated.call(request(Some(timeout)))).await;
            assert_eq!((code, reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{timeout}");
        }
        assert_eq!(gated.gate.in_flight(), 0);
    }

    #[tokio::test]
    async fn one_too_many_is_told_to_come_again() {
        let mut gated = gated(2);
        let held = [gated.call(request(None)), gated.call(request(None))];
        assert_eq!(reason(gated.call(request(None))).await, (Code::ResourceExhausted, "TOO_MANY_REQUESTS".to_owned()));
        drop(held);
        let mut freed = gated.call(request(None));
        let polled = poll_fn(|cx| Poll::Ready(freed.as_mut().poll(cx).is_ready())).await;
        assert!(!polled, "it was admitted, so it waits for the silent service");
    }

    #[test]
    fn idle_streams_shut_out_streams_only() {
        let gate = Gate::new(2, Metrics::new());
        let held = [gate.stream().ok().unwrap(), gate.stream().ok().unwrap()];
        assert_eq!(gate.stream().err().unwrap().reason, "TOO_MANY_REQUESTS");
        assert!(gate.admit().is_ok());
        assert_eq!(gate.in_flight(), 2);
        drop(held);
        assert!(gate.stream().is_ok());
    }

    #[tokio::test]
    async fn a_closed_gate_empties() {
        let mut gated = gated(2);
        let held = gated.call(request(None));
        gated.gate.close();
        assert_eq!(reason(gated.call(request(None))).await, (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
        assert_eq!(gated.gate.in_flight(), 1);
        drop(held);
        gated.gate.empty().await;
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        let check = |text: &str, expected: Option<Duration>| {
            let headers = [("grpc-timeout".parse().unwrap(), text.parse().unwrap())].into_iter().collect();
            assert_eq!(timeout(&headers), expected, "{text:?}");
        };
        check("2H", Some(Duration::from_secs(7200)));
        check("3M", Some(Duration::from_secs(180)));
        check("99999999S", Some(Duration::from_secs(99_999_999)));
        check("5m", Some(Duration::from_millis(5)));
        check("5u", Some(Duration::from_micros(5)));
        for bad in ["", "5", "S", "123456789S", "-1S", "5x", "5 S"] {
            check(bad, None);
        }
    }
}
