//! Tests of `composition.rs`.

use std::net::IpAddr;

use super::*;
use crate::authn::{Presented, RequestAddresses};
use crate::identity::{ApiKeyUse, CallerName, MethodSet};
use crate::now_or_later::NowOrLater;

use Method::{ApiKey, Token};
use Says::{Name, No, Nothing};

/// An authenticator that always returns the configured outcome.
#[derive(Debug)]
struct Fixed(Method, Says);

#[derive(Debug, Clone, Copy)]
enum Says {
    Name(&'static str),
    Nothing,
    No(ReasonCode),
}

impl Fixed {
    fn outcome(&self) -> Outcome {
        match self.1 {
            Nothing => Outcome::NotApplicable,
            No(reason) => Outcome::Denied(Denial::new(reason, "no")),
            Name(name) => {
                let principal = Principal::named(CallerName::from_api_key(name).unwrap(), 7);
                Outcome::Authenticated(principal.with_api_key(ApiKeyUse {
                    name: name.into(),
                    id: "id".into(),
                    expires: None,
                }))
            }
        }
    }
}

impl Authenticator for Fixed {
    fn method(&self) -> Method {
        self.0
    }

    fn authenticate<'a>(&'a self, _: &'a Credentials<'a>) -> NowOrLater<'a, Outcome> {
        if self.0 == Token {
            return NowOrLater::Later(Box::pin(async { self.outcome() }));
        }
        NowOrLater::Now(self.outcome())
    }

    fn recheck(&self, _: &Credentials<'_>, _: &Principal, _: bool) -> Outcome {
        self.outcome()
    }

    fn rules(&self) -> [u8; 32] {
        [1; 32]
    }

    fn challenge(&self, reason: ReasonCode, _: &Resource<'_>) -> Option<String> {
        Some(format!("{} {reason}", self.0.as_str()))
    }
}

fn set(methods: &[Method]) -> MethodSet {
    methods.iter().copied().collect()
}

async fn ask(
    authentication: Authentication,
    says: &[(Method, Says)],
) -> Result<String, AuthnDenial> {
    let each: Vec<Box<dyn Authenticator>> = says
        .iter()
        .map(|(method, says)| Box::new(Fixed(*method, *says)) as Box<dyn Authenticator>)
        .collect();
    let presented = Presented::default();
    let credentials = Credentials {
        proof: None,
        presented: &presented,
        query: None,
        addresses: RequestAddresses {
            caller: Some(IpAddr::from([127, 0, 0, 1])),
            connection: IpAddr::from([127, 0, 0, 1]),
        },
        now: 7,
    };
    Authenticators::new(authentication, each)
        .authenticate(&credentials)
        .await
        .map(|principal| principal.caller().to_string())
}

#[tokio::test]
async fn under_all_each_method_counts() {
    let all = Authentication::All(set(&[Token, ApiKey]));
    let good = ask(all, &[(Token, Name("a")), (ApiKey, Name("a"))]).await;
    assert_eq!(good.unwrap(), "api-key:a");
    for (token, key, by) in [
        (Nothing, Name("a"), Token),
        (Name("a"), Nothing, ApiKey),
        (Nothing, Nothing, ApiKey),
    ] {
        let refused = ask(all, &[(Token, token), (ApiKey, key)])
            .await
            .unwrap_err();
        assert_eq!(refused.denial.reason, ReasonCode::TokenMissing);
        assert_eq!(refused.by, Some(by));
    }
}

#[tokio::test]
async fn under_any_a_bad_credential_refuses_whatever_else_is_good() {
    let any = Authentication::Any(set(&[Token, ApiKey]));
    for says in [
        [(Token, Name("a")), (ApiKey, Nothing)],
        [(Token, Nothing), (ApiKey, Name("a"))],
    ] {
        assert_eq!(ask(any, &says).await.unwrap(), "api-key:a");
    }
    let expired = No(ReasonCode::TokenExpired);
    for (says, by) in [
        ([(Token, expired), (ApiKey, Name("a"))], Token),
        ([(Token, Name("a")), (ApiKey, expired)], ApiKey),
        ([(Token, expired), (ApiKey, Nothing)], Token),
    ] {
        let refused = ask(any, &says).await.unwrap_err();
        assert_eq!(refused.denial.reason, ReasonCode::TokenExpired);
        assert_eq!(refused.by, Some(by));
    }
    let nothing = ask(any, &[(Token, Nothing), (ApiKey, Nothing)]).await;
    assert_eq!(nothing.unwrap_err().denial.reason, ReasonCode::TokenMissing);
}

#[tokio::test]
async fn credentials_that_name_different_callers_are_refused() {
    let any = Authentication::Any(set(&[Token, ApiKey]));
    let refused = ask(any, &[(Token, Name("a")), (ApiKey, Name("b"))]).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.denial.reason, ReasonCode::CallerNotAllowed);
    assert_eq!(refused.by, None);
}

#[test]
fn only_the_method_at_fault_names_an_error() {
    let each: Vec<Box<dyn Authenticator>> = vec![
        Box::new(Fixed(Token, Nothing)),
        Box::new(Fixed(ApiKey, Nothing)),
    ];
    let all = Authenticators::new(Authentication::Any(set(&[Token, ApiKey])), each);
    let challenges = |by, reason| {
        let denial = Denial::new(reason, "no");
        let resource = Resource {
            authority: "a.example",
            path: "/",
        };
        all.challenges(&AuthnDenial { by, denial }, &resource)
    };
    assert_eq!(
        challenges(Some(Token), ReasonCode::TokenExpired),
        ["api-key token-missing", "token token-expired"]
    );
    assert_eq!(
        challenges(Some(Token), ReasonCode::TokenScope),
        ["token token-scope"]
    );
    assert!(challenges(None, ReasonCode::CallerNotAllowed).is_empty());
    assert!(challenges(Some(Token), ReasonCode::KeysUnavailable).is_empty());
}
