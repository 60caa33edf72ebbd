//! `explain --pki`: compares the status in the inventory with the decision of the gateway.

use countersign_testkit::{Echo, Gateway};

use super::Authority;
use super::waiting::{gateway, issue};
use crate::support::{BINARY, Run};

async fn explain(gateway: &Gateway, authority: &Authority, leaf: &str, more: &[&str]) -> Run {
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["explain", "--config"]);
    command.arg(gateway.config_file());
    command.arg("--pki").arg(authority.dir()).arg("--cert");
    command.arg(authority.path(&format!("issued/{leaf}.pem")));
    Run::of_async(command.args(more)).await
}

#[tokio::test]
async fn the_inventory_says_what_the_gateway_does_not_know_yet() {
    let authority = Authority::new();
    issue(&authority, "a");
    // Copies of the CRLs that are not updated.
    let stale = authority.home.path().join("stale");
    std::fs::create_dir(&stale).unwrap();
    for name in ["root.crl", "intermediate.crl"] {
        std::fs::copy(authority.path(&format!("crl/{name}")), stale.join(name)).unwrap();
    }
    let echo = Echo::start().await;
    let lists = format!("crls = [{:?}]\nrevocation = \"hard\"", stale.join("*.crl"));
    let gateway = gateway(&authority, &echo, &lists).await;
    let said = explain(&gateway, &authority, "a", &[]).await.done();
    assert!(said.stdout.contains("knows it: signed "), "{}", said.stdout);
    assert!(
        said.stdout.contains("(issue), profile peer, valid."),
        "{}",
        said.stdout
    );
    assert_eq!(said.stderr, "");

    let leaf = authority.path("issued/a.pem");
    authority
        .run(&[
            "revoke",
            "--cert",
            leaf.to_str().unwrap(),
            "--reason",
            "superseded",
        ])
        .done();
    let said = explain(&gateway, &authority, "a", &[]).await.done();
    assert!(said.stdout.contains("revoked since ") && said.stdout.contains("(superseded)"));
    assert!(said.stderr.contains("do not say so"), "{}", said.stderr);
    let said = explain(&gateway, &authority, "a", &["--json"]).await.done();
    assert_eq!(said.json()["inventory"]["status"], "revoked");
    assert_eq!(said.json()["inventory"]["profile"], "peer");

    std::fs::copy(
        authority.path("crl/intermediate.crl"),
        stale.join("intermediate.crl"),
    )
    .unwrap();
    let said = explain(&gateway, &authority, "a", &[]).await;
    assert_eq!(said.code, 3);
    assert!(
        said.stderr.starts_with("certificate-revoked"),
        "{}",
        said.stderr
    );
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);

    // The inventory of another authority does not contain the certificate.
    let other = Authority::new();
    std::fs::create_dir_all(other.path("issued")).unwrap();
    std::fs::copy(&leaf, other.path("issued/a.pem")).unwrap();
    let said = explain(&gateway, &other, "a", &["--json"]).await;
    assert!(said.json()["inventory"].is_null());
}
