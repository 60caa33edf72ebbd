//! W3C Trace Context: continues a caller's trace, or begins a new trace.
//!
//! The gateway reports no spans. If the gateway added a span to the trace, this span would be the
//! parent of other spans, but would never be reported. The trace would then be broken. The gateway
//! therefore forwards the caller's `traceparent` unchanged. The audit line contains the trace
//! identifier.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::record::TraceId;
use crate::upstream::TraceContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length in bytes of a `traceparent` of version 00 (W3C Trace Context section 3.2.2).
const LENGTH: usize = 55;

/// Makes sure that a forwarded request has one valid `traceparent`. Keeps `tracestate` only if the
/// caller's `traceparent` is kept. `seed` returns the random identifier of a new trace. Returns the
/// identifier of the trace. Returns `None` if trace contexts are off, or if `seed` returns no
/// usable identifier.
pub(crate) fn propagate(
    headers: &mut HeaderMap,
    context: TraceContext,
    seed: impl FnOnce() -> Option<[u8; 16]>,
) -> Option<TraceId> {
    match context {
        TraceContext::Off => return None,
        TraceContext::Restart => {}
        TraceContext::Continue => {
            let mut lines = headers.get_all(&TRACEPARENT).iter();
            if let (Some(value), None) = (lines.next(), lines.next())
                && let Some(parent) = TraceParent::parse(value.as_bytes())
            {
                let (trace, rewritten) = (parent.trace, parent.as_version_00());
                if let Some(value) = rewritten {
                    headers.insert(TRACEPARENT, value);
                }
                return Some(trace);
            }
        }
    }
    headers.remove(TRACESTATE);
    let begun = seed().filter(|seed| *seed != [0; 16]).and_then(begin);
    match begun {
        Some((value, trace)) => {
            headers.insert(TRACEPARENT, value);
            Some(trace)
        }
        None => {
            headers.remove(TRACEPARENT);
            None
        }
    }
}

/// A valid `traceparent`.
struct TraceParent<'a> {
    /// The part of the received field that version 00 defines. It begins with the version number of
    /// the received field.
    known: &'a [u8],
    trace: TraceId,
    is_version_00: bool,
}

impl<'a> TraceParent<'a> {
    fn parse(value: &'a [u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let [version, trace, parent, flags] = fields(known)?;
        let is_version_00 = version == b"00";
        let zero = |field: &[u8]| field.iter().all(|digit| *digit == b'0');
        let further = rest.is_empty() || (!is_version_00 && rest.first() == Some(&b'-'));
        let valid = [version, trace, parent, flags]
            .iter()
            .all(|field| field.iter().all(|digit| is_hex(*digit)))
            && version != b"ff"
            && !zero(trace)
            && !zero(parent)
            && further;
        valid.then_some(())?;
        Some(Self {
            known,
            trace: TraceId::from_hex(trace.try_into().ok()?),
            is_version_00,
        })
    }

    /// Converts a field of a later version. Only the part that version 00 defines is forwarded (W3C
    /// Trace Context section 4.3). Returns `None` if the field already has version 00.
    fn as_version_00(&self) -> Option<HeaderValue> {
        if self.is_version_00 {
            return None;
        }
        let mut bytes = self.known.to_vec();
        bytes.get_mut(..2)?.copy_from_slice(b"00");
        HeaderValue::from_bytes(&bytes).ok()
    }
}

fn fields(known: &[u8]) -> Option<[&[u8]; 4]> {
    let mut fields = known.split(|byte| *byte == b'-');
    let all = [
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    ];
    let lengths = [2, 32, 16, 2];
    (fields.next().is_none() && all.iter().map(|field| field.len()).eq(lengths)).then_some(all)
}

const fn is_hex(digit: u8) -> bool {
    matches!(digit, b'0'..=b'9' | b'a'..=b'f')
}

/// Begins a new trace. The sampled flag is not set, because the services that report spans decide
/// about sampling.
fn begin(seed: [u8; 16]) -> Option<(HeaderValue, TraceId)> {
    let mut bytes = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let trace = bytes.get_mut(3..35)?;
    write_hex(trace, &seed);
    let id = TraceId::from_hex((&*trace).try_into().ok()?);
    // The span identifier is derived from the same random bytes as the trace identifier. It needs
    // no random bytes of its own, because the gateway makes only one span identifier for this
    // trace.
    let (high, low) = seed.split_at(8);
    let mut span = [0_u8; 8];
    for (byte, (high, low)) in span.iter_mut().zip(high.iter().zip(low)) {
        *byte = high ^ low;
    }
    if span == [0; 8] {
        span = [1; 8];
    }
    write_hex(bytes.get_mut(36..52)?, &span);
    Some((HeaderValue::from_bytes(&bytes).ok()?, id))
}

fn write_hex(to: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (place, digit) in to.iter_mut().zip(digits) {
        *place = DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn followed(parents: &[&str], context: TraceContext) -> (HeaderMap, Option<TraceId>) {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).unwrap());
        }
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        let trace = propagate(&mut headers, context, || Some([0xab; 16]));
        (headers, trace)
    }

    #[test]
    fn a_valid_trace_goes_on_unchanged() {
        let (headers, trace) = followed(&[VALID], TraceContext::Continue);
        assert_eq!(headers[TRACEPARENT], VALID);
        assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2);
        assert_eq!(trace.unwrap().as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn of_a_later_version_what_is_known_goes_on() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-ever";
        let (headers, _) = followed(&[later], TraceContext::Continue);
        assert_eq!(headers[TRACEPARENT], VALID);
        let (headers, _) = followed(&[later.split_at(55).0], TraceContext::Continue);
        assert_eq!(headers[TRACEPARENT], VALID);
    }

    #[test]
    fn anything_else_begins_a_new_trace() {
        let zeros = VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let no_parent = VALID.replace("00f067aa0ba902b7", &"0".repeat(16));
        let more = format!("{VALID}-00");
        let upper = VALID.to_ascii_uppercase();
        for parents in [
            &[][..],
            &[""],
            &["00"],
            &[VALID.split_at(54).0],
            &[&more],
            &[&upper],
            &[&zeros],
            &[&no_parent],
            &[&VALID.replace("00-4", "ff-4")],
            &[&VALID.replace("00-4", "0--4")],
            &[&VALID.replace("-01", "-0g")],
            &[&VALID.replace("00-4", "01-4").replace("-01", "-01.x")],
            &[VALID, VALID],
        ] {
            let (headers, trace) = followed(parents, TraceContext::Continue);
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
            assert!(headers.get(TRACESTATE).is_none(), "{parents:?}");
            assert_eq!(trace.unwrap().as_str(), "ab".repeat(16));
            let begun = headers[TRACEPARENT].as_bytes();
            assert!(TraceParent::parse(begun).is_some(), "{begun:?}");
        }
        let (headers, _) = followed(&[VALID], TraceContext::Restart);
        assert_ne!(headers[TRACEPARENT], VALID);
        let (headers, trace) = followed(&["x", "y"], TraceContext::Off);
        assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 2);
        assert!(trace.is_none());
    }

    proptest! {
        #[test]
        fn what_goes_on_is_always_valid(text in "[ -~]{0,70}", seed: [u8; 16]) {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_str(&text).unwrap());
            let trace = propagate(&mut headers, TraceContext::Continue, || Some(seed));
            prop_assert_eq!(trace.is_some(), headers.contains_key(TRACEPARENT));
            if let Some(value) = headers.get(TRACEPARENT) {
                prop_assert!(TraceParent::parse(value.as_bytes()).is_some());
            }
        }
    }
}
