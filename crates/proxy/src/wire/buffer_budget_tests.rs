//! Tests with bodies of several callers that need more memory than the budget has.

use super::*;
use crate::identity::CallerName;

const LIMITS: BudgetLimits = BudgetLimits {
    max_total: 1000,
    share: Share::QUARTER,
};

fn caller(name: &str) -> ShareKey {
    ShareKey::of_caller(&CallerName::Dns(name.into()))
}

fn reason(outcome: Result<(), Refusal>) -> Option<ReasonCode> {
    outcome.err().map(|refusal| refusal.denial.reason)
}

#[test]
fn a_caller_that_is_alone_gets_nearly_all() {
    let budget = Arc::default();
    let mut body = BufferReservation::new(&budget, caller("mallory"));
    assert_eq!(reason(body.grow(1000, LIMITS)), None);
    assert_eq!(reason(body.grow(1, LIMITS)), Some(ReasonCode::Overloaded));
    drop(body);
    let mut bodies: Vec<_> = (0..9)
        .map(|_| BufferReservation::new(&budget, caller("mallory")))
        .collect();
    let mut grown = Vec::new();
    for (index, body) in bodies.iter_mut().enumerate() {
        let bytes = if index == 0 { 60 } else { 104 };
        grown.push(reason(body.grow(bytes, LIMITS)));
    }
    // The ninth body would leave too little memory for other callers. The budget therefore ends the
    // first body, which is the slowest because it has the fewest bytes.
    assert_eq!(grown, [None; 9]);
    assert_eq!(reason(bodies[0].complete()), Some(ReasonCode::CallerLimit));
    assert_eq!(reason(bodies[1].complete()), None);
}

#[tokio::test]
async fn the_caller_with_most_memory_loses_its_slowest_body() {
    let budget = Arc::default();
    let mut mallory: Vec<_> = (0..8)
        .map(|_| BufferReservation::new(&budget, caller("mallory")))
        .collect();
    for (index, body) in mallory.iter_mut().enumerate() {
        let bytes = if index == 3 { 10 } else { 120 };
        assert_eq!(reason(body.grow(bytes, LIMITS)), None);
    }
    let mut bob = BufferReservation::new(&budget, caller("bob"));
    assert_eq!(reason(bob.grow(200, LIMITS)), None);
    let refusal = mallory[3].ended().await;
    assert_eq!(refusal.denial.limit, Some(CallerLimit::BufferedBodies));
    assert_eq!(
        reason(mallory[3].grow(1, LIMITS)),
        Some(ReasonCode::CallerLimit)
    );
    // The budget never ends bob's body for a caller that uses more memory than bob.
    assert_eq!(
        reason(mallory[7].grow(500, LIMITS)),
        Some(ReasonCode::CallerLimit)
    );
    assert_eq!(reason(bob.complete()), None);
}

#[test]
fn everything_is_given_back_once() {
    let budget: Arc<BufferBudget> = Arc::default();
    let mut complete = BufferReservation::new(&budget, caller("a"));
    complete.grow(400, LIMITS).unwrap();
    complete.complete().unwrap();
    let mut reading = BufferReservation::new(&budget, caller("a"));
    reading.grow(100, LIMITS).unwrap();
    let mut ended = BufferReservation::new(&budget, caller("a"));
    ended.grow(100, LIMITS).unwrap();
    budget.lock().end(caller("a"), ended.id);
    assert_eq!(budget.lock().total, 500);
    drop((complete, reading, ended));
    let holders = budget.lock();
    assert_eq!((holders.total, holders.callers.len()), (0, 0));
}
