//! What a call answers when it fails.

use std::{fmt, time::Duration};

use tonic::Code;
use tonic_types::StatusExt as _;

/// A call that failed, or a server that could not be reached (`Unavailable`, reason `NOT_CONNECTED`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// A stable name in UPPER_SNAKE; empty if the server named none.
    pub reason: String,
    pub message: String,
    /// Which fields of the request were wrong, and how.
    pub fields: Vec<FieldViolation>,
    /// When the same call may succeed.
    pub retry_after: Option<Duration>,
}

/// One wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Such as `points[3].vectors["image"].packed`.
    pub field: String,
    pub description: String,
}

impl Error {
    pub(crate) fn not_connected(address: &str, detail: impl fmt::Display) -> Self {
        Error {
            code: Code::Unavailable,
            reason: "NOT_CONNECTED".to_owned(),
            message: format!("no server at {address}: {detail}"),
            fields: Vec::new(),
            retry_after: None,
        }
    }

    /// A reply that lacks what the protocol promises.
    pub(crate) fn incomplete(what: &str) -> Self {
        Error {
            code: Code::Internal,
            reason: "INCOMPLETE_REPLY".to_owned(),
            message: format!("the server's reply has no {what}"),
            fields: Vec::new(),
            retry_after: None,
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let violation = |v: &tonic_types::FieldViolation| FieldViolation {
            field: v.field.clone(),
            description: v.description.clone(),
        };
        Error {
            code: code(&status),
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            fields: violations.iter().map(violation).collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}

/// tonic calls a deadline that passed on our side a cancellation.
fn code(status: &tonic::Status) -> Code {
    let first = std::error::Error::source(status);
    let is_late = std::iter::successors(first, |cause| cause.source()).any(|cause| cause.is::<tonic::TimeoutExpired>());
    if is_late { Code::DeadlineExceeded } else { status.code() }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        let is_said = |v: &FieldViolation| self.message.contains(v.field.as_str());
        for violation in self.fields.iter().filter(|v| !is_said(v)) {
            write!(f, "\n  {}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_status_keeps_its_details() {
        let mut details = ErrorDetails::with_error_info("WRONG_DIMENSION", "firn", [("a".to_owned(), "b".to_owned())]);
        details.add_bad_request_violation("query.vector", "expected 3 dimensions, received 2");
        details.set_retry_info(Some(Duration::from_millis(40)));
        let error = Error::from(Status::with_error_details(Code::InvalidArgument, "bad vector", details));
        assert_eq!(error.code, Code::InvalidArgument);
        assert_eq!(error.reason, "WRONG_DIMENSION");
        assert_eq!(error.retry_after, Some(Duration::from_millis(40)));
        assert_eq!(error.fields[0].field, "query.vector");
        assert_eq!(
            error.to_string(),
            "bad vector (WRONG_DIMENSION)\n  query.vector: expected 3 dimensions, received 2"
        );
    }

    #[test]
    fn a_bare_status_is_an_error_too() {
        let error = Error::from(Status::unavailable("gone"));
        assert_eq!((error.code, error.to_string().as_str()), (Code::Unavailable, "gone"));
    }
}
