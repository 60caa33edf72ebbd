//! Malformed requests from the test suite of llhttp. None of these requests may succeed. The data
//! is not part of the repository; see [`countersign_testkit::skipped`].

use std::sync::Arc;
use std::time::Duration;

use base64ct::Encoding as _;
use countersign_testkit::skipped::corpus;

use crate::support::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_malformed_request_of_the_corpus_succeeds() {
    let Some(folder) = corpus("http1") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let world = Arc::new(World::open().await);
    let mut tasks = tokio::task::JoinSet::new();
    for case in cases["cases"].as_array().unwrap().clone() {
        let world = Arc::clone(&world);
        tasks.spawn(async move {
            let raw = case["raw_base64"].as_str().unwrap();
            let raw = base64ct::Base64::decode_vec(raw).unwrap();
            let answer = world
                .client()
                .raw(&raw, Duration::from_secs(1))
                .await
                .unwrap();
            let good = answer
                .statuses()
                .iter()
                .filter(|status| (200..300).contains(*status))
                .count();
            (case, good, answer.text())
        });
    }
    let mut must_reject = 0;
    let mut wrong = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (case, good, text) = done.unwrap();
        if case["must_reject"] == true {
            must_reject += 1;
            let complete = case["complete_requests_before_error"].as_u64().unwrap_or(0);
            if good as u64 > complete {
                wrong.push(format!(
                    "{}: {good} requests succeeded, {complete} may: {}",
                    case["id"],
                    text.lines().next().unwrap_or_default()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(must_reject, 36, "not the corpus this test is about");
    assert_eq!(world.client().get("/healthy").await.unwrap().status, 200);
}
